"""Settings of a training run, the protocol of its tasks, and its result."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.device import check_seed, fast_bfloat16, pick_device
from playloom.errors import ConfigError

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
    metrics: Mapping[str, Tensor]  # scalars; the log detaches them


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
        """Return metrics on held-out data, a mean over ranks; modules carry averaged weights in eval mode."""

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


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """Length, optimiser and checkpoint settings of a run; `ConfigError` for values out of range."""

    steps: int | None = None
    """Stop after this many optimiser steps."""
    minutes: float | None = None
    """Stop after this much training time, over all sessions; the schedule follows it. With `steps`: the earlier end."""
    max_minutes: float | None = None
    """Save and stop this process after this long, to be resumed later; None: run to the end."""
    batch: int = 16
    """Batch size per device."""
    accumulate: int = 1
    """Batches of gradient accumulation per step."""
    strategy: Literal["ddp", "fsdp"] = "ddp"
    """With several processes: every device holds the whole model, or a shard of it (FSDP2, world models only)."""
    activation_checkpointing: bool = False
    """Compute activations again in the backward pass (Chen et al. 2016): less memory, a third more time."""
    seed: int = 0
    """Seed of the data order and of every random draw; same seed, same bytes on a CPU."""
    learning_rate: float = 3e-4
    """Peak learning rate."""
    optimizer: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon for the matrices of linear layers, AdamW for the rest."""
    muon_rate: float = 1.0
    """Learning rate of Muon's matrices over `learning_rate`."""
    schedule: Literal["cosine", "wsd"] = "cosine"
    """`cosine` (Loshchilov & Hutter 2017), or `wsd`: warm-up, stable, linear decay (Hu et al. 2024)."""
    warmup_steps: int = 100
    """Steps of linear warm-up."""
    decay_fraction: float = 0.2
    """Part of the run that decays, with `wsd`."""
    final_fraction: float = 0.02
    """Final learning rate over the peak."""
    weight_decay: float = 0.05
    """Decoupled (Loshchilov & Hutter 2019), on matrices only."""
    beta1: float = 0.9
    """AdamW's first moment."""
    beta2: float = 0.95
    """AdamW's second moment."""
    clip: float = 1.0
    """Largest norm of all gradients."""
    ema_decay: float = 0.999
    """Decay per step of the averaged weights that are validated and exported; 0: no average. Not for tokenizers."""
    log_steps: int = 10
    """Steps between log lines."""
    save_minutes: float = 3.0
    """Minutes between checkpoints."""
    save_steps: int | None = None
    """Steps between checkpoints, besides the time."""
    validate_minutes: float = 5.0
    """Minutes between validations with a preview."""
    validate_steps: int | None = None
    """Steps between validations, besides the time."""
    keep: int = 2
    """Number of checkpoints kept."""
    device: str = "auto"
    """`auto`, `cpu`, `cuda` or `cuda:N`; under torchrun one device per process."""
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    """`auto`: bf16-mixed on a GPU, and on a CPU with AVX-512 BF16 or AMX; else 32-true, as others compute it slowly."""
    threads: int | None = None
    """CPU threads; None: torch's default."""
    compile: bool = False
    """Compile the networks, for GPUs and long runs."""

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ConfigError("a run needs an end: give steps, minutes or both")
        for item in dataclasses.fields(self):
            value = getattr(self, item.name)
            if value is None or isinstance(value, bool | str):
                continue
            if item.name in _BETAS:
                fits, expected = 0 <= value < 1, "0 to below 1"
            elif item.name in _SHARES:
                fits, expected = 0 <= value <= 1, "0 to 1"
            elif item.name in _MAY_BE_ZERO:
                fits, expected = value >= 0, "0 or more"
            else:
                fits, expected = value > 0, "more than 0"
            if not (fits and value < math.inf):  # NaN compares false
                raise ConfigError(f"{item.name} is out of range: got {value}, expected {expected}")
        check_seed(self.seed)

    @property
    def bfloat16(self) -> bool:
        """True when products are computed in bfloat16, see `precision`."""
        return self.precision == "bf16-mixed" or (self.precision == "auto" and fast_bfloat16(pick_device(self.device)))


_BETAS = {"beta1", "beta2"}
_SHARES = {"decay_fraction", "final_fraction", "ema_decay"}
_MAY_BE_ZERO = {"seed", "warmup_steps", "weight_decay", "save_minutes", "validate_minutes"}
MUTABLE_ON_RESUME = frozenset(
    {"accumulate", "strategy", "activation_checkpointing", "steps", "minutes", "max_minutes", "log_steps"}
    | {"save_minutes", "save_steps", "validate_minutes", "validate_steps", "keep", "device", "precision"}
    | {"threads", "compile"}
)
"""Settings that may change on resume; any other change is refused."""
