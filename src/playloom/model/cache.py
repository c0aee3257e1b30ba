"""Keys and values of the steps a dream can still see: one ring of steps per layer. An argument, never a secret.

Step t of a layer that sees w steps lives in ring slot t mod w, position p at offset p, so a new step overwrites exactly
the step that left the window, and memory never grows. Knows nothing of tokens or of the network.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from playloom.model.config import TransformerConfig


@dataclass
class KeyValueCache:
    """A batch's cache. `keys[l]` and `values[l]` are [B, G, w P, E]: batch, key/value heads, ring, head width."""

    keys: list[Tensor]
    """Rotated keys, a tensor per layer."""
    values: list[Tensor]
    """Values, a tensor per layer."""
    windows: tuple[int, ...]
    """Steps each layer's ring holds: w."""
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

    def write(self, layer: int, slots_Q: Int[Tensor, Q], keys_BGQE: Tensor, values_BGQE: Tensor) -> None:
        """Store keys and values of one layer at ring offsets `slots_Q` (see `offsets`)."""
        self.keys[layer].index_copy_(2, slots_Q, keys_BGQE.to(self.keys[layer].dtype))
        self.values[layer].index_copy_(2, slots_Q, values_BGQE.to(self.values[layer].dtype))

    def offsets(self, window: int, step: int, positions_Q: Int[Tensor, Q]) -> Int[Tensor, Q]:
        """Ring offsets of positions of one step in a layer that sees `window` steps."""
        return (step % window) * self.positions + positions_Q

    def visible(self, window: int, step: int, own_QP: Bool[Tensor, "Q P"]) -> Bool[Tensor, "Q R"]:
        """Which ring entries each query may attend to: all of the steps before, `own_QP` of its own step."""
        mask = own_QP.new_zeros(own_QP.shape[0], window, self.positions)
        first = max(0, step - window + 1)
        mask[:, [past % window for past in range(first, step)]] = True
        mask[:, step % window] = own_QP
        return mask.flatten(1)

    def fork(self, copies: int = 1) -> KeyValueCache:
        """An independent copy (for a branch of a dream), repeated `copies` times along the batch."""
        return KeyValueCache(
            keys=[k.repeat(copies, 1, 1, 1) for k in self.keys],
            values=[v.repeat(copies, 1, 1, 1) for v in self.values],
            windows=self.windows,
            positions=self.positions,
        )

    @property
    def bytes(self) -> int:
        """Memory taken by keys and values."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))
