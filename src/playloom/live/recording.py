"""The newest stretch of live play: kept in memory, bounded, and written as files people open.

==============  ============================================================================================
`play.mp4`      what was seen, in real time: a frame is held for the ticks missed after it; every frame marked;
                the frames that it begins with go before
`sheet.png`     frames of it at a glance
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

from playloom.errors import BadInputError
from playloom.files import atomic_folder, atomic_write, free_folder
from playloom.live.frame import LiveFrame
from playloom.live.statistics import HISTORY
from playloom.media.animation import write_mp4
from playloom.media.pictures import write_picture
from playloom.media.sheet import Tile, contact_sheet, film_frames, title_of, wrap
from playloom.media.tables import write_actions
from playloom.provenance import Manifest

_ENLARGED = 2
_SHEET_COLUMNS, _SHEET_TILES, _SHEET_TILE = 5, 60, 200
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
    seen: Sequence[Tile] = (),
    hertz: float = 10.0,
) -> Path:
    """Write live play into a new folder, which appears complete or not at all.

    Args:
        folder: where; when it holds something already, the first free of `folder-2`, `folder-3`, …
        frames: of one session, in order.
        manifest: what made them.
        seen: the frames that the session began with; left out where its own first frames are gone.
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
        before, title = list(seen) if frames[0].sequence == 0 else [], title_of(manifest)
        tiles = [*before, *map(_tile, frames)]
        kinds = {tile.kind for tile in tiles}
        held = [*([tile] for tile in before), *_as_seen(frames)]
        film = film_frames(held, kinds=kinds, title=title, enlarged=_ENLARGED)
        write_mp4(place / "play.mp4", film, frames_per_second=rate, manifest=manifest)
        rows = wrap(tiles[:: -(-len(tiles) // _SHEET_TILES)], _SHEET_COLUMNS)
        sheet = contact_sheet(rows, title=title, tile_width=_SHEET_TILE, kinds=kinds)
        write_picture(place / "sheet.png", sheet, manifest)
        write_actions(place / "actions.csv", np.stack([frame.action_A for frame in frames]))
        with atomic_write(place / "report.json") as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return target


def _tile(frame: LiveFrame) -> Tile:
    pad = (frame.action_A, "given" if frame.action_given else "MODEL")
    return Tile(frame_HWC=frame.frame_HWC, kind="dreamed", caption=f"step {frame.sequence + 1}", pads=[pad])


def _as_seen(frames: Sequence[LiveFrame]) -> Iterator[list[Tile]]:
    """Each frame for as many ticks as it was on the screen."""
    holds = [1 + min(after.skipped, _LONGEST_HOLD) for after in frames[1:]] + [1]
    for frame, hold in zip(frames, holds, strict=True):
        yield from [[_tile(frame)]] * hold
