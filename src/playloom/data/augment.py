"""Changes to training examples that keep them true: brightness, and mirroring picture and controller together.

A mirrored picture alone would teach nonsense: turning right would move the scene the wrong way. Mirroring also
mirrors any text in the picture, so it is off unless asked for. B batch, H W C picture.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import mirror_values

if TYPE_CHECKING:  # rendering workers import this file and have no use for torch
    from torch import Tensor

_MIRRORED_STATES = ("y", "yaw")
"""A world mirrored about its x axis has these state columns with the other sign."""


def brightness(frames_BHWC: Tensor, factors_B: Tensor) -> Tensor:
    """Scale each picture's brightness; uint8 [B, H, W, 3] in, the same out, clipped to [0, 255]."""
    import torch

    scaled = frames_BHWC.float() * factors_B.to(frames_BHWC.device)[:, None, None, None]
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def brightness_factors(count: int, amount: float, generator: np.random.Generator) -> Tensor:
    """Factors in [1 - amount, 1 + amount], float32 [count]."""
    import torch

    return torch.from_numpy(generator.uniform(1 - amount, 1 + amount, count).astype(np.float32))


def mirror_frames(frames_BHWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Pictures seen in a mirror: columns reversed, uint8 [..., H, W, 3]."""
    return np.ascontiguousarray(frames_BHWC[..., ::-1, :])


def mirror_step(
    frames_BHWC: NDArray[np.uint8], actions_BA: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Mirror pictures uint8 [..., H, W, 3] and action values uint8 [..., 16] together."""
    return mirror_frames(frames_BHWC), mirror_values(actions_BA)


def mirror_states(states_TS: NDArray[np.float32], columns: Sequence[str]) -> NDArray[np.float32]:
    """States of the mirrored world, float32 [..., S]: y and yaw change their sign."""
    mirrored = states_TS.copy()
    for name in _MIRRORED_STATES:
        if name in columns:
            mirrored[..., list(columns).index(name)] *= -1
    return mirrored
