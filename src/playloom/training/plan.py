"""Prediction of a world model training: memory per device, speed, days and disk.

Operations and activations are counted by running the loss on tensors without data, so they follow the code. Speed is
the machine's published rate times an assumed utilisation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.utils.flop_counter import FlopCounterMode

from playloom.models.checkpoint import build_transformer
from playloom.models.config import ModelConfig
from playloom.models.decode_order import schedule
from playloom.training.optim import make_optimiser
from playloom.training.world_model import WorldConfig, WorldLoss


class Machine(NamedTuple):
    """A device by its data sheet."""

    memory: float  # bytes
    rate: float  # dense bfloat16 operations per second


MACHINES: Mapping[str, Machine] = {
    "a100": Machine(80e9, 312e12),
    "h100": Machine(80e9, 989e12),
    "h200": Machine(141e9, 989e12),
    "l40s": Machine(48e9, 362e12),
    "rtx4090": Machine(24e9, 165e12),
}
"""Data sheets' figures, without sparsity."""
RESERVED = 2e9
"""Bytes assumed for the device's context and the allocator's gaps."""


class StepCost(NamedTuple):
    """Cost of one training step on one device."""

    operations: float  # floating point operations of a window, forward and backward
    window_bytes: float  # activations and temporary tensors of one window at the step's peak
    fixed_bytes: float  # the same whatever the batch: weights in the lower precision
    parameters: float  # trained parameters
    optimizer_values: float  # values of the optimiser's state
    largest_block: float  # parameters that are gathered at once with `fsdp`: the embeddings and one block


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """Prediction of a training."""

    parameters: float  # trained parameters
    state_bytes: float  # weights, gradients, optimiser and averages of one device
    activation_bytes: float  # activations of one device
    memory_bytes: float  # state, activations and `RESERVED`
    fits: bool  # true if the device has that memory
    tokens_per_second: float  # tokens of all devices
    steps: int  # optimiser steps for all windows of all epochs
    days: float  # training time
    frame_bytes: float  # the frames as a frame dataset
    code_bytes: float  # the frames as a token dataset
    checkpoint_bytes: float  # the checkpoints kept, and one being written


def step_cost(model: ModelConfig, config: WorldConfig) -> StepCost:
    """Count operations, activations and optimiser values of a training step, without allocating its tensors.

    A deep transformer is counted with one and with two periods of its layers, and extended to its depth.
    """
    layers, period = model.transformer.layers, model.transformer.global_every
    if layers <= 2 * period:
        return _count(model, config)
    depths = (replace(model, transformer=replace(model.transformer, layers=count)) for count in (period, 2 * period))
    pairs = zip(*(_count(shallow, config) for shallow in depths), strict=True)
    return StepCost(*(first + (second - first) * (layers - period) / period for first, second in pairs))


def _count(model: ModelConfig, config: WorldConfig) -> StepCost:
    with FakeTensorMode():
        transformer = build_transformer(model)
        transformer.checkpoint_blocks = config.loop.activation_checkpointing
        loss = WorldLoss(transformer, action_weight=config.action_weight, first_step_image=False).train()
        with FlopCounterMode(display=False) as counter:
            _step(loss, config, 1)
        one, two = (_peak_bytes(loss, config, batch) for batch in (1, 2))
        groups = make_optimiser(loss, config.loop, 1.0).param_groups
        sizes = [(sum(p.numel() for p in group["params"]), bool(group.get("muon"))) for group in groups]
        blocks = [sum(p.numel() for p in block.parameters()) for block in transformer.blocks]
    total = sum(size for size, _ in sizes)
    return StepCost(
        operations=counter.get_total_flops(),
        window_bytes=two - one,
        fixed_bytes=2 * one - two,
        parameters=total,
        optimizer_values=sum(size * (1 if muon else 2) for size, muon in sizes),
        largest_block=total - sum(blocks) + max(blocks),
    )


def plan_training(
    model: ModelConfig,
    config: WorldConfig,
    *,
    frames: float,
    epochs: float,
    machine: Machine,
    devices: int,
    utilisation: float,
) -> TrainingPlan:
    """Predict a training on `frames` pictures (10 a second), at `utilisation` in (0, 1] of the machines' rate."""
    cost, loop, layout = step_cost(model, config), config.loop, model.layout
    values = (3 if loop.ema_decay else 2) * cost.parameters + cost.optimizer_values  # weights, gradients, averages
    state = 4.0 * values
    if loop.strategy == "fsdp" and devices > 1:
        state = state / devices + 4 * cost.largest_block
    activations = cost.fixed_bytes + loop.batch * cost.window_bytes
    memory = state + activations + RESERVED
    windows = epochs * frames / config.window_steps
    rate = devices * machine.rate * utilisation / cost.operations
    sizes = model.tokenizer
    return TrainingPlan(
        parameters=cost.parameters,
        state_bytes=state,
        activation_bytes=activations,
        memory_bytes=memory,
        fits=memory <= machine.memory,
        tokens_per_second=rate * config.window_steps * layout.slots,
        steps=math.ceil(windows / (loop.batch * loop.accumulate * devices)),
        days=windows / rate / 86400,
        frame_bytes=frames * sizes.frame_height * sizes.frame_width * 3,
        code_bytes=frames * (2 * layout.image_slots + layout.action_slots),
        checkpoint_bytes=4.0 * (values - cost.parameters) * (loop.keep + 1),
    )


def _peak_bytes(loss: WorldLoss, config: WorldConfig, batch: int) -> float:
    """Most bytes that a step holds beside weights and gradients."""
    tracker = MemTracker()
    tracker.track_external(loss)
    with tracker:
        _step(loss, config, batch)
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    return sum(size for kind, size in peak.items() if str(kind).rsplit(".", 1)[-1] in ("ACT", "TEMP"))


def _step(loss: WorldLoss, config: WorldConfig, batch: int) -> None:
    layout = loss.layout
    codes = torch.zeros(batch, config.window_steps, layout.image_slots, dtype=torch.long)
    values = torch.zeros(batch, config.window_steps, layout.action_slots, dtype=torch.long)
    mask = torch.from_numpy(schedule(layout).visible_PP)
    with torch.autocast("cpu", torch.bfloat16, enabled=config.loop.precision != "32-true"):
        loss(codes, values, mask).loss.backward()
    loss.zero_grad()
