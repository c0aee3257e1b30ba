"""What the cases of a named size share: random weights on a device, a full context, the times of frames.

Speed does not depend on what the weights say. Knows no rows but those that say why there are none.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions.codec import SLOT_SIZES
from playloom.benchmarks.attempt import Found, rows_or_why
from playloom.benchmarks.floor import frame_cost, tokenizer_cost
from playloom.benchmarks.rates import Rates, measure_rates, now
from playloom.benchmarks.rows import BenchRow
from playloom.benchmarks.settings import GPU_PRESETS, BenchSettings
from playloom.benchmarks.stream import Tick, time_dream
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel
from playloom.models.world_model import ModelConfig, build_tokenizer, build_transformer, require_memory

WARM = 3
"""Frames before the clock starts: kernels are chosen and graphs captured in them."""
MANY_PRESET = "200m"
"""The size whose many dreams and published positions are measured; with other sizes asked for, the first of them."""


@dataclass(kw_only=True)
class ShapeRun:
    """What the cases of all sizes on one device share."""

    settings: BenchSettings
    """How much to measure."""
    device: torch.device
    """Where."""
    tick: Tick
    """Told what is being measured."""
    found: Found = lambda _: None
    """Told every row."""

    @cached_property
    def dtype(self) -> torch.dtype:
        """Of weights and cache."""
        return self.settings.dtype_on(self.device)

    @cached_property
    def rates(self) -> Rates:
        """Of this device, now."""
        self.tick(f"bandwidth and matrix rate of {self.device}")
        return measure_rates(self.device, self.dtype, 0.2 if self.settings.quick else 1.0)

    @property
    def names(self) -> tuple[str, ...]:
        """The sizes to measure."""
        return self.settings.presets or GPU_PRESETS

    @property
    def many_name(self) -> str:
        """The size of the cases that take only one."""
        return MANY_PRESET if MANY_PRESET in self.names else self.names[0]

    def build(self, config: ModelConfig, sessions: int = 1) -> WorldModel:
        """Random weights on the device, those of the pixel decoder in the same dtype.

        Raises:
            PlayloomError: when weights and caches of so many dreams do not fit; nothing was allocated then.
        """
        require_memory(config, self.device, dtype=self.dtype, sessions=sessions)
        model = WorldModel(
            config=config,
            tokenizer=build_tokenizer(config, seed=self.settings.seed).eval().requires_grad_(False),
            transformer=build_transformer(config, seed=self.settings.seed).eval().requires_grad_(False),
        )
        model.tokenizer.decoder.to(self.dtype)
        return model.to(self.device, self.dtype)

    def attempt(self, case: str, name: str, measure: Callable[[], list[BenchRow]]) -> list[BenchRow]:
        """The rows, or why there are none; the device's memory is free again afterwards."""
        try:
            return rows_or_why(case, name, "ms", measure, self.found)
        finally:
            give_back(self.device)

    def frame_floor(self, dreamer: Engine, sessions: int = 1) -> float:
        """Least seconds of one frame of so many dreams, pixels included."""
        model = dreamer.model
        cost = frame_cost(model.config, dreamer.schedule, self.dtype, sessions)
        return (cost + tokenizer_cost(model.tokenizer, decode=sessions)).seconds(self.rates)


def rolling(config: ModelConfig) -> ModelConfig:
    """A size made over to rolling positions and rows; all else stays."""
    sizes = dataclasses.replace(config.transformer, positions="rolling")
    return dataclasses.replace(config, rows=True, transformer=sizes)


def random_prompt(config: ModelConfig, seed: int, steps: int | None = None) -> tuple[Prompt, NDArray[np.uint8]]:
    """A full context (or `steps` steps) of random codes and actions, and 64 more actions uint8 [64, 16]."""
    source = np.random.default_rng(seed)
    steps = steps or config.transformer.context_steps
    codes_TN = source.integers(0, config.layout.vocab.codebook_size, (steps, config.layout.image_slots))
    actions_TA = np.stack([source.integers(0, n, steps + 63, dtype=np.uint8) for n in SLOT_SIZES], axis=1)
    height, width = config.tokenizer.frame_height, config.tokenizer.frame_width
    frames_THWC = np.zeros((steps, height, width, 3), np.uint8)  # never looked at: the codes are given
    return Prompt(frames_THWC=frames_THWC, actions_TA=actions_TA[: steps - 1], codes_TN=codes_TN), actions_TA[
        steps - 1 :
    ]


def frame_spans(run: ShapeRun, dreamer: Engine) -> NDArray[np.float64]:
    """Seconds of single frames, the context full; frames before the clock let kernels and graphs settle."""
    frames = run.settings.count(10, 2)
    prompt, actions = random_prompt(dreamer.model.config, run.settings.seed)
    times = time_dream(dreamer, prompt, actions, WARM + frames, sampling=Sampling(), seed=run.settings.seed)
    return times.frames_F[WARM:]


def prefill_spans(run: ShapeRun, dreamer: Engine, steps: int) -> NDArray[np.float64]:
    """Seconds to open a dream on `steps` encoded steps."""
    prompt, _ = random_prompt(dreamer.model.config, run.settings.seed, steps)
    spans = []
    for _ in range(run.settings.count(5, 2) + 1):
        started = now(run.device)
        session = dreamer.open(prompt, sampling=Sampling())
        spans.append(now(run.device) - started)
        session.close()
    return np.array(spans[1:])


def give_back(device: torch.device) -> None:
    """Memory that torch keeps for later use counts as taken; hand it back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
