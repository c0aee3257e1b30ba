"""Capture: pictures of a window or the screen with the input of its player, as a video and a log for `import`.

The video is Matroska with H.264; its picture times are milliseconds of the clock of the input. The log is JSONL with
`time_s`, `control` and `value`, as `playloom.data.importing.video_log` reads it. While the window has no focus neither
pictures nor input are stored.
"""

from __future__ import annotations

import itertools
import json
import math
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from fractions import Fraction
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import av
import numpy as np
from numpy.typing import NDArray

from playloom.atomic_io import ensure_writable
from playloom.data.importing.mapping import read_mapping
from playloom.data.importing.resample import MOUSE, PAUSED, InputChange
from playloom.errors import BadInputError, ConfigError, RecordingError, StorageError, import_extra
from playloom.games.capture_input import Pad, PynputInput, Rectangle, X11Input, X11Window, open_display

MAX_FPS = 240
_WAITING = 4  # pictures that may wait for the encoder; a picture of 1080p has 8 MB
_ENCODER = {"preset": "ultrafast", "tune": "zerolatency", "crf": "20"}
_CLUSTERS = {"cluster_time_limit": "1000", "flush_packets": "1"}  # a file without its end can be read up to there
_REPORT_EVERY = 2.0
_SIDES = ("left", "top", "width", "height")
_LEAST_SIZE = 16  # pixels; a smaller piece of a window counts as hidden


@dataclass(frozen=True, kw_only=True)
class CaptureOptions:
    """Options of a capture."""

    out: Path
    """Folder of the video and the log."""
    window: str | None = None
    """Title of a window, or a unique part of it; X11 only."""
    region: Rectangle | None = None
    """Rectangle of the screen; without it and a window, all of the first monitor."""
    fps: float = 30.0
    """Pictures per second, 1 to 240."""
    minutes: float | None = None
    """Minutes to store; None: until stopped."""
    mapping: tuple[str, ...] = ("wasd-mouse", "xinput")
    """Mappings whose sources are stored, see `read_mapping`."""

    def __post_init__(self) -> None:
        if self.window is not None and self.region is not None:
            raise BadInputError("both a window and a region are given; leave one out")
        if not 1 <= self.fps <= MAX_FPS:
            raise ConfigError(f"fps is wrong: got {self.fps:g}, expected 1 to {MAX_FPS}")
        if self.window is not None and sys.platform != "linux":
            raise BadInputError("windows are captured on X11 only; give a region")
        if self.minutes is not None and not self.minutes > 0:
            raise ConfigError(f"minutes is wrong: got {self.minutes:g}, expected more than 0")


class Captured(NamedTuple):
    """Result of a capture, also of an unfinished one."""

    video: Path  # video; the log beside it ends with `.jsonl`
    seconds: float  # time stored
    pictures: int
    dropped: int  # pictures that the encoder was too slow for
    events: int  # changes of the input stored
    waiting: bool  # true while nothing is stored because the window has no focus


def capture(
    options: CaptureOptions,
    *,
    stop: Callable[[], bool] = lambda: False,
    report: Callable[[Captured], object] = lambda so_far: None,
) -> Captured:
    """Capture until `stop()` is true, the time is over or the window is closed; `report` is called every 2 seconds.

    BadInputError when there is no display, window or such a region, RecordingError when no picture was stored,
    StorageError when the disk is full. What was stored before an error is kept.
    """
    controls = set(read_mapping(options.mapping).sources) - {PAUSED}
    ensure_writable(options.out / "capture")
    changes: deque[InputChange] = deque()
    with ExitStack() as stack:
        source = X11Input if sys.platform == "linux" else PynputInput
        stack.enter_context(closing(source(controls, changes.append)))
        pad = stack.enter_context(closing(Pad(controls, changes.append)))
        mss = import_extra("mss", "capture")
        try:
            screen = stack.enter_context(mss.MSS())
        except mss.ScreenShotError as error:
            raise BadInputError(f"the screen cannot be read: {error}; run this in an X11 session") from error
        bounds, monitor = map(itemgetter(*_SIDES), screen.monitors[:2])
        if options.region is not None and _clip(options.region, bounds) != options.region:
            raise BadInputError(f"region is wrong: got {options.region}, expected x,y,width,height inside of {bounds}")
        window = None
        if options.window is not None:
            window = X11Window(stack.enter_context(closing(open_display())), options.window)
        recorder = stack.enter_context(closing(_Recorder(options.out, options.fps)))
        limit = math.inf if options.minutes is None else 60 * options.minutes
        tick = shown = time.monotonic()
        place: Rectangle | None = None
        while not stop() and not (window and window.closed) and recorder.seconds < limit:
            taken, picture_HWC = time.monotonic(), place and _grab(screen, place)
            pad.poll()
            fresh = [changes.popleft() for _ in range(len(changes))]
            place = window.look() if window else options.region or monitor
            place = place and _clip(place, bounds)
            # Focus is tested before and after, so that nothing is stored from another window.
            recorder.add(taken, picture_HWC if place else None, sorted(fresh, key=lambda change: change.time))
            if taken - shown >= _REPORT_EVERY:
                report(recorder.result())
                shown = taken
            tick = max(tick + 1 / options.fps, time.monotonic())
            time.sleep(max(0.0, tick - time.monotonic()))
    if not recorder.pictures:
        raise RecordingError("nothing was captured: the window had no focus; start the capture, then click on the game")
    return recorder.result()


def _grab(screen: Any, place: Rectangle) -> NDArray[np.uint8] | None:
    """Take a BGRA picture [H, W, 4]; None while the screen changes its size."""
    from mss.exception import ScreenShotError

    try:
        shot = screen.grab(dict(zip(_SIDES, place, strict=True)))
    except ScreenShotError:
        return None
    return np.frombuffer(shot.raw, np.uint8).reshape(shot.height, shot.width, 4)


def _clip(place: Rectangle, bounds: Rectangle) -> Rectangle | None:
    left, top = max(place[0], bounds[0]), max(place[1], bounds[1])
    width = min(place[0] + place[2], bounds[0] + bounds[2]) - left
    height = min(place[1] + place[3], bounds[1] + bounds[3]) - top
    return (left, top, width, height) if min(width, height) >= _LEAST_SIZE else None


class _Recorder:
    def __init__(self, folder: Path, fps: float) -> None:
        self._video, self._fps = _new_video(folder), fps
        self._files: tuple[_VideoWriter, TextIO] | None = None
        self._zero = self._since = self._before = self._latest = 0.0
        self._on = False
        self._held: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self.pictures = self._dropped = self._events = 0
        self.seconds = 0.0

    def result(self) -> Captured:
        return Captured(self._video, self.seconds, self.pictures, self._dropped, self._events, not self._on)

    def add(self, taken: float, picture_HWC: NDArray[np.uint8] | None, changes: Sequence[InputChange]) -> None:
        """Store a picture and the changes since the last one; without focus (None) keep only what is held."""
        if picture_HWC is None:
            self._pause()
        elif not self._on:
            self._resume(taken, picture_HWC)
        for change in changes:
            if not _momentary(change.control):
                self._held[change.control] = change.value
            if picture_HWC is not None:
                self._write(max(change.time, self._since), change.control, change.value)
        if picture_HWC is not None and self._files is not None:
            self.seconds += taken - self._before
            self._before, self._latest = taken, time.monotonic()
            stored = self._files[0].put(self._milliseconds(taken), picture_HWC)
            self.pictures += stored
            self._dropped += not stored

    def close(self) -> None:
        if self._files is None:
            return
        writer, log = self._files
        writer.close()
        with suppress(OSError):
            log.close()
        for path in (self._video, self._video.with_suffix(".jsonl")):
            with suppress(FileNotFoundError):  # the video has failed at once
                _part(path).replace(path)
        writer.check()

    def _resume(self, taken: float, picture_HWC: NDArray[np.uint8]) -> None:
        if self._files is None:
            self._zero = taken
            self._video.parent.mkdir(parents=True, exist_ok=True)
            log = _part(self._video.with_suffix(".jsonl")).open("x", encoding="utf-8", buffering=1)
            self._files = _VideoWriter(_part(self._video), self._fps, picture_HWC.shape), log
        self._on, self._since, self._before = True, taken, taken
        self._row(taken, "focus", 1)
        for control, value in self._held.items():
            self._write(taken, control, value)

    def _pause(self) -> None:
        if self._on:
            self._on = False
            for control in [control for control, value in self._written.items() if value]:
                self._write(self._latest, control, 0)
            self._row(self._latest, "focus", 0)

    def _write(self, when: float, control: str, value: float) -> None:
        if value if _momentary(control) else value != self._written.get(control, 0.0):
            self._written[control] = 0.0 if _momentary(control) else value
            self._events += 1
            self._row(when, control, value)

    def _row(self, when: float, control: str, value: float) -> None:
        assert self._files is not None
        row = {"time_s": self._milliseconds(when) / 1000, "control": control, "value": round(value, 3)}
        try:
            self._files[1].write(json.dumps(row) + "\n")
        except OSError as error:
            raise StorageError(f"cannot write the log of {self._video}: {error}; what came before is kept") from error

    def _milliseconds(self, when: float) -> int:
        return round(1000 * (when - self._zero))


def _new_video(folder: Path) -> Path:
    """Return the path of a video by the local time, numbered where the folder has one of that second."""
    stem = time.strftime("%Y-%m-%d-%H%M%S")
    names = (f"{stem}-{number}" if number > 1 else stem for number in itertools.count(1))
    videos = (folder / f"{name}.mkv" for name in names)
    return next(video for video in videos if not (video.exists() or _part(video.with_suffix(".jsonl")).exists()))


def _part(path: Path) -> Path:
    """Name of an unfinished file, which `import` does not find."""
    return path.with_name(f".{path.stem}.part{path.suffix}")


def _momentary(control: str) -> bool:
    """True for movement, which has no position."""
    return control in MOUSE or control.startswith("wheel_")


class _VideoWriter:
    """H.264 encoder in a thread. Pictures of another size are scaled to that of the first."""

    def __init__(self, path: Path, fps: float, shape: tuple[int, ...]) -> None:
        self._path, self._fps = path, fps
        self._height, self._width = shape[0] // 2 * 2, shape[1] // 2 * 2
        self._fault: Exception | None = None
        self._queue: queue.Queue[tuple[int, NDArray[np.uint8]] | None] = queue.Queue(_WAITING)
        self._thread = threading.Thread(target=self._run, name="playloom-encoder", daemon=True)
        self._thread.start()

    def put(self, milliseconds: int, picture_HWC: NDArray[np.uint8]) -> bool:
        """Hand a picture over; False when the encoder is too slow for it, StorageError when it has failed."""
        self.check()
        try:
            self._queue.put_nowait((milliseconds, picture_HWC))
        except queue.Full:
            return False
        return True

    def check(self) -> None:
        if self._fault is not None:
            raise StorageError(f"cannot write {self._path}: {self._fault}; what came before is kept") from self._fault

    def close(self) -> None:
        """Encode what waits, and end the file."""
        while self._thread.is_alive():
            with suppress(queue.Full):
                self._queue.put(None, timeout=0.1)
                self._thread.join()

    def _run(self) -> None:
        try:
            with av.open(str(self._path), "w", format="matroska", options=_CLUSTERS) as container:
                stream = container.add_stream("libx264", rate=round(self._fps), options=_ENCODER)
                stream.height, stream.width, stream.pix_fmt = self._height, self._width, "yuv420p"
                stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
                for milliseconds, picture_HWC in iter(self._queue.get, None):
                    even_HWC = picture_HWC[: picture_HWC.shape[0] // 2 * 2, : picture_HWC.shape[1] // 2 * 2]
                    frame = av.VideoFrame.from_numpy_buffer(even_HWC, format="bgra")  # without a copy
                    frame = frame.reformat(self._width, self._height, "yuv420p")
                    frame.pts, frame.time_base = milliseconds, Fraction(1, 1000)
                    container.mux(stream.encode(frame))
                container.mux(stream.encode(None))
        except Exception as error:  # raised again by `check`, in the thread that captures
            self._fault = error
