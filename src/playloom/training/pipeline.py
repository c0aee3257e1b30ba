"""One training of a tokenizer, its codes and a world model, for a time budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from playloom.data.dataset import INDEX, FrameDataset
from playloom.device import pick_device
from playloom.errors import CheckpointError, ConfigError
from playloom.json_io import read_json, write_json
from playloom.training.artifacts import default_name, load_tokenizer
from playloom.training.data_source import frames_from
from playloom.training.distributed import dist_info
from playloom.training.loop import Report
from playloom.training.run import ModelJob, WorldJob, check_actions, prepare_world, run_world
from playloom.training.task import LoopConfig, Say, TrainingResult
from playloom.training.tokenizer import TokenizerTrainingConfig, train_tokenizer
from playloom.training.world_model import WorldConfig

TOKENIZER_SHARE = 0.25
"""Part of the time for the tokenizer."""
LEAST_WORLD_SHARE = 0.5
"""Least part of the time for the world model, if the codes take longer than the rest."""
OnStage = Callable[[str, float], None]
"""Called with the name of the stage that runs, and the seconds that the later ones will take."""
_STATE = "stages.json"
_GPU_CODES = 4320  # codes of pictures in a world model's batch on a GPU


@dataclass(frozen=True, kw_only=True)
class TrainingJob(ModelJob):
    """Inputs and outputs of a training of all stages; `ConfigError` for minutes that are not finite and above 0.

    The alignment is checked before the tokenizer is trained.
    """

    minutes: float
    """Time of all stages, over all sessions."""
    machine: Mapping[str, Any] = field(default_factory=dict)
    """Settings of `LoopConfig`: seed, device, threads, precision."""

    def __post_init__(self) -> None:
        if not 0 < self.minutes < math.inf:
            raise ConfigError(f"minutes is out of range: got {self.minutes:g}, expected a finite number above 0")

    def tokenizer_config(self) -> TokenizerTrainingConfig:
        """Return the tokenizer's settings: those of the arena's recipes, half the rate for fine-tuning."""
        rate = 0.001 if self.start is None else 0.0005
        loop: dict[str, Any] = {"learning_rate": rate, "beta2": 0.99, "weight_decay": 0.01}
        loop |= {"batch": 32, "warmup_steps": 200} if self._gpu else {"batch": 4, "warmup_steps": 100}
        minutes = self.minutes * TOKENIZER_SHARE
        return TokenizerTrainingConfig(loop=LoopConfig(minutes=minutes, **loop, **self.machine))

    def world_config(self, codes_seconds: float) -> WorldConfig:
        """Return the world model's settings, those of the arena's recipes, and the time that the codes leave."""
        loop: dict[str, Any] = {"optimizer": "muon", "learning_rate": 0.001}
        if self._gpu:
            loop |= {"batch": max(1, _GPU_CODES // self.model.layout.image_slots), "warmup_steps": 200}
        else:
            loop |= {"batch": 2, "muon_rate": 2.0, "schedule": "wsd", "decay_fraction": 0.5, "final_fraction": 0.0}
            loop |= {"learning_rate": 0.0015 if self.start is None else 0.001, "warmup_steps": 50, "ema_decay": 0.995}
        later = 60 * self.minutes * (1 - TOKENIZER_SHARE)
        seconds = max(later - codes_seconds, 60 * self.minutes * LEAST_WORLD_SHARE)
        return WorldConfig(
            loop=LoopConfig(minutes=seconds / 60, **loop, **self.machine),
            window_steps=16 if self._gpu else 12,
            action_weight=4.0,
            row_delay_weights=(0.2, 0.15, 0.4, 0.25),
            validation_windows=16,
        )

    @property
    def _gpu(self) -> bool:
        return pick_device(str(self.machine.get("device", "auto"))).startswith("cuda")


def train_model(
    job: TrainingJob, *, report: Report | None = None, on_stage: OnStage = lambda name, later: None, say: Say = print
) -> TrainingResult:
    """Run or resume all stages; return the result of the last one, the world model unless the tokenizer was stopped.

    A finished tokenizer is not trained again: more minutes are the world model's.
    """
    if dist_info()[1] > 1:
        raise ConfigError("a training of all stages has one process; under torchrun, train tokenizer and world apart")
    frames = frames_from(job.data, job.out / "frames", job.prepare)
    job.model.tokenizer.check_size(frames.frames_FHWC[:1])
    state = read_json(job.out / _STATE, CheckpointError, "remove it to continue") if (job.out / _STATE).exists() else {}
    tokenizer = job.out / "tokenizer"
    if "tokenizer" not in state:
        if job.alignment != "off" and not (tokenizer / "checkpoints").exists():
            say(check_actions(frames, frames, None, job.alignment))
        on_stage("1 of 3, tokenizer", 60 * job.minutes * (1 - TOKENIZER_SHARE))
        sizes = job.model.tokenizer
        result = train_tokenizer(sizes, job.tokenizer_config(), frames, tokenizer, start=job.start, report=report)
        if not result.finished:
            return result
        state["tokenizer"] = load_tokenizer(tokenizer).name
        write_json(job.out / _STATE, state)
    world = WorldJob(
        model=job.model,
        config=job.world_config(0.0),
        data=frames.folder,
        out=job.out,
        tokenizer=tokenizer,
        start=job.start,
        prepare=job.prepare,
        name=job.name or default_name(frames, job.data, job.out),
        controls=job.controls,
        alignment="off",
    )
    _make_codes(job, world, frames, state, on_stage)
    on_stage("3 of 3, world model", 0.0)
    return run_world(replace(world, config=job.world_config(state["codes_seconds"])), report=report, say=say)


def _make_codes(
    job: TrainingJob, world: WorldJob, frames: FrameDataset, state: dict[str, Any], on_stage: OnStage
) -> None:
    """Tokenise the frames; the time is kept, so that a resumed run leaves the world model as much."""
    before, began = state.setdefault("codes_seconds", 0.0), time.monotonic()

    def progress(done: int, total: int) -> None:
        spent = time.monotonic() - began
        left = spent * (total - done) / max(done, 1)
        on_stage("2 of 3, codes", 60 * job.world_config(before + spent + left).loop.minutes)  # type: ignore[operator]
        if job.prepare.progress is not None:
            job.prepare.progress(done, total)

    if (job.out / "tokens" / INDEX).exists():
        return
    progress(0, len(frames))
    try:
        prepare_world(replace(world, prepare=replace(job.prepare, progress=progress)), lambda sentence: None)
    finally:
        state["codes_seconds"] = round(before + time.monotonic() - began, 1)
        write_json(job.out / _STATE, state)
