"""The case of dreams as Gymnasium environments: steps a second of so many at once, and what a new episode costs.

Needs the extra `rl`; without it the case's row says so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from playloom.benchmarks.rates import now
from playloom.benchmarks.rows import BenchRow
from playloom.benchmarks.stream import median

if TYPE_CHECKING:
    from playloom.benchmarks.bundled import BundledRun
    from playloom.envs.vector import WorldModelVectorEnv

SIZES = (1, 4, 8, 16)
"""Environments at once."""


def env_rows(run: BundledRun) -> list[BenchRow]:
    """Steps a second of all environments together, contexts full, random actions; and a reset of one."""
    rows = []
    for size in SIZES:
        run.tick(f"{size} environments at once")
        envs = _environments(run, size)
        try:
            rows.append(
                BenchRow(
                    case="env",
                    name=f"{size} environment{'s' * (size > 1)} at once, all their steps",
                    value=_rate(envs, run.settings.count(20, 2)),
                    unit="steps/s",
                    floor=size / run.floor(size),
                )
            )
        finally:
            envs.close()
    return [*rows, _reset(run)]


def _environments(run: BundledRun, size: int) -> WorldModelVectorEnv:
    from playloom.envs.vector import WorldModelVectorEnv

    return WorldModelVectorEnv(size, run.dreamer, run.known, sampling=run.sampling, max_steps=None)


def _rate(envs: WorldModelVectorEnv, rounds: int) -> float:
    """Steps a second over `rounds`, after two more."""
    envs.reset(seed=0)
    envs.action_space.seed(0)
    pressed = [envs.action_space.sample() for _ in range(2 + rounds)]
    for actions in pressed[:2]:  # each dream takes a row of its own, kernels are chosen
        envs.step(actions)
    started = now(envs.dreamer.model.device)
    for actions in pressed[2:]:
        envs.step(actions)
    return envs.num_envs * rounds / (now(envs.dreamer.model.device) - started)


def _reset(run: BundledRun) -> BenchRow:
    envs, spans = _environments(run, 1), []
    try:
        for _ in range(1 + run.settings.count(9, 3)):
            started = now(run.model.device)
            envs.reset()
            spans.append(1e3 * (now(run.model.device) - started))
    finally:
        envs.close()
    return BenchRow(
        case="env",
        name="reset of one environment to a prompt that was seen before",
        value=median(spans[1:]),
        unit="ms",
        note=f"the first reset to a prompt sees it: {spans[0]:.0f} ms here, its codes known",
        detail={"milliseconds": np.round(spans[1:], 3)},
    )
