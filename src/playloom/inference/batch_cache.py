"""The memory of many dreams at once: one row each of tokens and cache, without gaps. Knows no network.

It grows with the dreams and is kept when they leave, for the next ones.

Dreams that advance together must lie side by side, so that a run reads their rows as one view. Rows move only when
dreams join, leave, or advance in other company than before.

What a dream remembers between steps, whichever way it is decoded. Values only; decoders do the work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from playloom.errors import ResourceError
from playloom.models.sequence import NO_TOKEN, StepLayout
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.kv_cache import KeyValueCache, copy_row, exchange_rows


@dataclass(kw_only=True, eq=False)
class SavedRow:
    """Everything a decoder needs to go on with a dream that has no row: shared by branches until they move on."""

    cache: list[Tensor]
    """Keys and values; see `playloom.models.transformer.kv_cache.KeyValueCache.take`."""
    tokens_C: Tensor
    """The dream's row of tokens."""
    previous_A: Tensor
    """Joint ids of the action before the newest step."""

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(t.numel() * t.element_size() for t in (*self.cache, self.tokens_C, self.previous_A))


@dataclass(kw_only=True, eq=False)
class CacheSlot:
    """One dream's place in time, and where its memory lies."""

    past: int = 0
    """Complete steps the cache holds: the open step's index. Counts anew when a window is run again."""
    row: int | None = None
    """Row in the decoder's batch; None: in `saved`, or not begun."""
    saved: SavedRow | None = None
    """The dream while it has no row."""
    window: deque[Tensor] = field(default_factory=deque)
    """Tokens of complete steps, as far as the decoder needs them again."""


class BatchCache:
    """Rows 0 to n - 1 belong to the n dreams that have one."""

    def __init__(self, config: TransformerConfig, layout: StepLayout, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.layout, self.device, self.dtype = config, layout, device, dtype
        self.owners: list[CacheSlot] = []
        self.generation = 0
        """Changes when the tensors are other ones than before."""
        self.cache = KeyValueCache.empty(config, layout.positions, 0, device, dtype)
        self.tokens_BC = self._no_tokens(0, layout.columns)
        self.previous_BA = self._no_tokens(0, layout.action_slots)

    @property
    def bytes_each(self) -> int:
        """Memory of one row's cache."""
        return KeyValueCache.bytes_each(self.config, self.layout.positions, self.dtype)

    def arrange(self, states: Sequence[CacheSlot]) -> list[int]:
        """Give every dream a row, all of them side by side; returns the dreams' indices in the order of their rows."""
        for state in states:
            if state.row is None:
                self._admit(state)
        self._bring_together(states)
        return sorted(range(len(states)), key=lambda index: states[index].row or 0)

    def release(self, state: CacheSlot) -> None:
        """The dream needs its row no more; the last row moves into the gap."""
        if state.row is None:
            return
        last = len(self.owners) - 1
        if last != state.row:
            self.cache.copy(last, state.row)
            for tensor in (self.tokens_BC, self.previous_BA):
                copy_row(tensor, last, state.row)
            self.owners[state.row], self.owners[last].row = self.owners[last], state.row
        self.owners.pop()
        state.row = None

    def save(self, state: CacheSlot) -> SavedRow:
        """A copy of the dream's row; a dream without a row gives what it was saved as."""
        if state.row is None:
            assert state.saved is not None, "the dream was closed"
            return state.saved
        row = state.row
        return SavedRow(
            cache=self.cache.take(row),
            tokens_C=self.tokens_BC[row].clone(),
            previous_A=self.previous_BA[row].clone(),
        )

    def _admit(self, state: CacheSlot) -> None:
        row = len(self.owners)
        if row == self.cache.batch:
            self._grow()
        state.row = row
        self.owners.append(state)
        if state.saved is not None:
            self._load(row, state.saved)
            state.saved = None
        else:
            self.tokens_BC[row] = NO_TOKEN
            self.previous_BA[row] = NO_TOKEN

    def _load(self, row: int, saved: SavedRow) -> None:
        self.cache.put(row, saved.cache)
        self.tokens_BC[row], self.previous_BA[row] = saved.tokens_C, saved.previous_A

    def _bring_together(self, states: Sequence[CacheSlot]) -> None:
        """Exchange as few rows as it takes: the best stretch is the one that holds most of the dreams already."""
        wanted = {id(state) for state in states}
        inside = [id(owner) in wanted for owner in self.owners]
        count = len(wanted)
        first = max(range(len(inside) - count + 1), key=lambda start: sum(inside[start : start + count]))
        gaps = [owner for owner in self.owners[first : first + count] if id(owner) not in wanted]
        strays = [s for s in states if not first <= (s.row or 0) < first + count]
        for gap, stray in zip(gaps, strays, strict=True):
            self._exchange(gap, stray)

    def _exchange(self, one: CacheSlot, other: CacheSlot) -> None:
        assert one.row is not None and other.row is not None
        self.cache.exchange(one.row, other.row)
        for tensor in (self.tokens_BC, self.previous_BA):
            exchange_rows(tensor, one.row, other.row)
        one.row, other.row = other.row, one.row
        self.owners[one.row], self.owners[other.row] = one, other

    def _grow(self) -> None:
        """Room for twice as many rows, or at least for one more."""
        used = self.cache.batch
        for room in dict.fromkeys((max(1, 2 * used), used + 1)):
            try:
                cache = KeyValueCache.empty(self.config, self.layout.positions, room, self.device, self.dtype)
                tokens_BC, previous_BA = self._longer(self.tokens_BC, room), self._longer(self.previous_BA, room)
            except (torch.OutOfMemoryError, RuntimeError):  # the latter is what a CPU's allocator raises
                continue
            for new, old in zip((*cache.keys, *cache.values), (*self.cache.keys, *self.cache.values), strict=True):
                new[:used] = old
            self.cache, self.tokens_BC, self.previous_BA = cache, tokens_BC, previous_BA
            self.generation += 1
            return
        raise ResourceError(
            f"no memory for another dream: each needs {self.bytes_each:,} bytes on {self.device} and {used} are open; "
            "close some first"
        )

    def _longer(self, tokens: Tensor, room: int) -> Tensor:
        return torch.cat([tokens, self._no_tokens(room - len(tokens), tokens.shape[1])])

    def _no_tokens(self, rows: int, columns: int) -> Tensor:
        return torch.full((rows, columns), NO_TOKEN, device=self.device)
