"""Recordings of Recap, as in the data of Open-P2P: a folder with `annotation.proto` and its video.

Source: video_annotation.proto and the loader of github.com/elefant-ai/open-p2p. The annotation is a binary message of
Protocol Buffers; only its input is read. Annotation k + 1 has the input that was given from picture k to picture k + 1:
of the player, else of the model that plays in their place. +y of sticks is up. Times, texts and names are not read.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from playloom.data.importing.files import reading
from playloom.data.importing.names import control_name, wheel
from playloom.data.importing.recordings import ImportOptions, Recording
from playloom.data.importing.resample import PAUSED, InputChange
from playloom.errors import RecordingError

_FILE, _VIDEOS = "annotation.proto", ("video.mp4", "192x192.mp4")
_INTERVAL = 1 / 20
"""Seconds from one annotation to the next."""
_MOUSE = {"0": "mouse_left", "1": "mouse_right", "2": "mouse_middle"}
_PAD = {
    1: "button_a", 2: "button_y", 3: "button_b", 4: "button_x", 5: "dpad_up", 6: "dpad_down", 7: "dpad_left",
    8: "dpad_right", 9: "pad_start", 10: "pad_back", 11: "skill_1", 12: "skill_2",
}  # fmt: skip
_FLOATS: Mapping[int, np.dtype[Any]] = {1: np.dtype("<f8"), 5: np.dtype("<f4")}
Fields = Mapping[int, Sequence[Any]]
"""Values of a message by field number: whole numbers, floats, or bytes of texts and messages."""


class OpenP2p(Recording):
    """A folder of Recap."""

    format = "openp2p"

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return all folders with an `annotation.proto`."""
        return [cls(file.parent, options) for file in folder.rglob(_FILE)]

    @property
    def files(self) -> Sequence[Path]:
        """The videos, of which there may be one in each size."""
        return sorted(self.path.glob("*.mp4"))

    @cached_property
    def video(self) -> Path:
        """The video in full size, else the small one."""
        for name in _VIDEOS:
            if (self.path / name).is_file():
                return self.path / name
        raise RecordingError(f"{self.path} has no video; expected {' or '.join(_VIDEOS)} beside {_FILE}")

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the annotations; without a known action, and after the last one, input is unknown."""
        with reading(self.path / _FILE):
            frames = _fields((self.path / _FILE).read_bytes())[3]
        held, time = set[str](), 0.0
        for index, time in enumerate((self.times_F + self.options.offset).tolist(), 1):
            if index == len(frames):
                break
            with reading(f"{self.path / _FILE}, annotation {index},"):
                frame = _fields(frames[index])
                actions = [_fields(data) for number in (1, 6) for data in frame[number]]
                action = next((action for action in actions if any(action[3])), None)
                values = [] if action is None else list(_values(action))
            pressed = {name for name, _ in values}
            yield InputChange(time, PAUSED, float(action is None))
            yield from (InputChange(time, name, 0.0) for name in sorted(held - pressed))
            yield from (InputChange(time, name, value) for name, value in values)
            held = pressed
        else:
            time += _INTERVAL
        yield InputChange(time, PAUSED, 1)


def _values(action: Fields) -> Iterator[tuple[str, float]]:
    """Controls of a LowLevelAction that are not at rest."""
    for keyboard in map(_fields, action[2]):
        yield from ((control_name(bytes(key).decode()), 1.0) for key in keyboard[1])
    for mouse in map(_fields, action[4]):
        yield from ((name, 1.0) for key in mouse[9] if (name := _MOUSE.get(bytes(key).decode())))
        for moved in map(_fields, mouse[3]):
            yield from (("mouse_dx", float(sum(moved[1]))), ("mouse_dy", float(sum(moved[2]))))
        for turned in map(_fields, mouse[4]):
            yield from wheel(sum(turned[2]))
    for pad in map(_fields, action[5]):
        for buttons in map(_fields, pad[1]):
            yield from ((_PAD[number], 1.0) for number, values in buttons.items() if number in _PAD and any(values))
        for number, side in ((2, "left"), (3, "right")):
            for stick in map(_fields, pad[number]):
                yield from ((f"{side}_stick_{axis}", sum(stick[k])) for axis, k in (("x", 1), ("y", 2)))
        yield from ((name, sum(pad[number])) for name, number in (("trigger_lt", 4), ("trigger_rt", 5)))


def _fields(data: Any) -> Fields:
    """Read a message of Protocol Buffers (protobuf.dev, encoding)."""
    found, view, place = defaultdict[int, list[Any]](list), memoryview(data), 0
    while place < len(view):
        value: Any
        begin, (key, place) = place, _varint(view, place)
        if key & 7 == 0:
            value, place = _varint(view, place)
        elif key & 7 in _FLOATS:
            value = float(np.frombuffer(view, _FLOATS[key & 7], 1, place)[0])
            place += _FLOATS[key & 7].itemsize
        elif key & 7 == 2:
            size, place = _varint(view, place)
            value, place = view[place : place + size], place + size
        else:
            raise ValueError(f"wire type {key & 7}")
        if not begin < place <= len(view):
            raise ValueError("the message ends too early")
        found[key >> 3].append(value)
    return found


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value - (1 << 64) if value >> 63 else value, place
