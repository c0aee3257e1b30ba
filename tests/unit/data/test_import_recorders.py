"""Recordings of OWAMcap and OWL Control, written here as their recorders write them."""

import json
import sys
from pathlib import Path

import pytest
from mcap.writer import Writer

from import_toys import check_a_change_is_noticed, levels_of, named_controls, video_at
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import MissingExtraError, RecordingError

OPTIONS = ImportOptions(frame_size=(12, 16), split="train")
START = 1_768_131_731.0  # Unix seconds


def owl_at(folder: Path, lines: list[tuple[float, str, object]], length: float = 2.0) -> Path:
    times = [index / 60 for index in range(round(length * 60))]
    video_at(folder / "recording.mp4", times, [20 + 4 * int(time * 10 + 1e-6) for time in times])
    rows = ["timestamp,event_type,event_args"]
    rows += [f'{START + time:.6f},{kind},"{json.dumps(args)}"' for time, kind, args in lines]
    (folder / "inputs.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "metadata.json").write_text('{"hardware_id": "secret"}', encoding="utf-8")
    return folder


HELD = {
    "inputs": {"keyboard": [0x57], "mouse": [], "gamepads": {"XInput:0": {"digital": [7], "analog": {}, "axis": {}}}}
}
PLAY = [
    (-0.2, "START", HELD),
    (0.0, "VIDEO_START", []),
    (0.31, "KEYBOARD", [0x57, False]),
    (0.42, "MOUSE_BUTTON", [1, True]),
    (0.44, "MOUSE_BUTTON", [1, False]),
    (0.55, "GAMEPAD_BUTTON", [7, False, 0]),
    (0.60, "GAMEPAD_AXIS", [5, 1.0]),
    (0.70, "GAMEPAD_AXIS", [5, 0.1]),
    (0.81, "GAMEPAD_BUTTON_VALUE", [10, 0.9]),
    (0.89, "GAMEPAD_BUTTON_VALUE", [10, 0.0]),
    (0.95, "SCROLL", [-1]),
    (1.05, "KEYBOARD", [0x20, True]),
    (1.06, "KEYBOARD", [0x20, True]),
    (1.15, "KEYBOARD", [0x20, False]),
    (1.25, "UNFOCUS", []),
    (1.45, "FOCUS", []),
    (1.9, "END", HELD),
]


def test_owl_control_has_keys_mouse_and_pad_and_what_was_held_before(tmp_path):
    owl_at(tmp_path / "in" / "one", PLAY)
    dataset, notes = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert notes[0] == "found: owlcontrol (1)" and "kept 1.6 s of 2.0 s" in notes[1]
    assert [(span.meta["take"], span.meta["first"], span.length) for span in dataset.spans] == [
        ("one", 0, 12),
        ("one", 15, 4),  # unfocused from 1.25 s to 1.45 s, and nothing is known after 1.9 s
    ]
    step = lambda *on: [float(index in on) for index in range(16)]  # noqa: E731
    assert named_controls(dataset) == {
        "left_stick_y": step(0, 1, 2, 3),
        "skill_1": step(0, 1, 2, 3, 4, 5),
        "trigger_RT": step(4, 8),
        "right_stick_y": step(6),  # 0.1 lies in the dead zone
        "dpad_down": step(9),
        "button_A": step(10, 11),
    }
    wanted = [20 + 4 * index for index in (*range(12), *range(15, 19))]
    assert all(abs(a - b) <= 2 for a, b in zip(levels_of(dataset.frames_FHWC), wanted, strict=True))
    assert "secret" not in (tmp_path / "out" / "index.json").read_text(encoding="utf-8")
    check_a_change_is_noticed([tmp_path / "in" / "one" / "inputs.csv"], tmp_path / "in", tmp_path / "out", OPTIONS)


def test_a_damaged_log_of_owl_control_is_named(tmp_path):
    for name, lines, fault in [
        ("clock", [(0.0, "START", HELD)], "no VIDEO_START"),
        ("args", [*PLAY[:2], (0.1, "KEYBOARD", [])], "KEYBOARD, cannot be read"),
    ]:
        owl_at(tmp_path / name / "in", lines, 0.5)
        with pytest.raises(RecordingError, match=fault):
            import_recordings(tmp_path / name, tmp_path / "out", OPTIONS)
    folder = owl_at(tmp_path / "cut" / "in", PLAY[:3], 0.5)
    with (folder / "inputs.csv").open("a", encoding="utf-8") as file:
        file.write(f'{START + 1},KEYBOARD,"[87, tr')
    with pytest.raises(RecordingError, match=r"line 5 cannot be read .*cut short"):
        import_recordings(tmp_path / "cut", tmp_path / "out", OPTIONS)


def owa_at(folder: Path, messages: list[tuple[float, str, dict]], times: list[float], late: float = 0.01) -> Path:
    """A recording whose pictures were taken `late` seconds after their place in the video, but for the first."""
    video_at(folder / "a.mkv", times, [(20 + 8 * index) % 256 for index in range(len(times))])
    screens = [
        (time, "screen", {"utc_ns": utc, "media_ref": {"uri": "a.mkv", "pts_ns": round(time * 1e9)}})
        for index, time in enumerate(times)
        for utc in [round((START + time + (late if index else 0)) * 1e9)]
    ]
    with (folder / "a.mcap").open("wb") as file:
        log = Writer(file)
        log.start(profile="owa", library="test")
        schema = log.register_schema(name="desktop/Any", encoding="jsonschema", data=b"{}")
        channels: dict[str, int] = {}
        for time, topic, content in sorted([*messages, *screens], key=lambda message: message[0]):
            if topic not in channels:
                channels[topic] = log.register_channel(topic=topic, message_encoding="json", schema_id=schema)
            stamp = round((START + time) * 1e9)
            log.add_message(channels[topic], log_time=stamp, publish_time=stamp, data=json.dumps(content).encode())
        log.finish()
    return folder


def key(time: float, code: int, kind: str = "press"):
    return time, "keyboard", {"event_type": kind, "vk": code}


def raw(time: float, x: int, y: int, flags: int = 0):
    return time, "mouse/raw", {"last_x": x, "last_y": y, "us_flags": 0, "button_flags": flags, "button_data": 0}


TIMES = [index / 20 for index in range(20)]


def test_owamcap_has_its_own_clock_for_pictures_and_raw_mouse_movement(tmp_path):
    messages = [
        key(0.05, 0x57),
        key(0.08, 0x57),  # auto-repeat
        (0.35, "keyboard/state", {"buttons": []}),  # the release was lost
        raw(0.51, 30, 0, 0x1),
        raw(0.55, 30, 0, 0x2),
        raw(0.62, -60, 0),
        (0.63, "mouse", {"event_type": "move", "x": 500, "y": 3}),  # the same movement on the screen
    ]
    owa_at(tmp_path / "in", messages, TIMES)
    recordings = find_recordings(tmp_path / "in", OPTIONS)
    assert [(recording.format, recording.path.name) for recording in recordings] == [("owamcap", "a.mcap")]
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert [round((level - 20) / 8) for level in levels_of(dataset.frames_FHWC)] == [0, 1, 3, 5, 7, 9, 11, 13, 15, 17]
    held = named_controls(dataset)
    assert held["left_stick_y"] == [1] * 4 + [0] * 6 and held["trigger_RT"] == [0] * 5 + [1] + [0] * 4
    assert held["right_stick_x"] == [0] * 5 + [1, -1] + [0] * 3
    check_a_change_is_noticed(
        [tmp_path / "in" / "a.mcap", tmp_path / "in" / "a.mkv"], tmp_path / "in", tmp_path / "out", OPTIONS
    )


def test_owamcap_does_not_decode_what_is_long_before_the_first_wanted_picture(tmp_path):
    times = [index / 20 for index in range(800)]
    owa_at(tmp_path, [], times)
    (recording,) = find_recordings(tmp_path, OPTIONS)
    wanted_F = recording.times_F[780:790]
    found = [time for time, _ in recording.pictures(wanted_F)]
    assert {*wanted_F} <= {*found} and found[0] > 20


def test_owamcap_does_not_take_the_right_shift_for_the_left_one(tmp_path):
    owa_at(tmp_path, [key(0.1, 0xA1), (0.2, "keyboard/state", {"buttons": [0x10, 0xA1]})], TIMES)
    (recording,) = find_recordings(tmp_path, OPTIONS)
    changes = [(change.control, change.value) for change in recording.changes(())]
    assert changes == [("right_shift", 1), ("right_shift", 1)]


def test_owamcap_without_raw_movement_uses_the_pointer_and_cuts_other_windows(tmp_path):
    messages = [
        (time, "window", {"title": title})
        for time, title in [(0, "game"), (0.3, "game"), (0.61, "mail"), (0.85, "game")]
    ]
    messages += [(0.1 * k + 0.02, "mouse", {"event_type": "move", "x": 100 + 10 * k, "y": 7}) for k in range(4)]
    messages += [(0.45, "mouse", {"event_type": "scroll", "x": 130, "y": 7, "dx": 0, "dy": 1})]
    owa_at(tmp_path / "in", messages, TIMES)
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert [(span.meta["first"], span.length) for span in dataset.spans] == [(0, 6)]  # the rest is one step long
    held = named_controls(dataset)
    assert held["right_stick_x"] == [0, 1, 1, 1, 0, 0] and held["dpad_up"] == [0, 0, 0, 0, 1, 0]
    assert "mail" not in (tmp_path / "out" / "index.json").read_text(encoding="utf-8")


def test_what_is_wrong_with_an_owamcap_is_named(tmp_path):
    folder = owa_at(tmp_path / "video" / "in", [], TIMES)
    (folder / "a.mkv").unlink()
    with pytest.raises(RecordingError, match=r"expected a\.mkv beside it"):
        import_recordings(folder, tmp_path / "out", OPTIONS)
    (folder / "a.mcap").write_bytes((folder / "a.mcap").read_bytes()[:200])
    with pytest.raises(RecordingError, match=r"a\.mcap"):
        import_recordings(folder, tmp_path / "out", OPTIONS)
    whole = (owa_at(tmp_path / "byte" / "in", [key(0.1, 65)], TIMES) / "a.mcap").read_bytes()
    wrong = whole[: len(whole) // 3] + bytes(9) + whole[len(whole) // 3 + 9 :]
    (tmp_path / "byte" / "in" / "a.mcap").write_bytes(wrong)
    with pytest.raises(RecordingError, match=r"a\.mcap cannot be read .*damaged"):
        import_recordings(tmp_path / "byte", tmp_path / "out", OPTIONS)
    with pytest.raises(RecordingError, match=r"a\.mcap cannot be read .*event_type"):
        import_recordings(owa_at(tmp_path / "key", [(0.1, "keyboard", {"vk": 65})], TIMES), tmp_path / "out", OPTIONS)
    with pytest.raises(RecordingError, match="no screen messages"):
        import_recordings(owa_at(tmp_path / "empty", [key(0.1, 1)], []), tmp_path / "out", OPTIONS)


@pytest.mark.parametrize(
    ("package", "files"),
    [
        ("mcap.reader", ["a.mcap"]),
        ("pyarrow.dataset", ["ticks.parquet", "video.mp4"]),
        ("h5py", ["main_data.hdf5", "metadata.json"]),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, package, files):
    for name in files:
        text = json.dumps({"action_space": '{"type": "Box"}'})
        (tmp_path / name).write_text(text, encoding="utf-8")
    if "video.mp4" in files:
        video_at(tmp_path / "video.mp4", TIMES, [50] * 20)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"playloom\[import\]"):
        import_recordings(tmp_path, tmp_path / "out", OPTIONS)
