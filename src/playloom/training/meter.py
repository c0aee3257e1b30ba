"""Counting: floating point operations of a step, and what was achieved a second.

Operations are counted once, on a run's first step, by watching the matrix products, convolutions and attentions that
run; a part that joins later (a discriminator) is not in the count.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report of a running loop."""

    step: int
    """Optimiser steps done."""
    fraction: float
    """How much of the run is over, in [0, 1]."""
    elapsed: float
    """Training time so far, all pieces, in seconds."""
    eta: float
    """Estimated seconds to the end."""
    learning_rate: float
    """The learning rate in force, of the first optimiser."""
    metrics: Mapping[str, float]
    """Means since the last report; `loss` among them, or the `validation/...` figures."""
    rates: Mapping[str, float]
    """Units a second (pictures, tokens) and `flops` (floating point operations a second) since the last report."""


@dataclass
class Meter:
    """Time, units and operations since the last report."""

    units_per_step: Mapping[str, int]
    """What one optimiser step takes in, over all devices."""
    _steps: int = 0
    _flops: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def tick(self, flops: float) -> None:
        """One more step, of this many operations over all devices."""
        self._steps += 1
        self._flops = flops

    def rates(self) -> dict[str, float]:
        """Units and operations a second since the last call."""
        now = time.monotonic()
        per_second = self._steps / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        rates = {name: count * per_second for name, count in self.units_per_step.items()}
        return {**rates, "flops": self._flops * per_second}

    def restart(self) -> None:
        """Forget the time since the last report (it went into a validation or a checkpoint)."""
        self._steps, self._since = 0, time.monotonic()


def eta(fraction: float, first: float, seconds: float) -> float:
    """Seconds to go, when `seconds` took the run from fraction `first` to `fraction`."""
    gained = fraction - first
    return (1 - fraction) * seconds / gained if gained > 0 else float("inf")
