"""Content of files: pictures of a video with their presentation times, by PyAV, and rows of CSV and JSONL files."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.errors import PlayloomError, RecordingError

Frame = tuple[float, Callable[[], NDArray[np.uint8]]]
"""Time of a picture in seconds, and a function that returns its RGB values [H, W, 3]."""
VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov")
"""Endings of videos that are read; any codec of FFmpeg's."""
TABLE_ENDINGS = (".csv", ".jsonl")
"""Endings of tables that are read."""
_WORDS = {
    **dict.fromkeys(("down", "press", "pressed", "keydown", "key_down", "true"), 1.0),
    **dict.fromkeys(("up", "release", "released", "keyup", "key_up", "false"), 0.0),
}


@contextmanager
def reading(place: Path | str) -> Iterator[None]:
    """Turn what damaged content raises into a RecordingError that names the place."""
    try:
        yield
    except PlayloomError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        what = error if isinstance(error, OSError | ValueError) else repr(error)
        raise RecordingError(f"{place} cannot be read ({what!s:.120}); is it damaged or cut short?") from error


def video_times(path: Path) -> NDArray[np.float64]:
    """Return the sorted presentation times of all pictures in seconds, without decoding; the first is 0."""
    with _opened(path) as (container, stream):
        pts = [packet.pts for packet in container.demux(stream) if packet.pts is not None and packet.size]
        times_F = np.sort(np.array(pts, np.int64)) * float(stream.time_base)
    if not len(times_F):
        raise RecordingError(f"{path} holds no picture; record it again")
    return times_F - times_F[0]


def video_pictures(path: Path, *, absolute: bool = False) -> Iterator[Frame]:
    """Decode the pictures one at a time; the time of the first is 0, unless the times are the file's own (`absolute`).

    RecordingError when the video is damaged; its earlier pictures are given before.
    """
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        first = 0 if absolute else None
        for frame in container.decode(stream):
            if frame.pts is not None:
                first = frame.pts if first is None else first
                yield (frame.pts - first) * float(stream.time_base), partial(frame.to_ndarray, format="rgb24")


@contextmanager
def _opened(path: Path) -> Iterator[tuple[Any, Any]]:
    import av

    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise RecordingError(f"{path} has no video stream; expected a video of the game")
            yield container, container.streams.video[0]
    except av.FFmpegError as error:
        raise RecordingError(f"{path} cannot be read ({error}); is it damaged or cut short?") from error


def table_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Give number, from 1, and cells by lower-case column of every row; RecordingError when it is damaged or empty."""
    number = 0
    with reading(path), path.open(encoding="utf-8-sig", newline="") as file:
        for number, row in enumerate(_jsonl(file, path) if path.suffix == ".jsonl" else _csv(file), 1):
            yield number, {str(key).strip().lower(): value for key, value in row.items() if key is not None}
    if not number:
        raise RecordingError(f"{path} holds no row; record it again")


def to_number(place: str, cell: Any) -> float:
    """Return a cell as a number, 1 or 0 for words such as down, up, true; RecordingError that names the place."""
    try:
        word = cell.strip().lower() if isinstance(cell, str) else cell
        value = _WORDS[word] if word in _WORDS else float(word)
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise RecordingError(f"{place}: got {cell!r:.40}, expected a number")
    return value


def _jsonl(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file, 1):
        if line.strip():
            with reading(f"{path} line {number}"):
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise ValueError(f"got {line.strip():.40}, expected a JSON object in every line")
            yield row


def _csv(file: Any) -> Iterator[dict[str, Any]]:
    head = file.readline()
    separator = next((mark for mark in ";\t" if mark in head and "," not in head), ",")
    names = next(csv.reader([head], delimiter=separator), [])
    for row in csv.DictReader(file, names, delimiter=separator):
        yield {key: cell.replace(",", ".") for key, cell in row.items() if cell} if separator == ";" else row
