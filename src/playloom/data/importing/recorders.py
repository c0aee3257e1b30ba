"""Recordings of the recorders OWL Control and OWAMcap (Open World Agents)."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.files import VIDEO_ENDINGS, Frame, Times, reading, video_pictures
from playloom.data.importing.mapping import virtual_key, wheel
from playloom.data.importing.recordings import Change, Recording
from playloom.data.importing.resample import PAUSED
from playloom.errors import RecordingError, import_extra

_PAD = {
    1: "button_a", 2: "button_b", 4: "button_y", 5: "button_x", 7: "skill_1", 8: "skill_2", 11: "pad_back",
    12: "pad_start", 13: "pad_guide", 14: "pad_left_thumb", 15: "pad_right_thumb", 16: "dpad_up", 17: "dpad_down",
    18: "dpad_left", 19: "dpad_right",
}  # fmt: skip
_ANALOG = {
    "GAMEPAD_BUTTON_VALUE": {9: "trigger_lt", 10: "trigger_rt"},
    "GAMEPAD_AXIS": {1: "left_stick_x", 2: "left_stick_y", 4: "right_stick_x", 5: "right_stick_y"},
}
_DPAD_AXES = {7: ("dpad_left", "dpad_right"), 8: ("dpad_down", "dpad_up")}
_BUTTONS = {"left": "mouse_left", "right": "mouse_right", "middle": "mouse_middle", "x1": "mouse_4", "x2": "mouse_5"}
# Codes of shift, control and alt that a state message has beside the code of the side.
_EITHER_SIDE = {0x10: {0xA0, 0xA1}, 0x11: {0xA2, 0xA3}, 0x12: {0xA4, 0xA5}}
_WHEEL = 0x400
_TOLERANCE = 0.002  # largest difference in seconds between the place of a picture and that in its message


class OwlControl(Recording):
    """A folder of OWL Control: `recording.mp4`, `inputs.csv` and `metadata.json`.

    Source: github.com/Wayfarer-Labs/owl-control. Lines of the log are `time,TYPE,"JSON"` with Unix seconds; the quotes
    of the JSON are not escaped. `VIDEO_START` is time 0 of the video. Pad indices are those of gilrs, with +y up.
    Hardware names and ids of `metadata.json` are not read.
    """

    format, parts = "owlcontrol", ("inputs.csv", "recording.mp4")

    def _changes(self, sources: Sequence[str]) -> Iterator[Change]:
        """Before `START` and after `END` input is unknown."""
        log, time = self.path / self.parts[0], -math.inf
        zero = next((start for _, start, kind, _ in self._lines(log) if kind == "VIDEO_START"), None)
        if zero is None:
            raise RecordingError(f"{log} has no VIDEO_START, so its clock is unknown; record it again")
        yield time, PAUSED, 1
        for number, unix_time, kind, args in self._lines(log):
            time = unix_time - zero
            with reading(f"{log} line {number}, {kind},"):
                yield from ((time, control, value) for control, value in _values(kind, args))
        yield time, PAUSED, 1

    def _lines(self, log: Path) -> Iterator[tuple[int, float, str, Any]]:
        with reading(log), log.open(encoding="utf-8-sig") as file:
            for number, text in enumerate(file, 1):
                time, _, rest = text.strip().partition(",")
                kind, _, args = rest.partition(",")
                if time and time != "timestamp":
                    with reading(f"{log} line {number}"):
                        args = args[1:-1] if args[:1] == args[-1:] == '"' else args
                        line = number, float(time), kind, json.loads(args) if args else []
                    yield line


def _values(kind: str, args: Any) -> Iterator[tuple[str, float]]:
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
    elif kind in _ANALOG and args[0] in _ANALOG[kind]:
        yield _ANALOG[kind][args[0]], float(args[1])
    elif kind == "GAMEPAD_AXIS" and args[0] in _DPAD_AXES:
        low, high = _DPAD_AXES[args[0]]
        yield from ((low, float(args[1] < -0.5)), (high, float(args[1] > 0.5)))


def _held(inputs: Any) -> Iterator[tuple[str, float]]:
    for device in ("keyboard", "mouse"):
        yield from ((virtual_key(code), 1.0) for code in inputs.get(device, []))
    for pad in inputs.get("gamepads", {}).values():
        yield from ((_PAD[index], 1.0) for index in pad.get("digital", []) if index in _PAD)
        for kind, part in (("GAMEPAD_BUTTON_VALUE", "analog"), ("GAMEPAD_AXIS", "axis")):
            for index, value in pad.get(part, {}).items():
                yield from _values(kind, [int(index), value])


class OwaMcap(Recording):
    """An `.mcap` of OWAMcap with the input, beside its video.

    Source: github.com/open-world-agents/open-world-agents, messages `desktop/*` as JSON in MCAP. Times are Unix
    nanoseconds; a `screen` message gives the time of each picture and its place in the video. There is no gamepad.
    Window messages only say which window is in front most of the time; input to other windows is a cut.
    """

    format, endings, beside = "owamcap", (".mcap",), VIDEO_ENDINGS

    @property
    def video(self) -> Path:
        """The video that the `screen` messages name."""
        names = {str(content["media_ref"]["uri"]) for _, _, content in self._messages("screen")}
        if len(names) != 1:
            raise RecordingError(f"{self.path} shows pictures of {len(names)} videos; expected one")
        video = self.path.parent / Path(*names)
        if not video.is_file() or not video.resolve().is_relative_to(self.path.parent.resolve()):
            raise RecordingError(f"{self.path} has no video: expected {video.name} beside it")
        return video

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        """Times of the `screen` messages in seconds."""
        return self._screens_F2[:, 1]

    def pictures(self, wanted_F: Times | None = None) -> Iterator[Frame]:
        """Decode the pictures that have a message."""
        places_F, times_F = self._screens_F2.T
        wanted_F = None if wanted_F is None else places_F[np.isin(times_F, wanted_F)]
        for place, load in video_pictures(self.video, start=0.0, wanted_F=wanted_F):
            index = int(np.searchsorted(places_F, place - _TOLERANCE))
            if index < len(places_F) and abs(places_F[index] - place) <= _TOLERANCE:
                yield float(times_F[index]), load

    def _changes(self, sources: Sequence[str]) -> Iterator[Change]:
        windows = Counter(_window(content) for _, _, content in self._messages("window"))
        raw = next(self._messages("mouse/raw"), None) is not None
        input_ = _Input(max(windows, key=windows.__getitem__, default=None))
        topics = ("keyboard", "keyboard/state", "mouse/raw" if raw else "mouse", "window")
        for topic, unix_ns, content in self._messages(*topics):
            time = (unix_ns - self._zero) / 1e9
            yield from ((time, control, value) for control, value in input_.read(topic, content))

    @cached_property
    def _zero(self) -> int:
        return int(next(self._messages("screen"))[2]["utc_ns"])

    @cached_property
    def _screens_F2(self) -> NDArray[np.float64]:
        """Time in the video and since the first picture, in seconds, of every picture in order."""
        screens = (content for _, _, content in self._messages("screen"))
        rows = sorted((int(one["media_ref"]["pts_ns"]), int(one["utc_ns"]) - self._zero) for one in screens)
        return np.maximum.accumulate(np.array(rows) / 1e9)

    def _messages(self, *topics: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        mcap, empty = import_extra("mcap.reader", "import"), True
        with reading(self.path), self.path.open("rb") as file:
            for _, channel, message in mcap.make_reader(file).iter_messages(topics=list(topics)):
                content = json.loads(message.data)
                if channel.topic == "screen" and "media_ref" not in content:
                    raise RecordingError(f"{self.path} is of an old version; convert it with: owl mcap migrate")
                empty = False
                yield channel.topic, message.log_time, content
        if empty and topics == ("screen",):
            raise RecordingError(f"{self.path} has no screen messages; expected a recording of OWAMcap")


class _Input:
    """Keys that were seen and mouse position as of the last message; `game` is the window of the game."""

    def __init__(self, game: str | None) -> None:
        self._game, self._keys = game, set[int]()
        self._place: tuple[int, int] | None = None

    def read(self, topic: str, content: dict[str, Any]) -> Iterator[tuple[str, float]]:
        if topic == "window":
            yield PAUSED, float(_window(content) != self._game)
        elif topic == "keyboard":
            self._keys.add(content["vk"])
            yield virtual_key(content["vk"]), float(content["event_type"] == "press")
        elif topic == "keyboard/state":  # about once a second: mends lost messages
            held = set(content["buttons"])
            held -= {code for code, sides in _EITHER_SIDE.items() if held & sides}
            self._keys |= held
            yield from ((virtual_key(code), float(code in held)) for code in sorted(self._keys))
        elif topic == "mouse/raw":
            yield from self._raw(content)
        else:
            yield from self._moved(content["x"], content["y"])
            if content["event_type"] == "click" and content.get("button") in _BUTTONS:
                yield _BUTTONS[content["button"]], float(content["pressed"])
            elif content["event_type"] == "scroll":
                yield from wheel(content.get("dy") or 0)

    def _raw(self, content: dict[str, Any]) -> Iterator[tuple[str, float]]:
        x, y = content["last_x"], content["last_y"]
        if content.get("us_flags", 0) & 1:  # a position, not a movement
            yield from self._moved(x, y)
        else:
            yield from (("mouse_dx", float(x)), ("mouse_dy", float(y)))
        flags = content.get("button_flags", 0)
        for index, button in enumerate(_BUTTONS.values()):
            yield from ((button, value) for bit, value in ((1, 1.0), (2, 0.0)) if flags & bit << 2 * index)
        if flags & _WHEEL:
            yield from wheel(content.get("button_data", 0))

    def _moved(self, x: int, y: int) -> Iterator[tuple[str, float]]:
        before, self._place = self._place or (x, y), (x, y)
        yield from (("mouse_dx", float(x - before[0])), ("mouse_dy", float(y - before[1])))


def _window(content: dict[str, Any]) -> str:
    return str(content.get("hWnd") or content["title"])  # a window may change its title
