"""Decode order: the positions of a step that run together, and their own-step mask.

With row delay k, image position (r, c) runs in pass r k + c: row r starts k passes after row r - 1. k = w is raster
order; k = 1 runs whole diagonals. A position attends to every position of its step whose pass is not later than its
own, because exactly their inputs are known by then. Training mask and decoding order both come from here, so parallel
decoding is exact.

    >>> from playloom.models.sequence import StepLayout, Vocab
    >>> layout = StepLayout(grid_height=9, grid_width=15, vocab=Vocab(codebook_size=8))
    >>> [schedule(layout, k).image_passes for k in (15, 4, 2, 1)]
    [135, 47, 31, 23]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from playloom.errors import ConfigError
from playloom.models.sequence import StepLayout

DecodeOrder: TypeAlias = int | Literal["raster"]
"""`raster`, or the row delay k."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Schedule:
    """Passes of one step for one row delay."""

    row_delay: int  # row delay k; the grid's width for raster order
    image_passes: int  # passes that predict image codes; later passes predict actions
    pass_P: NDArray[np.int64]  # pass of each position

    @cached_property
    def order_P(self) -> NDArray[np.int64]:
        """Positions in decoding order; those of consecutive passes are adjacent."""
        return np.argsort(self.pass_P, kind="stable")

    def span(self, first: int, last: int) -> tuple[int, int]:
        """Return begin and end of passes `first` to `last` - 1 within `order_P`."""
        return int((self.pass_P < first).sum()), int((self.pass_P < last).sum())

    @property
    def passes(self) -> int:
        """Passes of a step, including the last one, which only reads."""
        return int(self.pass_P.max()) + 1

    def positions_of(self, first: int, last: int) -> NDArray[np.int64]:
        """Return the positions of passes `first` to `last` - 1, in position order."""
        return np.flatnonzero((self.pass_P >= first) & (self.pass_P < last))

    @cached_property
    def visible_PP(self) -> NDArray[np.bool_]:
        """Own-step mask: entry [i, j] is True if position i may attend to position j."""
        return self.pass_P[None, :] <= self.pass_P[:, None]


DEFAULT_ROW_DELAY = 2  # default row delay of models with row tokens; measured in docs/speed.md, decode order sweep


def card_row_delay(card: Mapping[str, Any], order: DecodeOrder | None = None) -> int | None:
    """Return the row delay of `order`, else of a model card; None: raster."""
    if order is None:
        order = card.get("row_delay")
    return None if order == "raster" else order


def schedule(layout: StepLayout, row_delay: int | None = None) -> Schedule:
    """Return the pass of every position for a row delay k (None or the grid's width: raster)."""
    width = layout.grid_width
    row_delay = width if row_delay is None else row_delay
    if not isinstance(row_delay, int) or not 1 <= row_delay <= width:
        raise ConfigError(
            f"row delay {row_delay!r} does not fit a grid {width} wide; choose 1 to {width} ({width} is raster)"
        )
    if not layout.rows:
        if row_delay != width:
            raise ConfigError(f"a chain has raster order only: got row delay {row_delay}, expected {width}")
        return Schedule(row_delay=row_delay, image_passes=layout.image_slots, pass_P=np.arange(layout.positions))
    image_passes = (layout.grid_height - 1) * row_delay + width
    image = np.arange(layout.grid_height)[:, None] * row_delay + np.arange(width + 1)[None, :]
    actions = image_passes + np.arange(layout.action_slots + 1)
    return Schedule(row_delay=row_delay, image_passes=image_passes, pass_P=np.concatenate([image.ravel(), actions]))
