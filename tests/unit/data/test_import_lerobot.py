"""Datasets of LeRobot, written here with PyArrow and PyAV by their documented layout."""

import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from import_toys import check_a_change_is_noticed, levels_of, named_controls, video_at
from playloom.actions.controller import CONTROLS
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import RecordingError

FPS = 20
OPTIONS = ImportOptions(frame_size=(12, 16), split="train")
LENGTHS = (10, 16)
KEY = "observation.images.screen"


def info(version: str, names: object, **extra) -> dict:
    v3 = version == "v3.0"
    files = "chunk-{chunk_index:03d}/file-{file_index:03d}"
    one = "episode_{episode_index:06d}"
    return {
        "codebase_version": version,
        "fps": FPS,
        "chunks_size": 1000,
        "total_episodes": len(LENGTHS),
        "data_path": f"data/{files}.parquet" if v3 else f"data/chunk-{{episode_chunk:03d}}/{one}.parquet",
        "video_path": f"videos/{{video_key}}/{files}.mp4"
        if v3
        else f"videos/chunk-{{episode_chunk:03d}}/{{video_key}}/{one}.mp4",
        "features": {
            KEY: {"dtype": "video", "shape": [48, 64, 3], "names": ["height", "width", "channels"]},
            "action": {"dtype": "float32", "shape": [3], "names": names},
            "observation.state": {"dtype": "float32", "shape": [2], "names": {"motors": ["health", "Ammo"]}},
            "next.reward": {"dtype": "float32", "shape": [1], "names": None},
            "next.done": {"dtype": "bool", "shape": [1], "names": None},
            **extra,
        },
    }


def rows(episode: int) -> list[dict]:
    """Action 0 is 1 in the last rows of episode 0, action 1 in every row of episode 1, action 2 in its row 5."""
    length = LENGTHS[episode]
    return [
        {
            "episode_index": episode,
            "frame_index": row,
            "index": row + sum(LENGTHS[:episode]),
            "timestamp": np.float32(row / FPS),
            "task_index": 0,
            "action": [float(not episode and row >= 8), float(episode), float(row == 5)],
            "observation.state": [100.0 - row, 7.0],
            "next.reward": 0.5 if row < length - 1 else 10.0,
            "next.done": row == length - 1,
        }
        for row in range(length)
    ]


def write_rows(path: Path, table: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    parquet.write_table(pa.Table.from_pylist(table), path)


def v3_at(root: Path, names: object = None) -> Path:
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info("v3.0", names)), encoding="utf-8")
    write_rows(root / "data/chunk-000/file-000.parquet", [row for k in range(2) for row in rows(k)])
    episodes = [
        {
            "episode_index": k,
            "length": LENGTHS[k],
            "data/chunk_index": 0,
            "data/file_index": 0,
            f"videos/{KEY}/chunk_index": 0,
            f"videos/{KEY}/file_index": 0,
            f"videos/{KEY}/from_timestamp": sum(LENGTHS[:k]) / FPS,
            f"videos/{KEY}/to_timestamp": sum(LENGTHS[: k + 1]) / FPS,
            "stats/action/mean": [0.0, 0.0, 0.0],
        }
        for k in range(2)
    ]
    write_rows(root / "meta/episodes/chunk-000/file-000.parquet", episodes)
    pictures = sum(LENGTHS)
    levels = [20 + 8 * k for k in range(pictures)]
    video_at(root / f"videos/{KEY}/chunk-000/file-000.mp4", [k / FPS for k in range(pictures)], levels)
    return root


def mapping_at(folder: Path) -> str:
    path = folder / "mine.toml"
    path.write_text(
        '[controls]\nleft_stick_y = { action_0 = 1 }\nbutton_A = "action_1"\nbutton_B = "action_2"', encoding="utf-8"
    )
    return str(path)


def columns(dataset) -> dict[str, list[float]]:
    return {name: dataset.column(name).tolist() for name in dataset.state_columns}


def test_v3_has_several_episodes_in_one_video_with_rewards_and_states(tmp_path):
    v3_at(tmp_path / "in" / "set")
    options = ImportOptions(frame_size=(12, 16), split="train", mapping=(mapping_at(tmp_path),))
    found = [(recording.format, recording.path.name) for recording in find_recordings(tmp_path / "in", options)]
    assert found == [("lerobot", "episode_000000"), ("lerobot", "episode_000001")]
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", options)
    assert [(span.meta["take"], span.length) for span in dataset.spans] == [
        ("set/episode_000000", 5),
        ("set/episode_000001", 8),
    ]
    picture = [*range(0, 10, 2), *range(10, 26, 2)]  # every second of the video's, which has 26 in all
    assert [round((level - 20) / 8) for level in levels_of(dataset.frames_FHWC)] == picture
    assert named_controls(dataset) == {
        "left_stick_y": [0] * 4 + [1] + [0] * 8,
        "button_A": [0] * 5 + [1] * 8,
        "button_B": [float(step in (2, 7)) for step in range(13)],
    }
    assert columns(dataset) == {
        "ammo": [7] * 13,
        "health": [100 - 2 * k for k in range(5)] + [100 - 2 * k for k in range(8)],
        "reward": [1] * 4 + [10.5] + [1] * 7 + [10.5],
        "terminated": [0] * 4 + [1] + [0] * 7 + [1],
    }
    files = [path for part in ("data", "videos") for path in (tmp_path / "in" / "set" / part).rglob("file-*")]
    check_a_change_is_noticed(files, tmp_path / "in", tmp_path / "out", options)


def test_v2_has_a_file_for_each_episode(tmp_path):
    root = tmp_path / "in"
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(info("v2.1", ["forward", "Key.space", "x"])), encoding="utf-8")
    lines = [json.dumps({"episode_index": k, "tasks": ["secret"], "length": LENGTHS[k]}) for k in range(2)]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(lines), encoding="utf-8")
    for k in range(2):
        write_rows(root / f"data/chunk-000/episode_{k:06d}.parquet", rows(k))
        levels = [20 + 8 * row for row in range(LENGTHS[k])]
        times = [row / FPS for row in range(LENGTHS[k])]
        for key in (KEY, "observation.images.wrist"):
            video_at(root / f"videos/chunk-000/{key}/episode_{k:06d}.mp4", times, levels)
    content = json.loads((root / "meta" / "info.json").read_text())
    content["features"]["observation.images.wrist"] = {"dtype": "video", "shape": [48, 64, 3]}
    (root / "meta" / "info.json").write_text(json.dumps(content), encoding="utf-8")
    dataset, notes = import_recordings(root, tmp_path / "out", OPTIONS)  # the name space is in the usual mapping
    assert (
        named_controls(dataset) == {"button_A": [0] * 5 + [1] * 8, "button_X": [0] * 13}
        or named_controls(dataset)["button_A"] == [0] * 5 + [1] * 8
    )
    assert notes[0] == "found: lerobot (2)" and "of 2 cameras the first was read" in notes[1]
    assert [round((level - 20) / 8) for level in levels_of(dataset.frames_FHWC)] == [*range(0, 10, 2), *range(0, 16, 2)]


def test_pictures_in_the_rows_and_the_sixteen_controls(tmp_path):
    root, names = tmp_path / "in", [control.name for control in CONTROLS]
    content = info("v2.0", names)
    content["features"] = {
        "observation.image": {"dtype": "image", "shape": [8, 8, 3]},
        "action": {"dtype": "float32", "shape": [16], "names": names},
    }
    (root / "meta").mkdir(parents=True)
    (root / "meta" / "info.json").write_text(json.dumps(content), encoding="utf-8")
    (root / "meta" / "episodes.jsonl").write_text('{"episode_index": 0, "length": 8}', encoding="utf-8")
    table = []
    for row in range(8):
        data = io.BytesIO()
        Image.fromarray(np.full((8, 8, 3), 20 * row, np.uint8)).save(data, "PNG")
        action = [float(name == "left_stick_y") * -1 for name in names]  # forward in the named schema
        picture = {"bytes": data.getvalue(), "path": None}
        table.append({"episode_index": 0, "frame_index": row, "action": action, "observation.image": picture})
    write_rows(root / "data/chunk-000/episode_000000.parquet", table)
    for schema in ("named", "auto"):
        dataset, _ = import_recordings(root, tmp_path / schema, replace(OPTIONS, schema=schema))
        assert levels_of(dataset.frames_FHWC) == [0, 40, 80, 120]
        assert named_controls(dataset) == {"left_stick_y": [1] * 4} and dataset.state_columns == ()


def test_what_cannot_be_used_is_named(tmp_path):
    v3_at(tmp_path / "names" / "in")
    with pytest.raises(RecordingError, match="no control that the mapping uses: got action_0, action_1, action_2"):
        import_recordings(tmp_path / "names" / "in", tmp_path / "out", OPTIONS)
    root = v3_at(tmp_path / "old" / "in")
    text = (root / "meta" / "info.json").read_text(encoding="utf-8")
    (root / "meta" / "info.json").write_text(text.replace('"v3.0"', '"v1.6"'), encoding="utf-8")
    with pytest.raises(RecordingError, match=r"is LeRobot v1\.6; expected v2\.0, v2\.1, v3\.0"):
        import_recordings(root, tmp_path / "out", OPTIONS)
    root = v3_at(tmp_path / "cut" / "in")
    data = root / "data/chunk-000/file-000.parquet"
    data.write_bytes(data.read_bytes()[:300])
    with pytest.raises(RecordingError, match=r"file-000\.parquet cannot be read"):
        import_recordings(root, tmp_path / "out", OPTIONS)


def test_damaged_metadata_is_skipped_and_the_rest_goes_on(tmp_path):
    options = ImportOptions(frame_size=(12, 16), split="train", mapping=(mapping_at(tmp_path),))
    for name, old, new in [
        ("a", '"fps": 20', '"fps": 0'),
        ("b", '"shape": [3]', '"shape": "three"'),
        ("c", '"video_path": "videos', '"movie_path": "videos'),
        ("d", '"dtype": "video"', '"dtype": "radar"'),
        ("e", '"action": {', '"action": 3, "act": {'),
    ]:
        path = v3_at(tmp_path / "in" / name) / "meta" / "info.json"
        text = path.read_text(encoding="utf-8")
        assert old in text
        path.write_text(text.replace(old, new), encoding="utf-8")
    v3_at(tmp_path / "in" / "whole")
    skipped: list[str] = []
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", options, on_skip=skipped.append)
    assert {span.meta["take"] for span in dataset.spans} == {"whole/episode_000000", "whole/episode_000001"}
    folders = {Path(sentence.split()[0]).relative_to(tmp_path / "in").parts[0] for sentence in skipped}
    assert folders >= {"a", "b", "c", "d", "e"}
