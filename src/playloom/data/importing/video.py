"""Pictures of a video with their presentation times, by PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.recordings import Frame
from playloom.errors import RecordingError

VIDEO_ENDINGS = (".mp4", ".mkv", ".webm", ".mov")
"""Endings of videos that are read; any codec of FFmpeg's."""


def videos_below(folder: Path) -> list[Path]:
    """Return all videos in or below a folder, sorted, without hidden ones."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in VIDEO_ENDINGS and not p.name.startswith("."))


def video_times(path: Path) -> NDArray[np.float64]:
    """Return the sorted presentation times of all pictures in seconds, without decoding; the first is 0."""
    with _opened(path) as (container, stream):
        pts = [packet.pts for packet in container.demux(stream) if packet.pts is not None and packet.size]
        times_F = np.sort(np.array(pts, np.int64)) * float(stream.time_base)
    if not len(times_F):
        raise RecordingError(f"{path} holds no picture; record it again")
    return times_F - times_F[0]


def video_length(path: Path) -> float:
    """Return the length in seconds that the file states, else the time of the last picture."""
    with _opened(path) as (container, _):
        stated = container.duration
    return stated / 1e6 if stated else float(video_times(path)[-1])


def video_pictures(path: Path, *, absolute: bool = False) -> Iterator[Frame]:
    """Decode the pictures one at a time; the time of the first is 0, unless the times are the file's own (`absolute`).

    RecordingError when the video is damaged; its earlier pictures are given before.
    """
    with _opened(path) as (container, stream):
        stream.thread_type = "AUTO"
        first = 0 if absolute else None
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
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
