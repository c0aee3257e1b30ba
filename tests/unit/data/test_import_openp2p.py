"""Recordings of Recap: messages are written here byte by byte, by the field numbers of video_annotation.proto."""

import struct
from pathlib import Path

import pytest

from import_toys import check_a_change_is_noticed, levels_of, named_controls, video_at
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import RecordingError

OPTIONS = ImportOptions(frame_size=(12, 16), split="train")


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1  # a negative int32 has ten bytes
    out = []
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def field(number: int, value: object) -> bytes:
    """A field with a whole number, a float, a text or a message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def action(keys=(), buttons=(), delta=None, scroll=0, pad=b"", known=True) -> bytes:
    """A LowLevelAction."""
    mouse = b"".join(field(9, button) for button in buttons)
    if delta:
        mouse += field(3, field(1, delta[0]) + field(2, delta[1]))
    if scroll:
        mouse += field(4, field(2, scroll))
    return field(2, b"".join(field(1, key) for key in keys)) + field(3, int(known)) + field(4, mouse) + field(5, pad)


def frame(user: bytes, system: bytes = b"") -> bytes:
    """A FrameAnnotation with a text, a time and an action of the player or of a model."""
    return field(1, user) + field(6, system) + field(7, field(1, "my secret")) + field(8, 123)


def recap_at(folder: Path, frames: list[bytes], pictures: int, video: str = "192x192.mp4") -> Path:
    video_at(folder / video, [k / 20 for k in range(pictures)], [20 + 8 * k for k in range(pictures)])
    message = field(2, field(3, "my name")) + b"".join(field(3, data) for data in frames) + field(6, 3)
    (folder / "annotation.proto").write_bytes(message)
    return folder


def test_an_annotation_belongs_to_the_picture_before_it(tmp_path):
    rest = action()
    frames = [frame(rest) for _ in range(21)]
    frames[0] = frame(action(keys=["d"]))  # it came before the first picture
    frames[1] = frame(action(keys=["w", "Space"]))
    frames[2] = frame(action(keys=["w"]))
    frames[5] = frame(action(buttons=["0"], delta=(-30, 4)))
    frames[6] = frame(action(delta=(-20, 0)))
    frames[9] = frame(action(known=False), action(keys=["LeftShift"]))
    stick = field(1, 0.0) + field(2, 1.0)
    frames[13] = frames[14] = frame(action(pad=field(1, field(3, 1) + field(11, 1)) + field(2, stick) + field(5, 0.75)))
    frames[17] = frame(action(scroll=-120))
    folder = recap_at(tmp_path / "in" / "one", frames, 20)
    assert [(recording.format, recording.path) for recording in find_recordings(tmp_path, OPTIONS)] == [
        ("openp2p", folder)
    ]
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    step = lambda *on: [float(index in on) for index in range(10)]  # noqa: E731
    held = named_controls(dataset)
    assert held.pop("right_stick_x") == [0, 0, -1] + [0] * 7
    assert held.pop("right_stick_y")[2] < 0
    assert held == {
        "left_stick_y": step(0, 6),
        "button_A": step(0),
        "trigger_RT": step(2, 6),
        "skill_2": step(4),  # the model's key, for its play is play too
        "button_B": step(6),
        "skill_1": step(6),
        "dpad_down": step(8),
    }
    assert [round((level - 20) / 8) for level in levels_of(dataset.frames_FHWC)] == list(range(0, 20, 2))
    check_a_change_is_noticed(
        [folder / "annotation.proto", folder / "192x192.mp4"], tmp_path / "in", tmp_path / "out", OPTIONS
    )


def test_unknown_input_is_a_cut_and_the_full_video_is_preferred(tmp_path):
    frames = [frame(action(keys=["w"], known=not 9 <= k <= 12)) for k in range(21)]
    folder = recap_at(tmp_path / "in", frames, 20)
    video_at(folder / "video.mp4", [k / 20 for k in range(20)], [200] * 20)
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert [(span.meta["first"], span.length) for span in dataset.spans] == [(0, 4), (6, 4)]
    assert all(abs(level - 200) <= 2 for level in levels_of(dataset.frames_FHWC))


def test_a_damaged_message_is_named(tmp_path):
    folder = recap_at(tmp_path / "in", [frame(action()) for _ in range(5)], 4)
    whole = (folder / "annotation.proto").read_bytes()
    trigger = field(3, 1) + field(5, b"\x25\x00")  # one byte of four
    back = varint(3 << 3 | 2) + varint(-20)  # a message of a negative length
    for data in (whole[:-20], b"\xff" * 30, back, field(3, b"") + field(3, field(1, trigger))):
        (folder / "annotation.proto").write_bytes(data)
        with pytest.raises(RecordingError, match=r"annotation\.proto.* cannot be read"):
            import_recordings(folder, tmp_path / "out", OPTIONS)
    (folder / "192x192.mp4").unlink()
    with pytest.raises(RecordingError, match=r"no video; expected video\.mp4 or 192x192\.mp4"):
        import_recordings(folder, tmp_path / "out", OPTIONS)
