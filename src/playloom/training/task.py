"""What a training loop needs to know of a task, and what it says at the end. Data and one protocol, no work.

A player is a module with an optimiser of its own; a GAN has two.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Batch = dict[str, Tensor]
"""Named tensors, on the CPU as a task makes them, on the device as a loss gets them."""


@dataclass(frozen=True)
class StepContext:
    """Where a run stands when a loss is computed."""

    step: int
    """Optimiser steps done."""
    fraction: float
    """How much of the run is over, in [0, 1]."""
    random: np.random.Generator
    """Draws of this step; the same on every device."""


@dataclass(frozen=True)
class ModuleLoss:
    """A loss, and the player whose gradients it is for."""

    player: str
    """Name in `Task.players`."""
    loss: Tensor
    """Scalar; its backward pass runs before the next loss is asked for."""
    metrics: Mapping[str, Tensor]
    """Scalars to report, detached."""


class Task(Protocol):
    """What a loop trains. A player is a module with an optimiser of its own; a GAN has two."""

    players: dict[str, nn.Module]
    """The trained modules. Anything frozen lives elsewhere in the task."""
    averaged: frozenset[str]
    """Players whose weights are averaged (if the config averages at all)."""
    rates: dict[str, float]
    """Peak learning rate of each player over the config's."""
    units: dict[str, int]
    """What one example counts for in the rates, such as {"pictures": 1}."""
    identity: dict[str, Any]
    """Facts that must not change when a run is resumed (configs, data fingerprints)."""

    def to(self, device: torch.device) -> None:
        """Move whatever is not a player."""

    def batch(self, index: int) -> Batch:
        """Batch number `index` of this rank: a pure function."""

    def losses(self, players: Mapping[str, nn.Module], batch: Batch, moment: StepContext) -> Iterator[ModuleLoss]:
        """The losses of one batch, one after the other, on the given (wrapped) players."""

    def validate(self) -> dict[str, float]:
        """Figures on held-out data; the players carry their averaged weights and are in eval mode."""

    def preview(self) -> NDArray[np.uint8] | None:
        """A picture strip uint8 [H, W, 3] of where the model stands."""


@dataclass(frozen=True)
class LoopResult:
    """How a call of `Loop.run` ended."""

    step: int
    """Optimiser steps done, all sessions."""
    elapsed: float
    """Training time in seconds, all sessions."""
    finished: bool
    """Whether the run reached its end; else it waits to be resumed."""
    validation: dict[str, float]
    """Figures of the last validation, if there was one in this session."""
