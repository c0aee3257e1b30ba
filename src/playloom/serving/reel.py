"""The newest frames of one session as they were shown, kept small; and the files made of them.

A frame is kept as the marked picture that was sent, not as pixels: a minute of play takes a few megabytes.
"""

from __future__ import annotations

import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError
from playloom.media.animation import write_mp4
from playloom.media.pictures import enlarge
from playloom.media.tables import write_actions
from playloom.provenance import Manifest
from playloom.serving.pictures import decoded

_ENLARGED = 2
_LONGEST_HOLD = 100  # ticks


class Shot(NamedTuple):
    """One frame as it was shown."""

    picture: bytes
    """JPEG or WebP, marked."""
    action_A: NDArray[np.uint8]
    """The action that led to it."""
    skipped: int
    """Ticks missed right before it: the frame before was seen so many ticks longer."""


class Reel:
    """One thread adds, any may look."""

    def __init__(self, frames: int) -> None:
        self._shots: deque[Shot] = deque(maxlen=frames)
        self._lock = threading.Lock()

    def add(self, shot: Shot) -> None:
        """Keep this one; the oldest goes when there are too many."""
        with self._lock:
            self._shots.append(shot)

    def shots(self) -> tuple[Shot, ...]:
        """Those kept, oldest first.

        Raises:
            BadInputError: when there is none yet.
        """
        with self._lock:
            if not self._shots:
                raise BadInputError("this session has shown no frame yet")
            return tuple(self._shots)


def as_mp4(shots: Sequence[Shot], manifest: Manifest, hertz: float) -> bytes:
    """A video in real time: a frame is held for the ticks missed after it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "play.mp4"
        write_mp4(path, _as_seen(shots), frames_per_second=max(1, round(hertz)), manifest=manifest)
        return path.read_bytes()


def as_csv(shots: Sequence[Shot]) -> bytes:
    """The input of every frame, one row each, in the `named` schema."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "actions.csv"
        write_actions(path, np.stack([shot.action_A for shot in shots]))
        return path.read_bytes()


def _as_seen(shots: Sequence[Shot]) -> Iterator[NDArray[np.uint8]]:
    holds = [1 + min(after.skipped, _LONGEST_HOLD) for after in shots[1:]] + [1]
    for shot, hold in zip(shots, holds, strict=True):
        frame_HWC = enlarge(decoded(shot.picture), _ENLARGED)
        for _ in range(hold):
            yield frame_HWC
