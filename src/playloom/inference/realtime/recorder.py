"""Newest frames of live play: kept in memory, bounded, and written as the files that `docs/play.md` lists."""

from __future__ import annotations

import json
import tempfile
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.atomic_io import atomic_folder, next_free_path
from playloom.errors import BadInputError
from playloom.inference.realtime.state import LiveFrame
from playloom.inference.session import ActionSource, Prompt, StepResult
from playloom.json_io import write_json
from playloom.media.action_table import write_actions
from playloom.media.contact_sheet import Tile, contact_sheet, film_frames, title_of, wrap
from playloom.media.images import enlarge, read_picture, write_picture
from playloom.media.video import write_mp4
from playloom.provenance import Manifest

_ENLARGED = 2
_SHEET_COLUMNS, _SHEET_TILES, _SHEET_TILE = 5, 60, 200
_LONGEST_HOLD = 100  # ticks of one frame in a video, after a machine slept for example


class ContextFrame(NamedTuple):
    """A frame that a session can be continued from, not watermarked, with the action that led to it."""

    frame_HWC: NDArray[np.uint8]
    codes_N: NDArray[np.int64]
    action_A: NDArray[np.uint8]  # meaningless for the first frame of a prompt
    action_source: ActionSource | None  # None: recorded
    manifest: Manifest | None  # None: a real frame


class SentFrame(NamedTuple):
    """A frame as it was sent, with the action that led to it."""

    picture: bytes  # JPEG or WebP, watermarked: a minute of play takes a few megabytes
    action_A: NDArray[np.uint8]
    skipped: int  # ticks right before it


class FrameHistory:
    """Newest frames of a session: `context` of them with codes, `sent` of them as they were sent."""

    def __init__(self, prompt: Prompt, *, context: int, sent: int) -> None:
        self._context: deque[ContextFrame] = deque(maxlen=context)
        self._sent: deque[SentFrame] = deque(maxlen=sent)
        self._lock = threading.Lock()
        self._steps = 0
        self.restart(prompt)

    def restart(self, prompt: Prompt) -> None:
        """Replace the context by a prompt with codes."""
        assert prompt.codes_TN is not None, "the prompt of a session has codes"
        actions = [REST_VALUES, *prompt.actions_TA]
        with self._lock:
            self._steps = 0
            self._context.clear()
            for frame_HWC, codes_N, action_A in zip(prompt.frames_THWC, prompt.codes_TN, actions, strict=True):
                self._context.append(ContextFrame(frame_HWC, codes_N, action_A, None, None))

    def add(self, frame: StepResult | LiveFrame, manifest: Manifest) -> None:
        """Add a generated frame to the context."""
        frame_HWC, codes_N = frame.frame_HWC, frame.codes_N
        assert frame_HWC is not None and codes_N is not None, "a frame of a session has codes"
        source: ActionSource = "player" if frame.action_given else "model"
        with self._lock:
            self._steps += 1
            made = manifest.at_step(self._steps)
            # Copies: the arrays are views of their whole batch, which would stay in memory with them.
            self._context.append(ContextFrame(frame_HWC.copy(), codes_N.copy(), frame.action_A, source, made))

    def add_sent(self, frame: SentFrame) -> None:
        """Add a frame as it was sent."""
        with self._lock:
            self._sent.append(frame)

    def frames(self) -> list[ContextFrame]:
        """Return the context, oldest first; at least one frame."""
        with self._lock:
            return list(self._context)

    def sent(self) -> tuple[SentFrame, ...]:
        """Return the sent frames, oldest first; raise a `BadInputError` if there is none yet."""
        with self._lock:
            if not self._sent:
                raise BadInputError("this session has no frame yet")
            return tuple(self._sent)


def _ticks_shown(frames: Sequence[SentFrame] | Sequence[LiveFrame]) -> list[int]:
    """Return for each frame the ticks that it was on the screen: one, and those skipped after it."""
    return [*(1 + min(after.skipped, _LONGEST_HOLD) for after in frames[1:]), 1]


def as_mp4(frames: Sequence[SentFrame], manifest: Manifest, fps: float) -> bytes:
    """Encode sent frames as a video in real time."""
    pixels = (enlarge(read_picture(frame.picture).frame_HWC, _ENLARGED) for frame in frames)
    ticks = zip(pixels, _ticks_shown(frames), strict=True)
    held = (frame_HWC for shown_HWC, count in ticks for frame_HWC in repeat(shown_HWC, count))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "play.mp4"
        write_mp4(path, held, frames_per_second=max(1, round(fps)), manifest=manifest)
        return path.read_bytes()


def as_csv(frames: Sequence[SentFrame]) -> bytes:
    """Return the actions of sent frames as CSV, one row each, in the `named` schema."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "actions.csv"
        write_actions(path, np.stack([frame.action_A for frame in frames]))
        return path.read_bytes()


def write_play(
    folder: Path | str,
    frames: Sequence[LiveFrame],
    *,
    manifest: Manifest,
    report: Mapping[str, Any],
    seen: Sequence[Tile] = (),
    fps: float = 10.0,
) -> Path:
    """Write the frames of a session into a new folder, complete or not at all; return it, numbered if `folder` exists.

    The tiles `seen` are of the prompt; they are left out when the session's first frames are gone. The video takes the
    whole rate nearest to `fps`.
    """
    target = next_free_path(folder, numbered=True)
    content = {**report, "manifest": json.loads(manifest.to_json())}
    with atomic_folder(target) as place:
        before, title = list(seen) if frames[0].sequence == 0 else [], title_of(manifest)
        tiles = [*before, *map(_tile, frames)]
        kinds = {tile.kind for tile in tiles}
        ticks = [1] * len(before) + _ticks_shown(frames)
        held = ([tile] for tile, count in zip(tiles, ticks, strict=True) for _ in range(count))
        film = film_frames(held, kinds=kinds, title=title, enlarged=_ENLARGED)
        write_mp4(place / "play.mp4", film, frames_per_second=max(1, round(fps)), manifest=manifest)
        rows = wrap(tiles[:: -(-len(tiles) // _SHEET_TILES)], _SHEET_COLUMNS)
        sheet = contact_sheet(rows, title=title, tile_width=_SHEET_TILE, kinds=kinds)
        write_picture(place / "sheet.png", sheet, manifest)
        write_actions(place / "actions.csv", np.stack([frame.action_A for frame in frames]))
        write_json(place / "report.json", content, indent=2)
    return target


def _tile(frame: LiveFrame) -> Tile:
    pad = (frame.action_A, "given" if frame.action_given else "MODEL")
    return Tile(frame_HWC=frame.frame_HWC, kind="dreamed", caption=f"step {frame.sequence + 1}", pads=[pad])
