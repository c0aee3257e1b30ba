"""Steps of many dreams with a KV cache, whatever runs the passes: states, chunks of a step, order of the work.

All dreams of a call advance as one batch, whatever the length of their contexts. With absolute positions every position
changes when the window slides, so its last steps are run again, here and nowhere else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from playloom.inference.batch_cache import BatchCache, CacheSlot, Memory
from playloom.models.decode_order import Schedule
from playloom.models.sequence import NO_TOKEN, StepLayout
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.kv_cache import KeyValueCache


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


class DecodingPlan:
    """The chunks of one step; `array` makes a decoder's kind of array of a NumPy array."""

    def __init__(self, layout: StepLayout, schedule: Schedule, array: Callable[[Any], Any] = np.asarray) -> None:
        self.layout, self.schedule, self._array = layout, schedule, array
        actions, end = schedule.image_passes, schedule.passes
        self.frame_passes = [self._chunk(index, index + 1) for index in range(actions)]
        self.action_passes = [self._chunk(index, index + 1) for index in range(actions, end)]
        self.frame, self.action, self.whole = self._chunk(0, actions), self._chunk(actions, end), self._chunk(0, end)

    def _chunk(self, first: int, last: int) -> Chunk:
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
        self.rows = BatchCache(config, layout, memory)
        self.slides = config.positions == "absolute"

    @property
    def bytes_each(self) -> int:
        """Memory of one dream's cache."""
        return self.rows.bytes_each

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

    @abstractmethod
    def run_whole_step(self, batch: Batch) -> None:
        """Run all positions of a step whose tokens are given; cache their keys and values."""

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
            self.run_whole_step(batch)
            batch.cache.commit([again.past])
            again.past += 1
        state.past = again.past
