"""Keys and values of the steps a dream can still see. An argument, never a secret; knows nothing of tokens.

A layer that sees w steps keeps w - 1 past steps and, behind them, the step that is being run, in the order it is run.
So whatever a pass may attend to is one stretch of memory: no mask, the same addresses for the same pass of every step,
and a cost that stays as a dream goes on. When a step is complete, `commit` copies it over the oldest past step. Past
steps fill from the end, so that the stretch stays one while there are fewer than w - 1 of them.

    past, oldest last filled ...      own step
    [ t-2 | t-3 | ... | t-1 ]         [ pass 0, pass 1, ... ]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from playloom.models.transformer.config import TransformerConfig


@dataclass(frozen=True, kw_only=True, eq=False)
class AttentionSpan:
    """Which places of a step are run, in the order of the passes, and what they may attend to."""

    past_steps: int
    """Complete steps before this one; of the dream that has most."""
    first: int
    """First place that is run."""
    last: int
    """One past the last place that is run; keys of the step's places before it can be seen."""
    masks: Mapping[int, Tensor] = field(default_factory=dict)
    """By window, where not all of the stretch may be seen: bool [B or 1, 1, Q or 1, R], True where it may."""


@dataclass
class KeyValueCache:
    """Caches of a batch of dreams. `keys[l]` and `values[l]` are [B, G, w P, E]: dreams, key/value heads, steps x
    positions, head width."""

    keys: list[Tensor]
    """Rotated keys, a tensor per layer."""
    values: list[Tensor]
    """Values, a tensor per layer."""
    windows: tuple[int, ...]
    """Steps each layer attends to, its own included: w."""
    positions: int
    """Positions a step: P."""

    @classmethod
    def empty(
        cls,
        config: TransformerConfig,
        positions: int,
        batch: int,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> KeyValueCache:
        """A cache with nothing in it, all memory taken at once."""
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
        """Memory that `empty` takes for one dream."""
        entries = positions * sum(config.window_steps(layer) for layer in range(config.layers))
        return 2 * entries * config.key_value_heads * config.head_width * dtype.itemsize

    @property
    def batch(self) -> int:
        """Dreams there is room for: B."""
        return len(self.keys[0])

    @property
    def bytes(self) -> int:
        """Memory taken by keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def rows(self, first: int, last: int) -> KeyValueCache:
        """A view of some dreams of the batch; what is written there is written here."""
        return KeyValueCache(
            keys=[k[first:last] for k in self.keys],
            values=[v[first:last] for v in self.values],
            windows=self.windows,
            positions=self.positions,
        )

    def write(self, layer: int, first: int, keys_BGQE: Tensor, values_BGQE: Tensor) -> None:
        """Store keys and values of one layer, for places `first`, `first` + 1, ... of the step that is being run."""
        start = (self.windows[layer] - 1) * self.positions + first
        end = start + keys_BGQE.shape[2]
        self.keys[layer][:, :, start:end].copy_(keys_BGQE)
        self.values[layer][:, :, start:end].copy_(values_BGQE)

    def visible(self, layer: int, past_steps: int, last: int) -> tuple[Tensor, Tensor]:
        """Keys and values of the past steps and of places before `last` of the step that is being run."""
        stretch = slice(self.start(layer, past_steps), (self.windows[layer] - 1) * self.positions + last)
        return self.keys[layer][:, :, stretch], self.values[layer][:, :, stretch]

    def start(self, layer: int, past_steps: int) -> int:
        """Where the stretch that can be seen begins, with `past_steps` complete steps."""
        window = self.windows[layer]
        return (window - 1 - min(past_steps, window - 1)) * self.positions

    def commit(self, steps_B: list[int]) -> None:
        """The step that was run is complete, and number `steps_B[b]` (from 0) of dream b: it joins the past."""
        for window, keys, values in zip(self.windows, self.keys, self.values, strict=True):
            if window == 1:
                continue
            slots = [window - 2 - step % (window - 1) for step in steps_B]
            for tensor in (keys, values):
                by_step_BGwPE = tensor.view(*tensor.shape[:2], window, self.positions, -1)
                if len({*slots}) == 1:  # dreams in step with each other
                    by_step_BGwPE[:, :, slots[0]] = by_step_BGwPE[:, :, -1]
                else:  # still one copy for all of them, not one each
                    rows_B = torch.arange(len(slots), device=tensor.device)
                    slot_B = torch.tensor(slots, device=tensor.device)
                    by_step_BGwPE[rows_B, :, slot_B] = by_step_BGwPE[:, :, -1]

    def take(self, row: int) -> list[Tensor]:
        """A copy of everything one dream has seen, for `put`."""
        return [t[row].clone() for t in (*self.keys, *self.values)]

    def put(self, row: int, taken: list[Tensor]) -> None:
        """Bring back what `take` returned, into any row."""
        for tensor, saved in zip((*self.keys, *self.values), taken, strict=True):
            tensor[row].copy_(saved)

    def copy(self, source: int, target: int) -> None:
        """What one dream has seen, into another row."""
        for tensor in (*self.keys, *self.values):
            copy_row(tensor, source, target)

    def exchange(self, one: int, other: int) -> None:
        """Two dreams change places; takes memory for one row of one layer on the way."""
        for tensor in (*self.keys, *self.values):
            exchange_rows(tensor, one, other)


def copy_row(tensor: Tensor, source: int, target: int) -> None:
    """One row over another; takes no memory."""
    tensor[target].copy_(tensor[source])


def exchange_rows(tensor: Tensor, one: int, other: int) -> None:
    """Two rows change places; takes memory for one."""
    kept = tensor[one].clone()
    copy_row(tensor, other, one)
    tensor[other].copy_(kept)
