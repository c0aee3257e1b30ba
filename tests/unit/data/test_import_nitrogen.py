"""Labels of NitroGen beside a video, written here by the fields of its dataset card."""

import json
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from import_toys import check_a_change_is_noticed, levels_of, named_controls, video_at
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import RecordingError

OPTIONS = ImportOptions(frame_size=(12, 16), split="train")
BUTTONS = (
    *("back", "dpad_down", "dpad_left", "dpad_right", "dpad_up", "east", "guide", "left_shoulder", "left_thumb"),
    *("left_trigger", "north", "right_shoulder", "right_thumb", "right_trigger", "south", "start", "west"),
)


def row(pressed=(), left=(0.0, 0.0), right=(0.0, 0.0)) -> dict:
    return {**{name: int(name in pressed) for name in BUTTONS}, "j_left": list(left), "j_right": list(right)}


def chunk_at(folder: Path, rows: list[dict], start: float = 0.0) -> Path:
    """A chunk of 2 s with 30 rows a second; the controller is drawn in the lower right quarter."""
    folder.mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(rows), folder / "actions_raw.parquet")
    video = {"resolution": [720, 1280], "video_id": "v1", "start_time": start, "duration": 2.0, "url": "https://a.test"}
    content = {"chunk_size": 60, "original_video": video, "bbox_controller_overlay": [640, 360, 640, 360]}
    (folder / "metadata.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


def play() -> list[dict]:
    rows = [row() for _ in range(60)]
    rows[0:15] = [row(["south", "left_shoulder"], left=(0.0, -1.0)) for _ in range(15)]  # -y is up
    rows[31] = row(["right_trigger", "dpad_left"], right=(1.0, 0.0))
    return rows


def video(path: Path, seconds: float) -> None:
    times = [k / 30 for k in range(round(seconds * 30))]
    video_at(path, times, [20 + 4 * int(time * 10 + 1e-6) for time in times])


@pytest.mark.parametrize("name", ["v1_chunk_0003/any.mp4", "v1_chunk_0003.mp4"])
def test_the_video_of_a_chunk_and_its_mask(tmp_path, name):
    folder = chunk_at(tmp_path / "in" / "v1" / "v1_chunk_0003", play(), start=60.0)
    video(folder.parent / name, 2.0)
    assert [(recording.format, recording.path) for recording in find_recordings(tmp_path, OPTIONS)] == [
        ("nitrogen", folder)
    ]
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    step = lambda *on: [float(index in on) for index in range(20)]  # noqa: E731
    held = named_controls(dataset)
    assert held.pop("right_stick_x")[10] > 0
    assert held == {
        "left_stick_y": step(*range(5)),
        "button_A": step(*range(5)),
        "skill_1": step(*range(5)),
        "trigger_RT": step(10),
        "dpad_left": step(10),
    }
    frames = dataset.frames_FHWC
    assert not frames[:, 7:, 9:].any() and frames[:, :5].min() > 10
    assert [round((level - 20) / 4) for level in levels_of(frames[:, :5])] == list(range(20))
    check_a_change_is_noticed(
        [folder / "actions_raw.parquet", folder / "metadata.json", folder.parent / name],
        tmp_path / "in",
        tmp_path / "out",
        OPTIONS,
    )


def test_a_chunk_is_cut_from_the_whole_video(tmp_path):
    folder = chunk_at(tmp_path / "in" / "v1" / "v1_chunk_0001", play(), start=2.0)
    video(folder.parent / "v1.mp4", 5.0)
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert [round((level - 20) / 4) for level in levels_of(dataset.frames_FHWC[:, :5])] == list(range(20, 40))
    assert named_controls(dataset)["button_A"] == [1] * 5 + [0] * 15


def test_labels_without_a_video_are_named(tmp_path):
    chunk_at(tmp_path / "in" / "v1_chunk_0001", play())
    with pytest.raises(RecordingError, match=r"v1_chunk_0001 has no video; put it into that folder, or v1\.mp4"):
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)


def test_chunks_of_one_video_go_to_one_split(tmp_path):
    for name, count in (("v1", 3), ("v2", 2), ("v3", 1)):
        for number in range(count):
            folder = chunk_at(tmp_path / "in" / name / f"{name}_chunk_{number:04d}", play())
            video(folder / "a.mp4", 2.0)
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", ImportOptions(frame_size=(12, 16)))
    splits = {span.meta["take"]: span.meta["split"] for span in dataset.spans}
    assert [split for _, split in sorted(splits.items())] == ["train"] * 5 + ["validation"]
