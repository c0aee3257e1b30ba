"""Recordings of OWL Control: a folder with `recording.mp4`, `inputs.csv` and `metadata.json`.

Source: github.com/Wayfarer-Labs/owl-control. Lines of the log are `time,TYPE,"JSON"` with Unix seconds; the quotes of
the JSON are not escaped. `VIDEO_START` is time 0 of the video. Pad indices are those of gilrs, with +y up. Hardware
names and ids of `metadata.json` are not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.names import virtual_key
from playloom.data.importing.recordings import Frame, ReaderOptions, Recording
from playloom.data.importing.resample import PAUSED, InputChange
from playloom.data.importing.video import video_pictures, video_times
from playloom.errors import RecordingError

_LOG, _VIDEO = "inputs.csv", "recording.mp4"
_PAD = {
    1: "button_a", 2: "button_b", 4: "button_y", 5: "button_x", 7: "skill_1", 8: "skill_2", 11: "pad_back",
    12: "pad_start", 13: "pad_guide", 14: "pad_left_thumb", 15: "pad_right_thumb", 16: "dpad_up", 17: "dpad_down",
    18: "dpad_left", 19: "dpad_right",
}  # fmt: skip
_TRIGGERS = {9: "trigger_lt", 10: "trigger_rt"}
_AXES = {1: "left_stick_x", 2: "left_stick_y", 4: "right_stick_x", 5: "right_stick_y"}
_DPAD_AXES = {7: ("dpad_left", "dpad_right"), 8: ("dpad_down", "dpad_up")}


class _Line(NamedTuple):
    time: float
    """Unix seconds."""
    type: str
    args: Any


class OwlControl(Recording):
    """A folder of OWL Control."""

    format = "owlcontrol"

    @classmethod
    def find(cls, folder: Path, options: ReaderOptions) -> list[Recording]:
        """Return all folders with an `inputs.csv` and a `recording.mp4`."""
        return [cls(log.parent, options) for log in folder.rglob(_LOG) if log.with_name(_VIDEO).is_file()]

    @property
    def files(self) -> Sequence[Path]:
        """The video."""
        return [self.path / _VIDEO]

    def picture_times(self) -> NDArray[np.float64]:
        """Return the presentation times."""
        return video_times(self.path / _VIDEO)

    def pictures(self) -> Iterator[Frame]:
        """Decode the video."""
        return video_pictures(self.path / _VIDEO)

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the log. Before `START` and after `END` input is unknown."""
        zero, time = self._zero - self.options.offset, -math.inf
        yield InputChange(time, PAUSED, 1)
        for line in self._lines():
            time = line.time - zero
            try:
                for control, value in _values(line):
                    yield InputChange(time, control, value)
            except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
                raise RecordingError(f"{self.path / _LOG}: {line.type} has wrong values: {line.args!r:.60}") from error
        yield InputChange(time, PAUSED, 1)

    @cached_property
    def _zero(self) -> float:
        for line in self._lines():
            if line.type == "VIDEO_START":
                return line.time
        raise RecordingError(f"{self.path / _LOG} has no VIDEO_START, so its clock is unknown; record it again")

    def _lines(self) -> Iterator[_Line]:
        path, number = self.path / _LOG, 0
        try:
            with path.open(encoding="utf-8-sig") as file:
                for text in file:
                    number += 1
                    time, _, rest = text.strip().partition(",")
                    kind, _, args = rest.partition(",")
                    if not time or time == "timestamp":
                        continue
                    args = args[1:-1] if args[:1] == args[-1:] == '"' else args
                    yield _Line(float(time), kind, json.loads(args) if args else [])
        except (OSError, ValueError) as error:
            if isinstance(error, RecordingError):
                raise
            raise RecordingError(f"{path} cannot be read at line {number} ({error}); is it cut short?") from error


def _values(line: _Line) -> Iterator[tuple[str, float]]:
    """Controls and values of a line."""
    args = line.args
    if line.type in ("START", "END", "FOCUS", "UNFOCUS"):
        if line.type == "START":
            held = args.get("inputs", args) if isinstance(args, dict) else {}
            yield from ((virtual_key(code), 1.0) for kind in ("keyboard", "mouse") for code in held.get(kind, []))
            for pad in held.get("gamepads", {}).values():
                yield from ((_PAD[index], 1.0) for index in pad.get("digital", []) if index in _PAD)
                for index, value in pad.get("analog", {}).items():
                    yield from _values(_Line(line.time, "GAMEPAD_BUTTON_VALUE", [int(index), value]))
                for index, value in pad.get("axis", {}).items():
                    yield from _values(_Line(line.time, "GAMEPAD_AXIS", [int(index), value]))
        yield PAUSED, float(line.type in ("END", "UNFOCUS"))
    elif line.type == "MOUSE_MOVE":
        yield from (("mouse_dx", float(args[0])), ("mouse_dy", float(args[1])))
    elif line.type in ("MOUSE_BUTTON", "KEYBOARD"):
        yield virtual_key(int(args[0])), float(bool(args[1]))
    elif line.type == "SCROLL" and args[0]:
        name = "wheel_up" if args[0] > 0 else "wheel_down"
        yield from ((name, 1.0), (name, 0.0))
    elif line.type == "GAMEPAD_BUTTON" and args[0] in _PAD:
        yield _PAD[args[0]], float(bool(args[1]))
    elif line.type == "GAMEPAD_BUTTON_VALUE" and args[0] in _TRIGGERS:
        yield _TRIGGERS[args[0]], float(args[1])
    elif line.type == "GAMEPAD_AXIS" and args[0] in _AXES:
        yield _AXES[args[0]], float(args[1])
    elif line.type == "GAMEPAD_AXIS" and args[0] in _DPAD_AXES:
        low, high = _DPAD_AXES[args[0]]
        yield from ((low, float(args[1] < -0.5)), (high, float(args[1] > 0.5)))
