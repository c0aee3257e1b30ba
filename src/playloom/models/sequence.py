"""Vocabulary and step layout: token ids, slots and positions of one step.

The joint vocabulary has the image codes first, then every action slot's values. A step has K slots: N image slots in
row-major order, then A action slots. The transformer runs over P *positions* a step; a position reads one token (or
none) and predicts one slot (or none):

* a **chain** (the published model): position p reads the token of slot p - 1, position 0 the last token of the step
  before; P = K and only raster order can be decoded.
* **rows**: the position of image slot (r, c) reads its left neighbour; at a row start there is no token to read; each
  row has one extra row-end position that reads the row's last token, so that it enters the cache. Actions likewise.

B batch, T steps, N, A, K, P as above.

    >>> Vocab(codebook_size=16384, slot_sizes=(2,) * 12 + (11,) * 4).size
    16452
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import SLOT_SIZES


@dataclass(frozen=True, kw_only=True)
class Vocab:
    """Id ranges of the joint vocabulary."""

    codebook_size: int
    """Number of image codes; their ids are 0 to `codebook_size` - 1."""
    slot_sizes: tuple[int, ...] = SLOT_SIZES
    """Number of values of each action slot; their ids follow the codes, slot after slot."""

    @property
    def action_values(self) -> int:
        """Number of ids of action values."""
        return sum(self.slot_sizes)

    @property
    def size(self) -> int:
        """Number of ids: V."""
        return self.codebook_size + self.action_values

    @property
    def action_offsets(self) -> tuple[int, ...]:
        """The first id of every action slot."""
        return tuple(accumulate((self.codebook_size, *self.slot_sizes[:-1])))


NO_TOKEN = -1  # input of a position without a token: the network sees only the position
_PREVIOUS_STEP = -2


@dataclass(frozen=True, kw_only=True)
class TokenGroup:
    """Positions and legal ids of one kind of token."""

    positions: tuple[int, ...]  # positions that predict this group, in slot order
    first_id: int  # first legal id
    last_id: int  # one past the last legal id


@dataclass(frozen=True, kw_only=True)
class StepLayout:
    """Slots and positions of one step."""

    grid_height: int
    """Rows of the code grid: h."""
    grid_width: int
    """Columns of the code grid: w."""
    vocab: Vocab
    rows: bool = True
    """Row-start and row-end positions, so that rows can be decoded in parallel; False is the published chain."""

    @property
    def image_slots(self) -> int:
        """Image slots a step: N."""
        return self.grid_height * self.grid_width

    @property
    def action_slots(self) -> int:
        """Action slots a step: A."""
        return len(self.vocab.slot_sizes)

    @property
    def slots(self) -> int:
        """Slots a step: K = N + A."""
        return self.image_slots + self.action_slots

    @property
    def positions(self) -> int:
        """Positions a step: P."""
        return len(self.source_P)

    @cached_property
    def source_P(self) -> NDArray[np.int64]:
        """Slot whose token each position reads; negative where it reads none of this step."""
        if not self.rows:
            return np.array([_PREVIOUS_STEP, *range(self.slots - 1)])
        image = np.pad(self._grid, ((0, 0), (1, 0)), constant_values=NO_TOKEN)
        return np.concatenate([image.ravel(), [NO_TOKEN], np.arange(self.image_slots, self.slots)])

    @property
    def _grid(self) -> NDArray[np.int64]:
        return np.arange(self.image_slots).reshape(self.grid_height, self.grid_width)

    @property
    def columns(self) -> int:
        """Width of a decoder's row of tokens: the K slots, then `NO_TOKEN`, then the last token of the step before."""
        return self.slots + 2

    @cached_property
    def column_P(self) -> NDArray[np.int64]:
        """Column of a decoder's row of tokens that each position reads."""
        special = np.where(self.source_P == NO_TOKEN, self.slots, self.slots + 1)
        return np.where(self.source_P < 0, special, self.source_P)

    @cached_property
    def target_P(self) -> NDArray[np.int64]:
        """Slot that each position predicts; negative where it predicts none."""
        if not self.rows:
            return np.arange(self.slots)
        image = np.pad(self._grid, ((0, 0), (0, 1)), constant_values=NO_TOKEN)
        return np.concatenate([image.ravel(), np.arange(self.image_slots, self.slots), [NO_TOKEN]])

    @cached_property
    def grid_P2(self) -> NDArray[np.float32]:
        """Row and column of each position on the code grid; actions are at its centre."""
        width = self.grid_width + 1 if self.rows else self.grid_width
        place = np.empty((self.positions, 2), np.float32)
        place[:] = (self.grid_height - 1) / 2, (self.grid_width - 1) / 2
        image = np.arange(self.grid_height * width)
        place[: len(image)] = np.stack([image // width, image % width], axis=1)
        return place

    @cached_property
    def position_of_K(self) -> NDArray[np.int64]:
        """Position that predicts each slot."""
        order = np.argsort(self.target_P, kind="stable")
        return order[self.positions - self.slots :]

    @cached_property
    def image_group(self) -> TokenGroup:
        """Positions and legal ids of image codes."""
        where = tuple(int(p) for p in self.position_of_K[: self.image_slots])
        return TokenGroup(positions=where, first_id=0, last_id=self.vocab.codebook_size)

    @cached_property
    def action_groups(self) -> tuple[TokenGroup, ...]:
        """Positions and legal ids of each action slot."""
        vocab, positions = self.vocab, self.position_of_K[self.image_slots :]
        return tuple(
            TokenGroup(positions=(int(position),), first_id=first, last_id=first + size)
            for position, first, size in zip(positions, vocab.action_offsets, vocab.slot_sizes, strict=True)
        )
