"""Recordings of OWAMcap (Open World Agents): `x.mcap` with the input, beside `x.mkv`.

Source: github.com/open-world-agents/open-world-agents, messages `desktop/*` as JSON in MCAP. Times are Unix
nanoseconds; a `screen` message gives the time of each picture and its place in the video. There is no gamepad.
Window messages only say which window is in front most of the time; input to other windows is a cut.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.files import VIDEO_ENDINGS, Frame, reading, video_pictures
from playloom.data.importing.names import virtual_key, wheel
from playloom.data.importing.recordings import Recording
from playloom.data.importing.resample import PAUSED, InputChange
from playloom.errors import MissingExtraError, RecordingError

_BUTTONS = {"left": "mouse_left", "right": "mouse_right", "middle": "mouse_middle", "x1": "mouse_4", "x2": "mouse_5"}
_WHEEL = 0x400
_TOLERANCE = 0.002
"""Largest difference in seconds between the place of a picture and that in its message."""


class OwaMcap(Recording):
    """An `.mcap` of OWAMcap with its video."""

    format, endings = "owamcap", (".mcap",)

    @property
    def files(self) -> Sequence[Path]:
        """The log, and videos of its name."""
        return [self.path, *(self.path.with_suffix(ending) for ending in VIDEO_ENDINGS)]

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

    def pictures(self) -> Iterator[Frame]:
        """Decode the pictures that have a message."""
        places_F, times_F = self._screens_F2.T
        for place, load in video_pictures(self.video, start=0.0):
            index = int(np.searchsorted(places_F, place - _TOLERANCE))
            if index < len(places_F) and abs(places_F[index] - place) <= _TOLERANCE:
                yield float(times_F[index]), load

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read keys, mouse and window changes."""
        windows = Counter(_window(content) for _, _, content in self._messages("window"))
        raw = next(self._messages("mouse/raw"), None) is not None
        input_ = _Input(max(windows, key=windows.__getitem__, default=None))
        topics = ("keyboard", "keyboard/state", "mouse/raw" if raw else "mouse", "window")
        for topic, unix_ns, content in self._messages(*topics):
            time = (unix_ns - self._zero) / 1e9 + self.options.offset
            for control, value in input_.read(topic, content):
                yield InputChange(time, control, value)

    @cached_property
    def _zero(self) -> int:
        """Unix nanoseconds of the first picture."""
        return int(next(self._messages("screen"))[2]["utc_ns"])

    @cached_property
    def _screens_F2(self) -> NDArray[np.float64]:
        """Time in the video and since the first picture, in seconds, of every picture in order."""
        rows = sorted(
            (int(content["media_ref"]["pts_ns"]), int(content["utc_ns"]) - self._zero)
            for _, _, content in self._messages("screen")
        )
        return np.maximum.accumulate(np.array(rows) / 1e9)

    def _messages(self, *topics: str) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Topic, Unix nanoseconds and content of the messages in order of time."""
        try:
            from mcap.reader import make_reader
        except ImportError as error:
            raise MissingExtraError.of("mcap", "import") from error
        empty = True
        with reading(self.path), self.path.open("rb") as file:
            for _, channel, message in make_reader(file).iter_messages(topics=list(topics)):
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
            self._keys.update(content["buttons"])
            yield from ((virtual_key(code), float(code in content["buttons"])) for code in sorted(self._keys))
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
            for bit, value in ((1, 1.0), (2, 0.0)):
                if flags & bit << 2 * index:
                    yield button, value
        if flags & _WHEEL:
            yield from wheel(content.get("button_data", 0))

    def _moved(self, x: int, y: int) -> Iterator[tuple[str, float]]:
        before, self._place = self._place or (x, y), (x, y)
        yield from (("mouse_dx", float(x - before[0])), ("mouse_dy", float(y - before[1])))


def _window(content: dict[str, Any]) -> str:
    return str(content.get("hWnd") or content["title"])  # a window may change its title
