"""The newest stretch of live play: kept in memory, bounded, and written as files people open.

==============  ============================================================================================
`play.mp4`      what was seen, in real time: a frame is held for the ticks missed after it; every frame marked;
                the frames that it begins with go before
`sheet.png`     frames of it at a glance
`actions.csv`   the input of every frame, one row each; the same actions, prompt and seed dream the same again
`report.json`   the figures and the manifest
==============  ============================================================================================

The newest frames of one session as its dream has them: unmarked, with their codes. What a story can begin with.

The newest frames of one session as they were shown, kept small; and the files made of them.

A frame is kept as the marked picture that was sent, not as pixels: a minute of play takes a few megabytes.
"""

from __future__ import annotations

import json
import tempfile
import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.atomic_io import atomic_folder, atomic_write, next_free_path
from playloom.errors import BadInputError
from playloom.inference.realtime.metrics import HISTORY
from playloom.inference.realtime.types import LiveFrame
from playloom.inference.types import ActionSource, Prompt
from playloom.media.action_table import write_actions
from playloom.media.contact_sheet import Tile, contact_sheet, film_frames, title_of, wrap
from playloom.media.images import decoded, enlarge, write_picture
from playloom.media.video import write_mp4
from playloom.provenance import Manifest

_ENLARGED = 2
_SHEET_COLUMNS, _SHEET_TILES, _SHEET_TILE = 5, 60, 200
_LONGEST_HOLD = 100  # ticks: a longer gap (a lost machine, a debugger) need not be watched in full


class RecentFrames:
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
    fps: float = 10.0,
) -> Path:
    """Write live play into a new folder, which appears complete or not at all.

    Args:
        folder: where; when it holds something already, the first free of `folder-2`, `folder-3`, …
        frames: of one session, in order.
        manifest: what made them.
        seen: the frames that the session began with; left out where its own first frames are gone.
        report: figures for `report.json`; anything JSON can hold.
        fps: ticks a second; the video takes the nearest whole rate.

    Returns:
        The folder written.

    Raises:
        BadInputError: when there are no frames, or the folder cannot be made.
        PlayloomError: when the disk is full.
    """
    if not frames:
        raise BadInputError(f"no frame was made, so there is nothing to write to {folder}")
    target = next_free_path(folder, numbered=True)
    content = {**report, "manifest": json.loads(manifest.to_json())}
    with atomic_folder(target) as place:
        rate = max(1, round(fps))
        before, title = list(seen) if frames[0].sequence == 0 else [], title_of(manifest)
        tiles = [*before, *map(_tile, frames)]
        kinds = {tile.kind for tile in tiles}
        held = [*([tile] for tile in before), *_as_seen_recording(frames)]
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


def _as_seen_recording(frames: Sequence[LiveFrame]) -> Iterator[list[Tile]]:
    """Each frame for as many ticks as it was on the screen."""
    holds = [1 + min(after.skipped, _LONGEST_HOLD) for after in frames[1:]] + [1]
    for frame, hold in zip(frames, holds, strict=True):
        yield from [[_tile(frame)]] * hold


class BufferedFrame(NamedTuple):
    """One frame."""

    frame_HWC: NDArray[np.uint8]
    """RGB, uint8 [H, W, 3], unmarked."""
    codes_N: NDArray[np.int64]
    """Its codes."""
    action_A: NDArray[np.uint8]
    """The action that led to it, values uint8 [16]; of the first frame of all it says nothing."""
    action_source: ActionSource | None
    """Who pressed that; None: it was recorded."""
    manifest: Manifest | None
    """What made it; None: it is real."""


class ContextBuffer:
    """One thread adds, any may look."""

    def __init__(self, prompt: Prompt, frames: int) -> None:
        self._frames: deque[BufferedFrame] = deque(maxlen=frames)
        self._lock = threading.Lock()
        self._steps = 0
        self.restart(prompt)

    def restart(self, prompt: Prompt) -> None:
        """The session starts over from a prompt, which brings its codes."""
        assert prompt.codes_TN is not None, "a session's prompt brings its codes"
        actions = [REST_VALUES, *prompt.actions_TA]
        with self._lock:
            self._steps = 0
            self._frames.clear()
            for frame_HWC, codes_N, action_A in zip(prompt.frames_THWC, prompt.codes_TN, actions, strict=True):
                self._frames.append(BufferedFrame(frame_HWC, codes_N, action_A, None, None))

    def add(
        self,
        frame_HWC: NDArray[np.uint8],
        codes_N: NDArray[np.int64],
        action_A: NDArray[np.uint8],
        given: bool,
        manifest: Manifest,
    ) -> None:
        """The session has made a step; the oldest frame goes when there are too many."""
        with self._lock:
            self._steps += 1
            action_source: ActionSource = "player" if given else "model"
            made = manifest.at_step(self._steps)
            # Copies: what comes is a part of its whole batch, which would be kept with it.
            self._frames.append(BufferedFrame(frame_HWC.copy(), codes_N.copy(), action_A, action_source, made))

    def frames(self) -> list[BufferedFrame]:
        """Those kept, oldest first; at least one."""
        with self._lock:
            return list(self._frames)


class RecordedFrame(NamedTuple):
    """One frame as it was shown."""

    picture: bytes
    """JPEG or WebP, marked."""
    action_A: NDArray[np.uint8]
    """The action that led to it."""
    skipped: int
    """Ticks missed right before it: the frame before was seen so many ticks longer."""


class FrameHistory:
    """One thread adds, any may look."""

    def __init__(self, frames: int) -> None:
        self._shots: deque[RecordedFrame] = deque(maxlen=frames)
        self._lock = threading.Lock()

    def add(self, shot: RecordedFrame) -> None:
        """Keep this one; the oldest goes when there are too many."""
        with self._lock:
            self._shots.append(shot)

    def shots(self) -> tuple[RecordedFrame, ...]:
        """Those kept, oldest first.

        Raises:
            BadInputError: when there is none yet.
        """
        with self._lock:
            if not self._shots:
                raise BadInputError("this session has shown no frame yet")
            return tuple(self._shots)


def as_mp4(shots: Sequence[RecordedFrame], manifest: Manifest, fps: float) -> bytes:
    """A video in real time: a frame is held for the ticks missed after it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "play.mp4"
        write_mp4(path, _as_seen_reel(shots), frames_per_second=max(1, round(fps)), manifest=manifest)
        return path.read_bytes()


def as_csv(shots: Sequence[RecordedFrame]) -> bytes:
    """The input of every frame, one row each, in the `named` schema."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "actions.csv"
        write_actions(path, np.stack([shot.action_A for shot in shots]))
        return path.read_bytes()


def _as_seen_reel(shots: Sequence[RecordedFrame]) -> Iterator[NDArray[np.uint8]]:
    holds = [1 + min(after.skipped, _LONGEST_HOLD) for after in shots[1:]] + [1]
    for shot, hold in zip(shots, holds, strict=True):
        frame_HWC = enlarge(decoded(shot.picture), _ENLARGED)
        for _ in range(hold):
            yield frame_HWC
