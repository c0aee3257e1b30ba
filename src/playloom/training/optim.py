"""AdamW and Muon, averaged weights and the learning rate schedule, which follows the step or the time budget."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from playloom.errors import CheckpointError
from playloom.training.distributed import shard_like, whole
from playloom.training.task import LoopConfig


class MuonAdamW(AdamW):
    """Muon for the matrices of groups with `muon`, AdamW for all other parameters.

    Muon (Jordan et al. 2024) replaces the momentum of a matrix by the nearest orthogonal one. The update is scaled to
    the root mean square of AdamW's (Liu et al. 2025, section 2.2), so both share one learning rate. It computes in
    the group's `dtype`: `torch.optim.Muon` always takes bfloat16, which is slow on CPUs without native products.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update all parameters that have a gradient."""
        for group in self.param_groups:
            for parameter in group["params"] if group["muon"] else ():
                if parameter.grad is not None:
                    self._orthogonal_step(parameter, group)
                    parameter.grad = None  # AdamW leaves parameters without a gradient alone
        return super().step(closure)

    def _orthogonal_step(self, parameter: Tensor, group: Mapping[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum, gradient = state["momentum"], parameter.grad
        assert gradient is not None
        momentum.lerp_(gradient, 1 - group["momentum"])
        matrix = gradient.lerp(momentum, group["momentum"]).flatten(1)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        parts = torch.split(whole(matrix), matrix.shape[1])
        steps = [orthogonalize(part, group["dtype"]) * (0.2 * max(part.shape) ** 0.5) for part in parts]
        step = torch.cat(steps).view(parameter.shape)
        parameter.add_(shard_like(step, parameter), alpha=-group["lr"])


def orthogonalize(matrix: Tensor, dtype: torch.dtype = torch.float32, iterations: int = 5) -> Tensor:
    """Return the nearest semi-orthogonal matrix, approximately, by Newton-Schulz iterations in `dtype`."""
    first, third, fifth = 3.4445, -4.7750, 2.0315  # of Jordan et al. 2024: singular values end near 1
    wide = matrix.mT if matrix.shape[0] > matrix.shape[1] else matrix
    x = (wide / wide.norm().clamp_min(1e-7)).to(dtype)
    for _ in range(iterations):
        square = x @ x.mT
        x = first * x + (third * square + fifth * square @ square) @ x
    return (x.mT if matrix.shape[0] > matrix.shape[1] else x).to(matrix.dtype)


def make_optimiser(module: nn.Module, config: LoopConfig, learning_rate: float) -> Optimizer:
    """Return the optimiser of one module; decoupled decay on matrices only; each group keeps its peak rate as `peak`.

    With `muon` it takes the matrices of linear layers; one with more rows than columns counts as several.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    layers = nn.Linear | nn.Conv2d
    matrices = {f"{name}.weight" for name, layer in module.named_modules() if isinstance(layer, layers)}
    muon = matrices if config.optimizer == "muon" else set()
    plain = [p for name, p in trained.items() if name not in muon]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in plain if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in plain if p.dim() < 2], "weight_decay": 0.0},
        {
            "params": [p for name, p in trained.items() if name in muon],
            "weight_decay": config.weight_decay,
            "muon": True,
            "dtype": torch.bfloat16 if config.bfloat16 else torch.float32,
            "peak": learning_rate * config.muon_rate,
        },
    ]
    groups = [{"muon": False, "momentum": 0.95, "peak": learning_rate, **group} for group in groups if group["params"]]
    betas = (config.beta1, config.beta2)
    optimizer = MuonAdamW if config.optimizer == "muon" else AdamW
    return optimizer(groups, lr=learning_rate, betas=betas, fused=True)


def module_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and persistent buffers by name."""
    return dict(module.state_dict(keep_vars=True))


def optimiser_tensors(module: nn.Module, optimiser: Optimizer) -> dict[str, Tensor]:
    """Return the optimiser's state as `<parameter>/<key>`."""
    named = {}
    for name, parameter in module.named_parameters():
        for key, value in optimiser.state.get(parameter, {}).items():
            named[f"{name}/{key}"] = value
    return named


def load_optimiser(module: nn.Module, optimiser: Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Restore the result of `optimiser_tensors`."""
    parameters = dict(module.named_parameters())
    for full, tensor in tensors.items():
        name, key = full.rsplit("/", 1)
        parameter = parameters[name]
        if tensor.shape == parameter.shape:  # in its memory order: fused kernels pair elements by their place in memory
            state = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False)
            state.copy_(shard_like(tensor, state))
        else:
            state = tensor.clone().to(parameter.device)
        optimiser.state[parameter][key] = state


def copy_tensors(targets: Mapping[str, Tensor], sources: Mapping[str, Tensor]) -> None:
    """Copy in place, by name; raise CheckpointError when names or shapes differ."""
    shapes = [{name: tuple(tensor.shape) for name, tensor in part.items()} for part in (targets, sources)]
    if shapes[0] != shapes[1]:
        wrong = sorted(set(shapes[0].items()) ^ set(shapes[1].items()))
        raise CheckpointError(f"the checkpoint does not fit this model: {wrong[0][0]} differs; choose another --out")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(shard_like(sources[name], target))


class AveragedWeights:
    """Moving average of a module's parameters (Polyak & Juditsky 1992), its decay warmed up; buffers are copied."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self._live = module_tensors(module)
        self.tensors = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        sources = {name: tensor.detach() for name, tensor in self._live.items() if isinstance(tensor, nn.Parameter)}
        self._sources, self._averaged = [*sources.values()], [self.tensors[name] for name in sources]
        self._copied = self._live.keys() - sources

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Average in the weights after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._averaged, self._sources, 1 - decay)
        for name in self._copied:
            self.tensors[name].copy_(self._live[name])

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Swap the averaged weights into the module inside the `with`."""
        kept = {name: tensor.detach().clone() for name, tensor in self._live.items()}
        copy_tensors(self._live, self.tensors)
        try:
            yield
        finally:
            copy_tensors(self._live, kept)


def progress(config: LoopConfig, step: int, elapsed_seconds: float) -> float:
    """Return the part of the run done, in [0, 1], after `step` steps and this much training time."""
    by_steps = 0.0 if config.steps is None else step / config.steps
    by_time = 0.0 if config.minutes is None else elapsed_seconds / (60 * config.minutes)
    return min(1.0, max(by_steps, by_time))


def learning_rate_factor(config: LoopConfig, step: int, done: float) -> float:
    """Return the learning rate over its peak for the step after `step` steps, at `done` in [0, 1] of the run."""
    warm = min(1.0, (step + 1) / max(config.warmup_steps, 1))
    if config.schedule == "cosine":
        shape = 0.5 * (1 + math.cos(math.pi * done))
    else:
        shape = min(1.0, (1 - done) / max(config.decay_fraction, 1e-9))
    return warm * (config.final_fraction + (1 - config.final_fraction) * shape)
