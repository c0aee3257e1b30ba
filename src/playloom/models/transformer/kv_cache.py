"""KV cache of the visible steps.

A layer with a window of w steps keeps its keyframes, w - 1 past steps and, behind them, the current step in decoding
order. Whatever a pass may attend to is therefore one stretch of memory: no mask, constant addresses, constant cost.
`commit` copies a complete step over the oldest past step, which may become a keyframe. Both fill from the end, so that
the stretch stays contiguous.

    keyframes      past, oldest last filled ...      own step
    [ 10 | 5 ]     [ t-2 | t-3 | ... | t-1 ]         [ pass 0, pass 1, ... ]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from playloom.models.transformer.config import TransformerConfig, Window


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionSpan:
    """Positions of a step that run now, in decoding order, and the keys they may attend to."""

    step: int  # index of this step; the maximum over the batch
    first: int  # first position that runs, in decoding order
    last: int  # one past the last position that runs; keys of earlier positions of the step are visible
    masks: Mapping[Window, Any] = field(default_factory=dict)
    """By window, where part of the stretch is hidden: bool [B or 1, 1, Q or 1, R], True where visible."""


@dataclass
class KeyValueCache:
    """Caches of a batch of sessions. `keys[l]` and `values[l]` are [B, G, (c + 1) P, E]: sessions, key/value heads,
    steps x positions, head width; c is the window's capacity. They are tensors or NumPy arrays."""

    keys: list[Any]
    values: list[Any]
    windows: tuple[Window, ...]  # of each layer
    positions: int  # positions a step: P

    @classmethod
    def empty(
        cls, config: TransformerConfig, positions: int, batch: int, zeros: Callable[[tuple[int, ...]], Any]
    ) -> KeyValueCache:
        """Allocate an empty cache of what `zeros` makes of a shape."""
        windows = tuple(config.window(layer) for layer in range(config.layers))
        lengths = [(window.capacity + 1) * positions for window in windows]
        shapes = [(batch, config.key_value_heads, length, config.head_width) for length in lengths]
        return cls(
            keys=[zeros(shape) for shape in shapes],
            values=[zeros(shape) for shape in shapes],
            windows=windows,
            positions=positions,
        )

    @staticmethod
    def bytes_each(config: TransformerConfig, positions: int, itemsize: int = 4) -> int:
        """Return the memory of one session in `empty`, whose numbers have `itemsize` bytes."""
        entries = positions * sum(config.window(layer).capacity + 1 for layer in range(config.layers))
        return 2 * entries * config.key_value_heads * config.head_width * itemsize

    @property
    def batch(self) -> int:
        """Capacity in sessions: B."""
        return len(self.keys[0])

    def rows(self, first: int, last: int) -> KeyValueCache:
        """Return a view of some sessions of the batch."""
        keys, values = ([array[first:last] for array in part] for part in (self.keys, self.values))
        return replace(self, keys=keys, values=values)

    def write(self, layer: int, first: int, keys_BGQE: Any, values_BGQE: Any) -> None:
        """Store keys and values of one layer, for positions `first`, `first` + 1, ... of the current step."""
        start = self.windows[layer].capacity * self.positions + first
        end = start + keys_BGQE.shape[2]
        self.keys[layer][:, :, start:end].copy_(keys_BGQE)
        self.values[layer][:, :, start:end].copy_(values_BGQE)

    def visible(self, layer: int, step: int, last: int) -> tuple[Any, Any]:
        """Return keys and values of the past steps and of positions before `last` of step `step`."""
        window = self.windows[layer]
        first = window.capacity - window.past_count(step)
        stretch = slice(first * self.positions, window.capacity * self.positions + last)
        return self.keys[layer][:, :, stretch], self.values[layer][:, :, stretch]

    def commit(self, steps_B: list[int]) -> None:
        """Append the current step, number `steps_B[b]` (from 0) of session b, to the past."""
        for window, keys, values in zip(self.windows, self.keys, self.values, strict=True):
            if window.steps == 1:
                continue
            ring = window.steps - 1
            slots = [window.capacity - 1 - step % ring for step in steps_B]
            number_of = {row: divmod(step - ring, window.every) for row, step in enumerate(steps_B) if step >= ring}
            kept = {row: number for row, (number, rest) in number_of.items() if rest == 0 and window.keyframes}
            for array in (keys, values):
                by_step_BGwPE = array.reshape(*array.shape[:2], window.capacity + 1, self.positions, -1)
                for row, number in kept.items():
                    place = window.keyframes - 1 - number % window.keyframes
                    by_step_BGwPE[row, :, place] = by_step_BGwPE[row, :, slots[row]]
                if len({*slots}) == 1:
                    by_step_BGwPE[:, :, slots[0]] = by_step_BGwPE[:, :, -1]
                else:  # one copy for all sessions
                    by_step_BGwPE[np.arange(len(slots)), :, np.array(slots)] = by_step_BGwPE[:, :, -1]
