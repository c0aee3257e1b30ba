"""The task protocol of the training loop, and the loop's result."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Batch = dict[str, Tensor]  # named tensors, on the CPU from a task, on the device in a loss
Say = Callable[[str], None]  # receives one sentence about each stage


@dataclass(frozen=True)
class StepContext:
    """Progress and randomness of a training step."""

    step: int
    fraction: float
    random: np.random.Generator  # generator of this step; the same on every device


@dataclass(frozen=True)
class ModuleLoss:
    """A loss and the module it trains."""

    module: str  # name in `Task.modules`
    loss: Tensor  # scalar; its backward pass runs before the next loss is computed
    metrics: Mapping[str, Tensor]


class Task(Protocol):
    """Modules, data and losses of a training. Each module has its own optimiser; a GAN has two."""

    modules: dict[str, nn.Module]  # trained modules by name; frozen ones are elsewhere in the task
    averaged: frozenset[str]  # names of modules with averaged weights (if the config averages at all)
    rates: dict[str, float]  # peak learning rate of each module, over the config's
    units: dict[str, int]  # units of one example, such as {"pictures": 1}
    run_config: dict[str, Any]  # JSON values that must not change on resume (configs, data fingerprints)

    def to(self, device: torch.device) -> None:
        """Move everything that is not a trained module."""

    def batch(self, seen: int) -> Batch:
        """Return this rank's share of the batch after `seen` examples of all ranks: a pure function."""

    def losses(self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext) -> Iterator[ModuleLoss]:
        """Yield the losses of one batch on the given (wrapped) modules."""

    def validate(self) -> dict[str, float]:
        """Return metrics on held-out data; modules carry averaged weights in eval mode."""

    def preview(self) -> NDArray[np.uint8] | None:
        """Return a picture strip, uint8 [H, W, 3]."""


@dataclass(frozen=True)
class TrainingResult:
    """Result of a training."""

    step: int  # optimiser steps done, all sessions
    elapsed: float  # training time in seconds, all sessions
    finished: bool  # false if the run stopped early and can be resumed
    validation: dict[str, float]  # metrics of the last validation, if there was one in this session
    path: Path  # folder of the export, else of the run
