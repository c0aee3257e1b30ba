"""KV cache of many dreams at once: one row of tokens, keys and values each, without gaps.

Dreams that advance together have adjacent rows, so that a run reads them as one view.
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
from playloom.models.transformer.kv_cache import KeyValueCache


@dataclass(kw_only=True, eq=False)
class CacheSlot:
    """A decoder's state of one dream."""

    past: int = 0  # complete steps in the cache, which is the open step's index. Restarts when a window is run again
    row: int | None = None  # row in the batch cache; None: see `saved`, or the dream has not begun
    saved: list[Tensor] | None = None
    """A copy of the dream's row while it has none in the batch cache; branches share it until their first step."""
    window: deque[Tensor] = field(default_factory=deque)  # tokens of complete steps that the decoder will run again


class BatchCache:
    """Rows 0 to n - 1 belong to n dreams."""

    def __init__(self, config: TransformerConfig, layout: StepLayout, device: torch.device, dtype: torch.dtype) -> None:
        self.config, self.layout, self.device, self.dtype = config, layout, device, dtype
        self.slots: list[CacheSlot] = []
        self.generation = 0  # number of times that the tensors were replaced by larger ones
        self.cache = KeyValueCache.empty(config, layout.positions, 0, device, dtype)
        self.tokens_BC = self._no_tokens(0, layout.columns)
        self.previous_BA = self._no_tokens(0, layout.action_slots)
        self.features_BF = self._no_features(0)

    @property
    def bytes_each(self) -> int:
        """Memory of one row's keys and values."""
        return KeyValueCache.bytes_each(self.config, self.layout.positions, self.dtype)

    def arrange(self, slots: Sequence[CacheSlot]) -> list[int]:
        """Give the dreams adjacent rows; returns their indices in the order of the rows."""
        for slot in slots:
            if slot.row is None:
                self._allocate(slot)
        self._make_adjacent(slots)
        return sorted(range(len(slots)), key=lambda index: slots[index].row or 0)

    def release(self, slot: CacheSlot) -> None:
        """Free the dream's row; the last row moves into the gap."""
        if slot.row is None:
            return
        last = len(self.slots) - 1
        if last != slot.row:
            for tensor in self._tensors():
                tensor[slot.row].copy_(tensor[last])
            self.slots[slot.row], self.slots[last].row = self.slots[last], slot.row
        self.slots.pop()
        slot.row = None

    def save(self, slot: CacheSlot) -> None:
        """Move the dream's row, if it has one, into a copy that branches can share."""
        if slot.row is None:
            return
        slot.saved = [tensor[slot.row].clone() for tensor in self._tensors()]
        self.release(slot)

    def _tensors(self) -> list[Tensor]:
        return [*self.cache.keys, *self.cache.values, self.tokens_BC, self.previous_BA]

    def _allocate(self, slot: CacheSlot) -> None:
        row = len(self.slots)
        if row == self.cache.batch:
            self._grow()
        slot.row = row
        self.slots.append(slot)
        if slot.saved is None:
            self.tokens_BC[row] = NO_TOKEN
            self.previous_BA[row] = NO_TOKEN
        else:
            for tensor, saved in zip(self._tensors(), slot.saved, strict=True):
                tensor[row].copy_(saved)
            slot.saved = None

    def _make_adjacent(self, slots: Sequence[CacheSlot]) -> None:
        """Exchange as few rows as possible: choose the stretch that has most of the dreams already."""
        wanted = {id(slot) for slot in slots}
        inside = [id(slot) in wanted for slot in self.slots]
        count = len(wanted)
        first = max(range(len(inside) - count + 1), key=lambda start: sum(inside[start : start + count]))
        leaving = [slot for slot in self.slots[first : first + count] if id(slot) not in wanted]
        entering = [slot for slot in slots if not first <= (slot.row or 0) < first + count]
        for one, other in zip(leaving, entering, strict=True):
            self._exchange(one, other)

    def _exchange(self, one: CacheSlot, other: CacheSlot) -> None:
        assert one.row is not None and other.row is not None
        for tensor in self._tensors():  # one after the other: memory for one row of one layer
            kept = tensor[one.row].clone()
            tensor[one.row].copy_(tensor[other.row])
            tensor[other.row].copy_(kept)
        one.row, other.row = other.row, one.row
        self.slots[one.row], self.slots[other.row] = one, other

    def _grow(self) -> None:
        """Make room for twice as many rows or, where that does not fit, for one more."""
        used = self.cache.batch
        for room in dict.fromkeys((max(1, 2 * used), used + 1)):
            try:
                cache = KeyValueCache.empty(self.config, self.layout.positions, room, self.device, self.dtype)
                tokens_BC, previous_BA = self._longer(self.tokens_BC, room), self._longer(self.previous_BA, room)
            except (torch.OutOfMemoryError, RuntimeError):  # a CPU's allocator raises the latter
                continue
            for new, old in zip((*cache.keys, *cache.values), (*self.cache.keys, *self.cache.values), strict=True):
                new[:used] = old
            self.cache, self.tokens_BC, self.previous_BA = cache, tokens_BC, previous_BA
            self.features_BF = self._no_features(room)
            self.generation += 1
            return
        raise ResourceError(
            f"out of memory on {self.device}: a session needs {self.bytes_each:,} bytes and {used} are open; "
            "close some first"
        )

    def _longer(self, tokens: Tensor, room: int) -> Tensor:
        return torch.cat([tokens, self._no_tokens(room - len(tokens), tokens.shape[1])])

    def _no_features(self, rows: int) -> Tensor:
        """Heads' input, read at once after the frame that wrote it: not part of a dream's state."""
        return torch.zeros(rows, 2 * self.config.width, device=self.device)

    def _no_tokens(self, rows: int, columns: int) -> Tensor:
        return torch.full((rows, columns), NO_TOKEN, device=self.device)
