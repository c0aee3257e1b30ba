"""KV cache of the visible steps.

A layer with a window of w steps keeps w - 1 past steps and, behind them, the current step in decoding order. Whatever a
pass may attend to is therefore one stretch of memory: no mask, constant addresses, constant cost. `commit` copies a
complete step over the oldest past step. Past steps fill from the end, so that the stretch stays contiguous.

    past, oldest last filled ...      own step
    [ t-2 | t-3 | ... | t-1 ]         [ pass 0, pass 1, ... ]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from playloom.models.transformer.config import TransformerConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionSpan:
    """Positions of a step that run now, in decoding order, and the keys they may attend to."""

    past_steps: int  # complete steps before this one; the maximum over the batch
    first: int  # first position that runs, in decoding order
    last: int  # one past the last position that runs; keys of earlier positions of the step are visible
    masks: Mapping[int, Tensor] = field(default_factory=dict)
    """By window, where part of the stretch is hidden: bool [B or 1, 1, Q or 1, R], True where visible."""


@dataclass
class KeyValueCache:
    """Caches of a batch of sessions. `keys[l]` and `values[l]` are [B, G, w P, E]: sessions, key/value heads, steps
    x positions, head width."""

    keys: list[Tensor]
    values: list[Tensor]
    windows: tuple[int, ...]  # steps each layer attends to, its own included: w
    positions: int  # positions a step: P

    @classmethod
    def empty(
        cls,
        config: TransformerConfig,
        positions: int,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> KeyValueCache:
        """Allocate an empty cache."""
        windows = tuple(config.window_steps(layer) for layer in range(config.layers))
        shapes = [(batch, config.key_value_heads, window * positions, config.head_width) for window in windows]
        return cls(
            keys=[torch.zeros(shape, device=device, dtype=dtype) for shape in shapes],
            values=[torch.zeros(shape, device=device, dtype=dtype) for shape in shapes],
            windows=windows,
            positions=positions,
        )

    @staticmethod
    def bytes_each(config: TransformerConfig, positions: int, dtype: torch.dtype = torch.float32) -> int:
        """Return the memory of one session in `empty`."""
        entries = positions * sum(config.window_steps(layer) for layer in range(config.layers))
        return 2 * entries * config.key_value_heads * config.head_width * dtype.itemsize

    @property
    def batch(self) -> int:
        """Capacity in sessions: B."""
        return len(self.keys[0])

    def rows(self, first: int, last: int) -> KeyValueCache:
        """Return a view of some sessions of the batch."""
        keys, values = ([tensor[first:last] for tensor in part] for part in (self.keys, self.values))
        return replace(self, keys=keys, values=values)

    def write(self, layer: int, first: int, keys_BGQE: Tensor, values_BGQE: Tensor) -> None:
        """Store keys and values of one layer, for positions `first`, `first` + 1, ... of the current step."""
        start = (self.windows[layer] - 1) * self.positions + first
        end = start + keys_BGQE.shape[2]
        self.keys[layer][:, :, start:end].copy_(keys_BGQE)
        self.values[layer][:, :, start:end].copy_(values_BGQE)

    def visible(self, layer: int, past_steps: int, last: int) -> tuple[Tensor, Tensor]:
        """Return keys and values of the past steps and of positions before `last` of the current step."""
        past = self.windows[layer] - 1
        stretch = slice((past - min(past_steps, past)) * self.positions, past * self.positions + last)
        return self.keys[layer][:, :, stretch], self.values[layer][:, :, stretch]

    def commit(self, steps_B: list[int]) -> None:
        """Append the current step, number `steps_B[b]` (from 0) of session b, to the past."""
        for window, keys, values in zip(self.windows, self.keys, self.values, strict=True):
            if window == 1:
                continue
            slots = [window - 2 - step % (window - 1) for step in steps_B]
            for tensor in (keys, values):
                by_step_BGwPE = tensor.view(*tensor.shape[:2], window, self.positions, -1)
                if len({*slots}) == 1:
                    by_step_BGwPE[:, :, slots[0]] = by_step_BGwPE[:, :, -1]
                else:  # one copy for all sessions
                    rows_B = torch.arange(len(slots), device=tensor.device)
                    slot_B = torch.tensor(slots, device=tensor.device)
                    by_step_BGwPE[rows_B, :, slot_B] = by_step_BGwPE[:, :, -1]
