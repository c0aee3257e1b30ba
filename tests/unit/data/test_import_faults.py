"""Pauses that overlap, events without a value, videos that were cut, and damage in the middle."""

from pathlib import Path

import av
import numpy as np
import pytest

from import_toys import video_at
from playloom.actions.codec import SLOT_NAMES
from playloom.data.importing import build
from playloom.data.importing.build import import_recordings
from playloom.data.importing.files import video_pictures, video_times
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import ResourceError

OPTIONS = ImportOptions(frame_size=(12, 16), split="train")
TIMES = [index / 20 for index in range(60)]


def spans_of(folder: Path, log: str, ending: str = ".csv") -> list[tuple[int, int]]:
    """First step and length of the clips of a video of three seconds."""
    video_at(folder / "in" / "a.mp4", TIMES, [40] * len(TIMES)).with_suffix(ending).write_text(log, encoding="utf-8")
    dataset, _ = import_recordings(folder / "in", folder / "out", OPTIONS)
    return [(span.meta["first"], span.length) for span in dataset.spans]


def test_a_menu_is_open_until_it_is_closed_whatever_the_window_does(tmp_path):
    """The focus came back while the menu was still open, and its input was taken for play."""
    events = "0.1,space,1\n0.5,paused,1\n0.8,focus,0\n1.2,focus,1\n2,paused,0\n"
    assert spans_of(tmp_path / "events", f"time,key,down\n{events}") == [(0, 5), (20, 10)]
    rows = "".join(f"{row / 4},{row % 2},{int(4 <= row < 8)},1\n" for row in range(13))
    assert spans_of(tmp_path / "rows", f"time,space,paused,focus\n{rows}") == [(0, 10), (20, 10)]


@pytest.mark.parametrize(
    ("ending", "log"),
    [
        (".csv", "time,key,event\n7,video_start,\n7.5,space,down\n8,space,up\n"),
        (
            ".jsonl",
            '{"t": 7, "key": "video_start"}\n{"t": 7.5, "key": "space", "down": 1}\n'
            '{"t": 8, "key": "space", "down": 0}\n',
        ),
    ],
)
def test_the_start_of_the_video_needs_no_value(tmp_path, ending, log):
    assert spans_of(tmp_path, log, ending) == [(0, 30)]
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    held_T = dataset.actions_FA[:, SLOT_NAMES.index("button_A")]
    assert np.flatnonzero(held_T).tolist() == [5, 6, 7, 8, 9]


def test_a_video_that_was_cut_without_encoding_begins_at_its_first_shown_picture(tmp_path):
    """As by `ffmpeg -ss 1.3 -c copy`: the pictures before the cut are in the file, and are not shown."""
    whole = video_at(tmp_path / "whole.mp4", TIMES, [2 * index for index in range(60)])
    with (
        av.open(str(whole)) as source,
        av.open(str(tmp_path / "cut.mp4"), "w", options={"avoid_negative_ts": "disabled"}) as cut,
    ):
        stream = source.streams.video[0]
        target, start = cut.add_stream_from_template(stream), int(1.3 / stream.time_base)
        for packet in source.demux(stream):
            if packet.dts is not None:
                packet.pts, packet.dts, packet.stream = packet.pts - start, packet.dts - start, target
                cut.mux(packet)
    shown = [time for time, _ in video_pictures(tmp_path / "cut.mp4")]
    assert len(shown) == 34 and video_times(tmp_path / "cut.mp4") == pytest.approx(shown)


def test_a_recording_that_is_damaged_in_the_middle_is_left_out_whole(tmp_path):
    """Its first clip was kept by one process but not by workers, and the second call did not say that it is missing."""
    times = [*TIMES[:20], *(2 + time for time in TIMES[:40])]
    for name in "abc":
        path = video_at(tmp_path / "in" / f"{name}.mp4", times, [2 * index for index in range(60)])
        path.with_suffix(".csv").write_text("time,key,down\n0.05,space,1\n2.5,space,0\n", encoding="utf-8")
    with av.open(str(tmp_path / "in" / "b.mp4")) as container:
        packets = sorted((packet.pos, packet.size) for packet in container.demux(video=0) if packet.size)
    content = bytearray((tmp_path / "in" / "b.mp4").read_bytes())
    for place, size in packets[40:]:
        content[place : place + size] = b"\xff" * size
    (tmp_path / "in" / "b.mp4").write_bytes(content)
    for _ in range(2):
        skipped: list[str] = []
        dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, on_skip=skipped.append)
        assert len(skipped) == 1 and "b.mp4" in skipped[0]
    assert [(span.meta["take"], span.start, span.length) for span in dataset.spans] == [
        ("a.mp4", 0, 10),
        ("a.mp4", 10, 20),
        ("c.mp4", 30, 10),
        ("c.mp4", 40, 20),
    ]
    (tmp_path / "in" / "b.mp4").unlink()
    without, _ = import_recordings(tmp_path / "in", tmp_path / "without", OPTIONS)
    assert (dataset.frames_FHWC == without.frames_FHWC).all()


def test_mouse_movement_in_a_menu_does_not_set_the_scale_of_the_camera(tmp_path):
    """300 counts in 0.1 s in a menu were full stick, so that the turns of the game, of 10 counts, were rest."""
    rows = [f"{index / 20 + 0.01},,,{150 if 20 <= index < 40 else 5}" for index in range(60)]
    rows[20:20], rows[41:41] = ["1,paused,1,"], ["2,paused,0,"]
    assert spans_of(tmp_path, "time,key,down,dx\n" + "\n".join(rows)) == [(0, 10), (20, 10)]
    dataset, notes = import_recordings(tmp_path / "in", tmp_path / "again", OPTIONS)
    assert "mouse: 10 counts in 0.1 s are full stick; 0.0% of the steps are clipped" in notes
    assert (dataset.actions_FA[:, SLOT_NAMES.index("right_stick_x")] == 10).all()


def test_a_killed_worker_ends_the_import_and_the_same_command_continues(tmp_path, monkeypatch):
    """The recordings after it were skipped as damaged, and the dataset was finished without them."""
    for name in "abc":
        video = video_at(tmp_path / "in" / f"{name}.mp4", TIMES, [40] * len(TIMES))
        video.with_suffix(".csv").write_text("time,key,down\n0.1,space,1\n")

    def killed_at_the_second(function, jobs, **parallel):
        yield function(*jobs[0])
        raise ResourceError("a worker process ended before its work was done")

    skipped: list[str] = []
    with monkeypatch.context() as patch, pytest.raises(ResourceError, match="a worker process ended"):
        patch.setattr(build, "map_ordered", killed_at_the_second)
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, workers=2, on_skip=skipped.append)
    assert (tmp_path / "out" / "part-index.json").exists()
    assert len(import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS).dataset.spans) == 3
    assert not skipped
