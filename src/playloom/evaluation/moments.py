"""Moments of real play to measure from: which rows of a store, and what lies before and after them.

Owns the choice (seeded, inside one episode, nobody dead) and the cutting. Knows nothing of models. A moment at row t
sees the frames up to t; action t is the first one of its future.

    >>> moments = choose_moments(store, store.of_split("test"), count=32, past=10, future=30, seed=0)
    >>> moments[0].prompt(store).frames_THWC.shape, moments[0].future_frames(store).shape
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.data.stores import FrameStore, Span
from playloom.data.windows import living_spans
from playloom.engine import Prompt
from playloom.errors import RecordingError


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One moment of a recording."""

    row: int
    """The store's row of the last frame that is seen."""
    past: int
    """Frames seen, this one included."""
    future: int
    """Frames after it that belong to it."""

    def prompt(self, store: FrameStore) -> Prompt:
        """What a dream from here begins with: `past` frames and the actions between them."""
        first = self.row - self.past + 1
        return Prompt(
            frames_THWC=np.array(store.frames_FHWC[first : self.row + 1]),
            actions_TA=np.array(store.actions_FA[first : self.row]),
        )

    def last_frame(self, store: FrameStore) -> NDArray[np.uint8]:
        """The last frame seen, uint8 [H, W, 3]."""
        return np.array(store.frames_FHWC[self.row])

    def future_actions(self, store: FrameStore, steps: int | None = None) -> NDArray[np.uint8]:
        """What the player did next, uint8 [steps, 16]."""
        return np.array(store.actions_FA[self.row : self.row + (steps or self.future)])

    def future_frames(self, store: FrameStore, steps: int | None = None) -> NDArray[np.uint8]:
        """What followed, uint8 [steps, H, W, 3]."""
        return np.array(store.frames_FHWC[self.row + 1 : self.row + 1 + (steps or self.future)])

    def future_frame(self, store: FrameStore, step: int) -> NDArray[np.uint8]:
        """The frame `step` steps later (1 is the next), uint8 [H, W, 3]."""
        return np.array(store.frames_FHWC[self.row + step])


def choose_moments(
    store: FrameStore, spans: Sequence[Span], *, count: int, past: int, future: int, seed: int
) -> list[Moment]:
    """Draw moments evenly from all that fit, in the order of their rows.

    Only moments count whose past and future lie in one episode and hold no dead row. All are cut into `count` stretches
    of equal number and one is drawn from each, so that no part of the data is missed.

    Returns:
        `count` moments, or as many as there are.

    Raises:
        RecordingError: when none fits.
    """
    dead = store.column("dead") if "dead" in store.state_columns else np.zeros(len(store), np.float32)
    rows = [
        np.arange(span.start + past - 1, span.start + span.length - future)
        for span in living_spans(spans, dead)
        if span.length >= past + future
    ]
    possible = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    if not len(possible):
        longest = max((span.length for span in spans), default=0)
        raise RecordingError(
            f"no stretch of {past + future} steps without a death in {len(spans)} episodes (the longest has {longest} "
            "steps); give longer test episodes, or ask for fewer steps"
        )
    source = np.random.default_rng(seed)
    edges = np.linspace(0, len(possible), min(count, len(possible)) + 1).astype(np.int64)
    chosen = [int(possible[source.integers(low, high)]) for low, high in itertools.pairwise(edges)]
    return [Moment(row=row, past=past, future=future) for row in chosen]
