"""Recordings of OWL Control: a folder with `recording.mp4`, `inputs.csv` and `metadata.json`.

Source: github.com/Wayfarer-Labs/owl-control. Lines of the log are `time,TYPE,"JSON"` with Unix seconds; the quotes of
the JSON are not escaped. `VIDEO_START` is time 0 of the video. Pad indices are those of gilrs, with +y up. Hardware
names and ids of `metadata.json` are not read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from playloom.data.importing.files import reading
from playloom.data.importing.names import virtual_key, wheel
from playloom.data.importing.recordings import ImportOptions, Recording
from playloom.data.importing.resample import PAUSED, InputChange
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


class OwlControl(Recording):
    """A folder of OWL Control."""

    format = "owlcontrol"

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return all folders with an `inputs.csv` and a `recording.mp4`."""
        return [cls(log.parent, options) for log in folder.rglob(_LOG) if log.with_name(_VIDEO).is_file()]

    @property
    def video(self) -> Path:
        """`recording.mp4`."""
        return self.path / _VIDEO

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the log. Before `START` and after `END` input is unknown."""
        zero = next((time for _, time, kind, _ in self._lines() if kind == "VIDEO_START"), None)
        if zero is None:
            raise RecordingError(f"{self.path / _LOG} has no VIDEO_START, so its clock is unknown; record it again")
        time = -math.inf
        yield InputChange(time, PAUSED, 1)
        for number, unix_time, kind, args in self._lines():
            time = unix_time - zero + self.options.offset
            with reading(f"{self.path / _LOG} line {number}, {kind},"):
                for control, value in _values(kind, args):
                    yield InputChange(time, control, value)
        yield InputChange(time, PAUSED, 1)

    def _lines(self) -> Iterator[tuple[int, float, str, Any]]:
        """Number, Unix seconds, type and arguments of every line."""
        with reading(self.path / _LOG), (self.path / _LOG).open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                time, _, rest = text.strip().partition(",")
                kind, _, args = rest.partition(",")
                if time and time != "timestamp":
                    with reading(f"{self.path / _LOG} line {number}"):
                        args = args[1:-1] if args[:1] == args[-1:] == '"' else args
                        line = number, float(time), kind, json.loads(args) if args else []
                    yield line


def _values(kind: str, args: Any) -> Iterator[tuple[str, float]]:
    """Controls and values of a line."""
    if kind in ("START", "END", "FOCUS", "UNFOCUS"):
        if kind == "START":
            yield from _held(args.get("inputs", args) if isinstance(args, dict) else {})
        yield PAUSED, float(kind in ("END", "UNFOCUS"))
    elif kind == "MOUSE_MOVE":
        yield from (("mouse_dx", float(args[0])), ("mouse_dy", float(args[1])))
    elif kind in ("MOUSE_BUTTON", "KEYBOARD"):
        yield virtual_key(int(args[0])), float(bool(args[1]))
    elif kind == "SCROLL":
        yield from wheel(args[0])
    elif kind == "GAMEPAD_BUTTON" and args[0] in _PAD:
        yield _PAD[args[0]], float(bool(args[1]))
    elif kind == "GAMEPAD_BUTTON_VALUE" and args[0] in _TRIGGERS:
        yield _TRIGGERS[args[0]], float(args[1])
    elif kind == "GAMEPAD_AXIS" and args[0] in _AXES:
        yield _AXES[args[0]], float(args[1])
    elif kind == "GAMEPAD_AXIS" and args[0] in _DPAD_AXES:
        low, high = _DPAD_AXES[args[0]]
        yield from ((low, float(args[1] < -0.5)), (high, float(args[1] > 0.5)))


def _held(inputs: Any) -> Iterator[tuple[str, float]]:
    """Controls that were held when the recording began."""
    for device in ("keyboard", "mouse"):
        yield from ((virtual_key(code), 1.0) for code in inputs.get(device, []))
    for pad in inputs.get("gamepads", {}).values():
        yield from ((_PAD[index], 1.0) for index in pad.get("digital", []) if index in _PAD)
        for kind, part in (("GAMEPAD_BUTTON_VALUE", "analog"), ("GAMEPAD_AXIS", "axis")):
            for index, value in pad.get(part, {}).items():
                yield from _values(kind, [int(index), value])
