"""The learning rate as a function of the step and of how much of the run is over.

Progress is the larger of steps done over steps asked and time spent over time asked, so a run with a time budget
always ends with its full decay.
"""

from __future__ import annotations

import math

from playloom.training.settings import LoopConfig


def progress(config: LoopConfig, step: int, elapsed_seconds: float) -> float:
    """How much of the run is over, in [0, 1], after `step` steps and this much training time."""
    parts = [0.0]
    if config.steps is not None:
        parts.append(step / config.steps)
    if config.minutes is not None:
        parts.append(elapsed_seconds / (60 * config.minutes))
    return min(1.0, max(parts))


def learning_rate_factor(config: LoopConfig, step: int, done: float) -> float:
    """Learning rate over its peak for the step after `step` steps, with `done` in [0, 1] of the run over."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * done))
    else:
        shape = min(1.0, (1 - done) / max(config.decay_fraction, 1e-9))
    return warm * (config.final_fraction + (1 - config.final_fraction) * shape)
