"""The newest stretch of live play: kept in memory, bounded, and written as files people open.

==============  ============================================================================================
`play.mp4`      what was seen, in real time: a frame is held for the ticks missed after it; every frame marked
`actions.csv`   the input of every frame, one row each; the same actions, prompt and seed dream the same again
`report.json`   the figures and the manifest
==============  ============================================================================================
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError
from playloom.files import atomic_folder, atomic_write, free_folder
from playloom.live.frame import LiveFrame
from playloom.live.statistics import HISTORY
from playloom.media.animation import write_mp4
from playloom.media.pictures import enlarge
from playloom.media.tables import write_actions
from playloom.provenance import Manifest, stamp

_ENLARGED = 2
_LONGEST_HOLD = 100  # ticks: a longer gap (a lost machine, a debugger) need not be watched in full


class Recent:
    """The newest frames of a session. One thread adds, any may look."""

    def __init__(self, frames: int = HISTORY) -> None:
        self._frames: deque[LiveFrame] = deque(maxlen=frames)
        self._lock = threading.Lock()

    def add(self, frame: LiveFrame) -> None:
        """Keep this one; the oldest goes when there are too many."""
        with self._lock:
            self._frames.append(frame)

    def frames(self) -> tuple[LiveFrame, ...]:
        """Those kept, oldest first."""
        with self._lock:
            return tuple(self._frames)


def write_play(
    folder: Path | str,
    frames: Sequence[LiveFrame],
    *,
    manifest: Manifest,
    report: Mapping[str, Any],
    hertz: float = 10.0,
) -> Path:
    """Write live play into a new folder, which appears complete or not at all.

    Args:
        folder: where; when it holds something already, the first free of `folder-2`, `folder-3`, …
        frames: of one session, in order.
        manifest: what made them.
        report: figures for `report.json`; anything JSON can hold.
        hertz: ticks a second; the video takes the nearest whole rate.

    Returns:
        The folder written.

    Raises:
        BadInputError: when there are no frames, or the folder cannot be made.
        PlayloomError: when the disk is full.
    """
    if not frames:
        raise BadInputError(f"no frame was made, so there is nothing to write to {folder}")
    target = free_folder(folder, numbered=True)
    content = {**report, "manifest": json.loads(manifest.to_json())}
    with atomic_folder(target) as place:
        rate = max(1, round(hertz))
        write_mp4(place / "play.mp4", _as_seen(frames), frames_per_second=rate, manifest=manifest)
        write_actions(place / "actions.csv", np.stack([frame.action_A for frame in frames]))
        with atomic_write(place / "report.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return target


def _as_seen(frames: Sequence[LiveFrame]) -> Iterator[NDArray[np.uint8]]:
    """Each frame, marked, for as many ticks as it was on the screen."""
    holds = [1 + min(after.skipped, _LONGEST_HOLD) for after in frames[1:]] + [1]
    for frame, hold in zip(frames, holds, strict=True):
        marked_HWC = stamp(enlarge(frame.frame_HWC, _ENLARGED))
        for _ in range(hold):
            yield marked_HWC
