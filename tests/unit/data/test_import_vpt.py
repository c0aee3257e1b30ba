"""Recordings of VPT's contractors, written here field by field, with the faults that theirs have."""

import json
from pathlib import Path

import pytest

from import_toys import check_a_change_is_noticed, levels_of, named_controls, video_at
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import RecordingError

OPTIONS = ImportOptions(frame_size=(12, 16), split="train")


def line(keys=(), buttons=(), new=(), dx=0.0, dy=0.0, gui=False, hotbar=0) -> dict:
    return {
        "mouse": {
            "x": 640, "y": 360, "dx": dx, "dy": dy, "scaledX": 0, "scaledY": 0, "dwheel": 0,
            "buttons": list(buttons), "newButtons": list(new),
        },
        "keyboard": {"keys": [f"key.keyboard.{key}" for key in keys], "newKeys": [], "chars": "my secret"},
        "isGuiOpen": gui, "isGuiInventory": gui, "hotbar": hotbar, "yaw": 0.0, "pitch": 0.0, "tick": 1,
        "milli": 1_600_000_000_000, "inventory": [], "stats": {},
    }  # fmt: skip


def vpt_at(folder: Path, lines: list[dict], pictures: int, name: str = "a") -> Path:
    video_at(folder / f"{name}.mp4", [k / 20 for k in range(pictures)], [20 + 4 * k for k in range(pictures)])
    (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return folder


def test_keys_camera_and_hotbar_of_two_lines_are_a_step(tmp_path):
    lines = [line() for _ in range(20)]
    lines[3] = line(keys=["w", "left.control"], dx=30.0, dy=-10.0)
    lines[4] = line(keys=["w"], dx=10.0)
    lines[5] = line(dx=50.0)
    lines[7] = line(dx=1300.0)  # the pointer jumps when a menu closes
    lines[9] = line(hotbar=2)
    lines[10:] = [line(hotbar=2) for _ in range(10)]
    lines[15] = line(buttons=[1], hotbar=2)
    recordings = find_recordings(vpt_at(tmp_path / "in", lines, 20), OPTIONS)
    assert [(recording.format, recording.path.name) for recording in recordings] == [("vpt", "a.mp4")]
    dataset, notes = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    held = named_controls(dataset)
    assert held["left_stick_y"] == [0, 1, 1] + [0] * 7 and held["skill_2"] == [0, 1] + [0] * 8
    assert held["right_stick_x"] == [0, 0.625, 1] + [0] * 7
    assert held["right_stick_y"] == pytest.approx([0, 0.15] + [0] * 8)
    assert held["dpad_left"] == [0] * 4 + [1] + [0] * 5 and held["trigger_LT"] == [0] * 7 + [1, 0, 0]
    assert [round((level - 20) / 8) for level in levels_of(dataset.frames_FHWC)] == list(range(10))
    assert "mouse: 57.3 counts" in notes[1]  # nine tenths of the way from 30 to 60
    check_a_change_is_noticed([tmp_path / "in" / "a.jsonl"], tmp_path / "in", tmp_path / "out", OPTIONS)
    assert "secret" not in (tmp_path / "out" / "index.json").read_text(encoding="utf-8")


def test_a_stuck_attack_key_counts_from_its_first_true_press_on(tmp_path):
    stuck = [line(buttons=[0], new=[0] if k == 0 else []) for k in range(20)]
    stuck[12] = line(buttons=[0], new=[0])
    dataset, _ = import_recordings(vpt_at(tmp_path / "in", stuck, 20), tmp_path / "out", OPTIONS)
    assert named_controls(dataset)["trigger_RT"] == [0] * 6 + [1] * 4
    honest = [line(buttons=[0]) for _ in range(20)]
    dataset, _ = import_recordings(vpt_at(tmp_path / "b" / "in", honest, 20), tmp_path / "b" / "out", OPTIONS)
    assert named_controls(dataset)["trigger_RT"] == [1] * 10


def test_menus_are_cuts_and_the_shorter_of_log_and_video_counts(tmp_path):
    lines = [line(keys=["w"], gui=8 <= k < 12) for k in range(20)]
    dataset, _ = import_recordings(vpt_at(tmp_path / "a" / "in", lines, 30), tmp_path / "a" / "out", OPTIONS)
    assert [(span.meta["first"], span.length) for span in dataset.spans] == [(0, 4), (6, 4)]
    dataset, _ = import_recordings(vpt_at(tmp_path / "b" / "in", lines, 16), tmp_path / "b" / "out", OPTIONS)
    assert [(span.meta["first"], span.length) for span in dataset.spans] == [(0, 4), (6, 2)]


def test_a_damaged_line_is_named(tmp_path):
    lines = [line(), {"mouse": {}, "keyboard": {}}, *[line()] * 4]
    with pytest.raises(RecordingError, match=r"a\.jsonl line 2 cannot be read"):
        import_recordings(vpt_at(tmp_path / "in", lines, 6), tmp_path / "out", OPTIONS)


def test_pieces_of_one_session_go_to_one_split(tmp_path):
    for name in ("blue-0af1-20220421-092639", "blue-0af1-20220421-093139", "red-77b2-20220421-080000"):
        vpt_at(tmp_path / "in", [line() for _ in range(8)], 8, name)
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", ImportOptions(frame_size=(12, 16)))
    assert [span.meta["split"] for span in dataset.spans] == ["train", "train", "validation"]
