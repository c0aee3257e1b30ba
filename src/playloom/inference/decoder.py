"""Steps of many dreams with a KV cache, whatever runs the passes: states, chunks of a step, order of the work.

All dreams of a call advance as one batch, whatever the length of their contexts. With absolute positions every position
changes when the window slides, so its last steps are run again, here and nowhere else.

Each dream has one row of tokens, keys and values in the cache, without gaps. Dreams that advance together have adjacent
rows, so that a run reads them as one view.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import numpy as np

from playloom.errors import ResourceError
from playloom.models.decode_order import Schedule
from playloom.models.sequence import NO_TOKEN, StepLayout, TokenGroup
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.kv_cache import KeyValueCache


@dataclass(frozen=True)
class Memory:
    """Allocator of a cache's arrays: here NumPy's, and in a subclass tensors on a device."""

    device: Any
    dtype: Any  # of keys and values

    def zeros(self, shape: tuple[int, ...]) -> Any:
        """Return an array of keys or values."""
        return np.zeros(shape, self.dtype)

    def tokens(self, rows: int, columns: int) -> Any:
        """Return an int64 array of `NO_TOKEN`."""
        return np.full((rows, columns), NO_TOKEN, np.int64)

    def copy(self, array: Any) -> Any:
        """Return a copy of an array."""
        return array.copy()

    def array(self, values: Any) -> Any:
        """Return values as an array."""
        return np.asarray(values)


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
            f"out of memory on {self.memory.device}: a session needs {self.bytes_each:,} bytes and {used} are open; "
            "close some first"
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Chunk:
    """Consecutive passes of one step in one run of the network: one (decoding), or many given ones (prefill).

    Its arrays are int64 or bool: tensors, or NumPy arrays.
    """

    first: int
    last: int  # one past the last position
    order_Q: Any  # place of each position in decoding order
    column_Q: Any  # column of the token row that each position reads
    row_R: Any  # positions of the chunk that predict a slot
    slot_R: Any  # the slots they predict
    draw_R: Any  # the same slots, counted from the first of their kind (image or action)
    own_QL: Any | None  # attention mask over the step's positions before `last`; None: all of them
    group: TokenGroup | None  # of the tokens that one pass predicts; None: it only reads, or its tokens are given


class DecodingPlan:
    """The chunks of one step; `array` makes a decoder's kind of array of a NumPy array."""

    def __init__(self, layout: StepLayout, schedule: Schedule, array: Callable[[Any], Any]) -> None:
        self.layout, self.schedule, self._array = layout, schedule, array
        actions, end = schedule.image_passes, schedule.passes
        groups = [*[layout.image_group] * actions, *layout.action_groups][:end]
        passes = [self._chunk(index, index + 1, group) for index, group in zip_longest(range(end), groups)]
        self.frame_passes, self.action_passes = passes[:actions], passes[actions:]
        self.frame, self.action, self.whole = self._chunk(0, actions), self._chunk(actions, end), self._chunk(0, end)

    def _chunk(self, first: int, last: int, group: TokenGroup | None = None) -> Chunk:
        start, stop = self.schedule.span(first, last)
        positions_Q = self.schedule.order_P[start:stop]
        target_Q = self.layout.target_P[positions_Q]
        slot_R = target_Q[target_Q >= 0]
        pass_P = self.schedule.pass_P[self.schedule.order_P]
        own_QL = pass_P[None, :stop] <= pass_P[start:stop, None]
        return Chunk(
            first=start,
            last=stop,
            order_Q=self._array(np.arange(start, stop)),
            column_Q=self._array(self.layout.column_P[positions_Q]),
            row_R=self._array((target_Q >= 0).nonzero()[0]),
            slot_R=self._array(slot_R),
            draw_R=self._array(np.where(slot_R < self.layout.image_slots, slot_R, slot_R - self.layout.image_slots)),
            own_QL=self._array(own_QL) if last - first > 1 else None,
            group=group,
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Rows of the dreams of one call."""

    states: Sequence[CacheSlot]
    first: int
    tokens_BC: Any
    actions_BA: Any
    previous_BA: Any
    cache: KeyValueCache

    def advance_step(self) -> None:
        """Start the next step's row of tokens."""
        self.previous_BA[:] = self.actions_BA
        self.tokens_BC[:, -1] = self.tokens_BC[:, -3]


class StepDecoder(ABC):
    """Steps of any number of dreams. The states of a call must be in the order of `arrange`."""

    def __init__(self, config: TransformerConfig, layout: StepLayout, schedule: Schedule, memory: Memory) -> None:
        self.config, self.layout, self.schedule = config, layout, schedule
        self.rows, self.plan = BatchCache(config, layout, memory), DecodingPlan(layout, schedule, memory.array)
        self._offsets_A = memory.array(layout.vocab.action_offsets)
        self.slides = config.positions == "absolute"

    def begin(self) -> CacheSlot:
        """Return the state of an empty dream."""
        keep = self.config.context_steps - 1 if self.slides else 0
        return CacheSlot(window=deque(maxlen=keep))

    def arrange(self, states: Sequence[CacheSlot]) -> list[int]:
        """See `BatchCache.arrange`."""
        return self.rows.arrange(states)

    def fork(self, state: CacheSlot) -> CacheSlot:
        """Return a copy of the state. Its memory is shared until the first step of one of the two."""
        self.rows.save(state)
        window = deque(state.window, maxlen=state.window.maxlen)
        return CacheSlot(past=state.past, saved=state.saved, window=window)

    def close(self, state: CacheSlot) -> None:
        """Free the dream's memory."""
        self.rows.release(state)
        state.saved = None

    def give_frame(self, states: Sequence[CacheSlot], codes_BN: Any) -> None:
        """Open a step in every dream with a given frame."""
        batch = self.open_step(states)
        batch.tokens_BC[:, : self.layout.image_slots] = self.rows.memory.array(codes_BN)
        self.run_given(batch, self.plan.frame)

    def give_action(self, states: Sequence[CacheSlot], values_BA: Any) -> None:
        """Complete the open steps with given actions."""
        batch = self.batch(states)
        batch.actions_BA[:] = self.rows.memory.array(values_BA) + self._offsets_A
        self.run_given(batch, self.plan.action)
        self.commit_step(batch)

    def dream_action(self, states: Sequence[CacheSlot], draws: Any) -> Any:
        """Complete the open steps with sampled actions, slot by slot; returns their values [B, A]."""
        batch = self.batch(states)
        self.run_passes(batch, self.plan.action_passes, draws)
        values_BA = batch.actions_BA - self._offsets_A
        self.commit_step(batch)
        return values_BA

    @abstractmethod
    def run_given(self, batch: Batch, chunk: Chunk) -> None:
        """Run the positions of a chunk whose tokens are given; cache their keys and values."""

    @abstractmethod
    def run_passes(self, batch: Batch, passes: Sequence[Chunk], draws: Any) -> None:
        """Run passes one after the other, and write the tokens that each draws."""

    def open_step(self, states: Sequence[CacheSlot]) -> Batch:
        """Open a step in every dream."""
        for state in states:
            if self.slides and state.past >= self.config.context_steps:
                self._prefill_again(state)
        batch = self.batch(states)
        batch.advance_step()
        return batch

    def commit_step(self, batch: Batch) -> None:
        """Commit the step; until here a failed step can be repeated."""
        batch.cache.commit([state.past for state in batch.states])
        for state, tokens_C in zip(batch.states, batch.tokens_BC, strict=True):
            state.past += 1
            if self.slides:
                state.window.append(self.rows.memory.copy(tokens_C))

    def batch(self, states: Sequence[CacheSlot]) -> Batch:
        """Return the rows of arranged dreams."""
        first = states[0].row
        assert first is not None and all(s.row == first + i for i, s in enumerate(states)), "not arranged"
        rows = slice(first, first + len(states))
        return Batch(
            states=states,
            first=first,
            tokens_BC=self.rows.tokens_BC[rows],
            actions_BA=self.rows.tokens_BC[rows, self.layout.image_slots : self.layout.slots],
            previous_BA=self.rows.previous_BA[rows],
            cache=self.rows.cache.rows(rows.start, rows.stop),
        )

    def _prefill_again(self, state: CacheSlot) -> None:
        again = CacheSlot(row=state.row)
        batch = self.batch([again])
        batch.tokens_BC[:] = NO_TOKEN
        for kept_C in state.window:
            batch.advance_step()
            batch.tokens_BC[0, : self.layout.slots] = kept_C[: self.layout.slots]
            self.run_given(batch, self.plan.whole)
            batch.cache.commit([again.past])
            again.past += 1
        state.past = again.past
