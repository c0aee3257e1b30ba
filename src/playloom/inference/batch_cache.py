"""KV cache of many dreams at once: one row of tokens, keys and values each, without gaps.

Dreams that advance together have adjacent rows, so that a run reads them as one view.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from playloom.errors import ResourceError
from playloom.models.sequence import NO_TOKEN, StepLayout
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.kv_cache import KeyValueCache


class Memory(Protocol):
    """Allocator of a cache's arrays: tensors on a device, or NumPy arrays."""

    @property
    def name(self) -> str:
        """Name of the device, for messages."""

    @property
    def dtype(self) -> Any:
        """Type of keys and values: torch's or NumPy's."""

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Return an array of keys or values."""

    def tokens(self, rows: int, columns: int) -> Any:
        """Return an int64 array of `NO_TOKEN`."""

    def copy(self, array: Any) -> Any:
        """Return a copy of an array."""


@dataclass(kw_only=True, eq=False)
class CacheSlot:
    """A decoder's state of one dream."""

    past: int = 0  # complete steps in the cache, which is the open step's index. Restarts when a window is run again
    row: int | None = None  # row in the batch cache; None: see `saved`, or the dream has not begun
    saved: list[Any] | None = None
    """A copy of the dream's row while it has none in the batch cache; branches share it until their first step."""
    window: deque[Any] = field(default_factory=deque)  # tokens of complete steps that the decoder will run again


class BatchCache:
    """Rows 0 to n - 1 belong to n dreams."""

    def __init__(self, config: TransformerConfig, layout: StepLayout, memory: Memory) -> None:
        self.config, self.layout, self.memory = config, layout, memory
        self.slots: list[CacheSlot] = []
        self.generation = 0  # number of times that the arrays were replaced by larger ones
        self._allocate_rows(0)

    def _allocate_rows(self, rows: int) -> None:
        cache = KeyValueCache.empty(self.config, self.layout.positions, rows, self.memory.zeros)
        tokens_BC = self.memory.tokens(rows, self.layout.columns)
        previous_BA = self.memory.tokens(rows, self.layout.action_slots)
        self.cache, self.tokens_BC, self.previous_BA = cache, tokens_BC, previous_BA

    @property
    def bytes_each(self) -> int:
        """Memory of one row's keys and values."""
        return KeyValueCache.bytes_each(self.config, self.layout.positions, self.memory.dtype.itemsize)

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
            for array in self._arrays():
                array[slot.row] = array[last]
            self.slots[slot.row], self.slots[last].row = self.slots[last], slot.row
        self.slots.pop()
        slot.row = None

    def save(self, slot: CacheSlot) -> None:
        """Move the dream's row, if it has one, into a copy that branches can share."""
        if slot.row is None:
            return
        slot.saved = [self.memory.copy(array[slot.row]) for array in self._arrays()]
        self.release(slot)

    def _arrays(self) -> list[Any]:
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
            for array, saved in zip(self._arrays(), slot.saved, strict=True):
                array[row] = saved
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
        for array in self._arrays():  # one after the other: memory for one row of one layer
            kept = self.memory.copy(array[one.row])
            array[one.row] = array[other.row]
            array[other.row] = kept
        one.row, other.row = other.row, one.row
        self.slots[one.row], self.slots[other.row] = one, other

    def _grow(self) -> None:
        """Make room for twice as many rows or, where that does not fit, for one more."""
        used, old = self.cache.batch, self._arrays()
        for room in dict.fromkeys((max(1, 2 * used), used + 1)):
            try:
                self._allocate_rows(room)
            except (RuntimeError, MemoryError):  # torch raises the former, on every device
                continue
            for new, array in zip(self._arrays(), old, strict=True):
                new[:used] = array
            self.generation += 1
            return
        raise ResourceError(
            f"out of memory on {self.memory.name}: a session needs {self.bytes_each:,} bytes and {used} are open; "
            "close some first"
        )
