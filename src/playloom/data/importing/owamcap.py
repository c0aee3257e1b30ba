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
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.names import virtual_key
from playloom.data.importing.recordings import Frame, ReaderOptions, Recording
from playloom.data.importing.resample import PAUSED, InputChange
from playloom.data.importing.video import VIDEO_ENDINGS, video_pictures
from playloom.errors import MissingExtraError, RecordingError

_BUTTONS = {"left": "mouse_left", "right": "mouse_right", "middle": "mouse_middle", "x1": "mouse_4", "x2": "mouse_5"}
_WHEEL = 0x400
_TOLERANCE = 0.002
"""Largest difference in seconds between the place of a picture and that in its message."""


class _Message(NamedTuple):
    topic: str
    time: int
    """Unix nanoseconds."""
    content: dict[str, Any]


class _Screens(NamedTuple):
    """The `screen` messages in order of their pictures."""

    video: Path
    places_F: NDArray[np.float64]
    """Presentation times in the video in seconds, sorted."""
    times_F: NDArray[np.float64]
    """Seconds since the first picture, sorted."""


class OwaMcap(Recording):
    """An `.mcap` of OWAMcap with its video."""

    format = "owamcap"

    @classmethod
    def find(cls, folder: Path, options: ReaderOptions) -> list[Recording]:
        """Return all `.mcap` files in or below a folder."""
        return [cls(path, options) for path in folder.rglob("*.mcap") if not path.name.startswith(".")]

    @property
    def files(self) -> Sequence[Path]:
        """The log, and videos of its name."""
        return [self.path, *(self.path.with_suffix(ending) for ending in VIDEO_ENDINGS)]

    def picture_times(self) -> NDArray[np.float64]:
        """Return the times of the `screen` messages."""
        return self._screens().times_F

    def pictures(self) -> Iterator[Frame]:
        """Decode the pictures that have a message."""
        screens = self._screens()
        for place, load in video_pictures(screens.video, absolute=True):
            index = int(np.searchsorted(screens.places_F, place - _TOLERANCE))
            if index < len(screens.places_F) and abs(screens.places_F[index] - place) <= _TOLERANCE:
                yield float(screens.times_F[index]), load

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read keys, mouse and window changes."""
        input_ = _Input(self._game)
        for message in self._messages("keyboard", "keyboard/state", "mouse", "mouse/raw", "window"):
            time = (message.time - self._zero) / 1e9 + self.options.offset
            for control, value in input_.read(message, raw=self._raw):
                yield InputChange(time, control, value)

    @cached_property
    def _zero(self) -> int:
        return int(next(self._messages("screen")).content["utc_ns"])

    @cached_property
    def _raw(self) -> bool:
        return next(self._messages("mouse/raw"), None) is not None

    @cached_property
    def _game(self) -> str | None:
        """The window that is in front most of the time."""
        windows = Counter(_window(message.content) for message in self._messages("window"))
        return windows.most_common(1)[0][0] if windows else None

    def _screens(self) -> _Screens:
        rows, videos = [], set()
        for message in self._messages("screen"):
            if "media_ref" not in message.content:
                raise RecordingError(f"{self.path} is of an old version; convert it with: owl mcap migrate")
            reference = message.content["media_ref"]
            videos.add(str(reference["uri"]))
            rows.append((int(reference["pts_ns"]), int(message.content["utc_ns"])))
        if len(videos) != 1:
            raise RecordingError(f"{self.path} shows pictures of {len(videos)} videos; expected one")
        video = self.path.parent / Path(*videos)
        if not video.is_file() or not video.resolve().is_relative_to(self.path.parent.resolve()):
            raise RecordingError(f"{self.path} has no video: expected {video.name} beside it")
        table = np.array(sorted(rows), np.int64)
        times_F = np.maximum.accumulate((table[:, 1] - self._zero) / 1e9)
        return _Screens(video, table[:, 0] / 1e9, times_F)

    def _messages(self, *topics: str) -> Iterator[_Message]:
        try:
            from mcap.exceptions import McapError
            from mcap.reader import make_reader
        except ImportError as error:
            raise MissingExtraError.of("mcap", "import") from error
        empty = True
        try:
            with self.path.open("rb") as file:
                for _, channel, message in make_reader(file).iter_messages(topics=list(topics)):
                    empty = False
                    yield _Message(channel.topic, message.log_time, json.loads(message.data))
        except (McapError, OSError, ValueError, KeyError, TypeError) as error:
            if isinstance(error, RecordingError):
                raise
            raise RecordingError(f"{self.path} cannot be read ({error!r:.80}); is it damaged?") from error
        if empty and topics == ("screen",):
            raise RecordingError(f"{self.path} has no screen messages; expected a recording of OWAMcap")


class _Input:
    """Keys, mouse position and window as of the last message."""

    def __init__(self, game: str | None) -> None:
        self._game = game
        self._keys: set[int] = set()
        self._place: tuple[int, int] | None = None

    def read(self, message: _Message, *, raw: bool) -> Iterator[tuple[str, float]]:
        content = message.content
        if message.topic == "window":
            yield PAUSED, float(_window(content) != self._game)
        elif message.topic == "keyboard":
            pressed = content["event_type"] == "press"
            self._keys = self._keys | {content["vk"]} if pressed else self._keys - {content["vk"]}
            yield virtual_key(content["vk"]), float(pressed)
        elif message.topic == "keyboard/state":  # about once a second: mends lost messages
            keys = set(content["buttons"])
            yield from ((virtual_key(code), float(code in keys)) for code in sorted(keys ^ self._keys))
            self._keys = keys
        elif message.topic == "mouse/raw":
            yield from self._raw(content)
        elif not raw:
            yield from self._mouse(content)

    def _raw(self, content: dict[str, Any]) -> Iterator[tuple[str, float]]:
        place = int(content["last_x"]), int(content["last_y"])
        if content.get("us_flags", 0) & 1:  # a position, not a movement
            yield from self._moved(place)
        else:
            yield from (("mouse_dx", float(place[0])), ("mouse_dy", float(place[1])))
        flags = content.get("button_flags", 0)
        for index, button in enumerate(_BUTTONS.values()):
            for bit, value in ((1, 1.0), (2, 0.0)):
                if flags & bit << 2 * index:
                    yield button, value
        if flags & _WHEEL:
            yield from _wheel(content.get("button_data", 0))

    def _mouse(self, content: dict[str, Any]) -> Iterator[tuple[str, float]]:
        yield from self._moved((int(content["x"]), int(content["y"])))
        if content["event_type"] == "click" and content.get("button") in _BUTTONS:
            yield _BUTTONS[content["button"]], float(content["pressed"])
        elif content["event_type"] == "scroll":
            yield from _wheel(content.get("dy") or 0)

    def _moved(self, place: tuple[int, int]) -> Iterator[tuple[str, float]]:
        before, self._place = self._place or place, place
        yield "mouse_dx", float(place[0] - before[0])
        yield "mouse_dy", float(place[1] - before[1])


def _window(content: dict[str, Any]) -> str:
    return str(content.get("hWnd") or content["title"])  # a window may change its title


def _wheel(amount: float) -> Iterator[tuple[str, float]]:
    if amount:
        name = "wheel_up" if amount > 0 else "wheel_down"
        yield from ((name, 1.0), (name, 0.0))
