"""Prompts and actions for the tiny model, random and repeatable."""

import numpy as np

from playloom.actions.codec import SLOT_SIZES
from playloom.inference.types import Prompt


def prompt_of(steps: int, seed: int = 0) -> Prompt:
    source = np.random.default_rng(seed)
    actions = np.stack([source.integers(0, n, steps - 1, dtype=np.uint8) for n in SLOT_SIZES], axis=1)
    return Prompt(frames_THWC=source.integers(0, 256, (steps, 16, 24, 3), dtype=np.uint8), actions_TA=actions)


def action(seed: int) -> np.ndarray:
    source = np.random.default_rng(seed)
    return np.array([source.integers(0, n) for n in SLOT_SIZES], np.uint8)
