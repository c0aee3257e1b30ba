"""The training loop: steps, checkpoints, validation, reports, on Lightning Fabric.

Data and randomness of a step are functions of (seed, step, rank), so a killed run resumes exactly.

    >>> Loop(task, LoopConfig(steps=1000), Path("runs/one")).run()
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from playloom.errors import CheckpointError, PlayloomError
from playloom.json_io import to_mapping
from playloom.training.checkpoint import Snapshot, differences, load_newest, save_snapshot
from playloom.training.config import FREE_ON_RESUME, LoopConfig
from playloom.training.distributed import StopRequest, make_fabric, read_ahead
from playloom.training.logger import LoopProgress, RunLogger, Throughput, eta
from playloom.training.optim import (
    AveragedWeights,
    copy_tensors,
    learning_rate_factor,
    load_optimiser,
    make_optimiser,
    module_tensors,
    optimiser_tensors,
    progress,
    set_learning_rate,
)
from playloom.training.task import Batch, LoopResult, StepContext, Task

Report = Callable[[LoopProgress], None]


class Loop:
    """One run in one folder. Resumes when the folder holds checkpoints."""

    def __init__(self, task: Task, config: LoopConfig, folder: Path, report: Report | None = None) -> None:
        self.task, self.config, self.folder = task, config, folder
        self._report = report
        self.fabric = make_fabric(config)
        self.device = self.fabric.device
        task.to(self.device)
        self._players, self._optimisers = self._set_up()
        decay = config.ema_decay
        averaged = task.averaged if decay else frozenset[str]()
        self._averages = {name: AveragedWeights(task.players[name], decay) for name in sorted(averaged)}
        self.step, self._before, self._started = 0, 0.0, time.monotonic()
        self._saved_step, self._flops, self._validation = -1, 0.0, dict[str, float]()
        try:
            self._resume()
        except PlayloomError:
            torch.set_flush_denormal(False)  # as at the end of `run`
            raise

    def run(self) -> LoopResult:
        """Train until the end, the session's time limit, or SIGINT / SIGTERM, and leave a checkpoint.

        Raises:
            PlayloomError: when the loss stops being a number.
        """
        journal = RunLogger(self.folder, self.step) if self.fabric.is_global_zero else None
        self._started = time.monotonic()
        try:
            with StopRequest() as stop:
                self._train(journal, stop)
                if self.done >= 1 and self._saved_step != self.step:
                    self._validate(journal)
                self._save()
        finally:
            torch.set_flush_denormal(False)  # `make_fabric` set it; the program that trained may go on with other work
            if journal is not None:
                journal.close()
        return LoopResult(step=self.step, elapsed=self.elapsed, finished=self.done >= 1, validation=self._validation)

    @property
    def elapsed(self) -> float:
        """Training time in seconds, all sessions."""
        return self._before + time.monotonic() - self._started

    @property
    def done(self) -> float:
        """Part of the run done, in [0, 1]."""
        return progress(self.config, self.step, self._now)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Swap in averaged weights and eval mode inside the `with`."""
        with contextlib.ExitStack() as stack:
            for name, module in self.task.players.items():
                if name in self._averages:
                    stack.enter_context(self._averages[name].applied())
                stack.callback(module.train, module.training)
                module.eval()
            yield

    # -- set-up -------------------------------------------------------------------------------------------------

    def _set_up(self) -> tuple[dict[str, Any], dict[str, Any]]:
        players, optimisers = {}, {}
        for name, module in self.task.players.items():
            module.to(self.device)
            module.train()
            raw = make_optimiser(module, self.config, self.config.learning_rate * self.task.rates[name])
            wanted = torch.compile(module) if self.config.compile else module
            players[name], optimisers[name] = self.fabric.setup(wanted, raw)
        return players, optimisers

    def _raw(self, name: str) -> Any:
        return self._optimisers[name].optimizer

    def _identity(self) -> dict[str, Any]:
        loop = {k: v for k, v in to_mapping(self.config).items() if k not in FREE_ON_RESUME}
        return {"loop": loop, "devices": self.fabric.world_size, **self.task.identity}

    def _resume(self) -> None:
        self._now = 0.0
        snapshot = load_newest(self.folder / "checkpoints")
        if snapshot is None:
            return
        changed = differences(snapshot.identity, self._identity())
        if changed:
            raise CheckpointError(
                f"{self.folder} holds another run ({'; '.join(changed[:4])}); give the same settings, or another --out"
            )
        sections = _sections(snapshot.tensors)
        for name, module in self.task.players.items():
            copy_tensors(module_tensors(module), sections[f"model.{name}"], "the checkpoint")
            load_optimiser(module, self._raw(name), sections.get(f"optimiser.{name}", {}))
            if name in self._averages:
                copy_tensors(self._averages[name].tensors, sections[f"average.{name}"], "the checkpoint")
        self.step, self._before, self._now = snapshot.step, snapshot.elapsed, snapshot.elapsed
        self._saved_step, self._flops = snapshot.step, snapshot.flops

    # -- the loop -----------------------------------------------------------------------------------------------

    def _train(self, journal: RunLogger | None, stop: StopRequest) -> None:
        first, saved, validated = self.done, time.monotonic(), time.monotonic()
        meter, sums = self._meter(), _Means()
        ahead = read_ahead(self.task.batch, self.step * self.config.accumulate, self.device)
        while self.done < 1:
            set_factor = learning_rate_factor(self.config, self.step, self.done)
            self._one_step(ahead, set_factor, sums)
            meter.tick(self._flops)
            stopping = self._tick(stop)
            if self.step % self.config.log_steps == 0 or self.step == 1:  # one at once: it works, and how fast
                self._tell(journal, self._over_ranks(sums.take()), meter.rates(), set_factor, first)
            if self._due(validated, self.config.validate_minutes, self.config.validate_steps):
                self._validate(journal)
                validated = time.monotonic()
                meter.restart()
            if self._due(saved, self.config.save_minutes, self.config.save_steps):
                self._save()
                saved = time.monotonic()
                meter.restart()
            if stopping:
                return

    def _one_step(self, ahead: Iterator[Batch], factor: float, sums: _Means) -> None:
        seed = [self.config.seed, self.step]
        torch.manual_seed(int(np.random.SeedSequence([*seed, self.fabric.global_rank]).generate_state(1)[0]))
        moment = StepContext(self.step, self.done, np.random.default_rng(seed))
        touched: set[str] = set()
        with contextlib.ExitStack() as stack:
            # Counting takes other kernels, which round differently: so always on a run's first step, and never later.
            counter = _flop_counter(stack) if self.step == 0 else None
            for number in range(self.config.accumulate):
                touched |= self._backward(next(ahead), moment, sums, last=number == self.config.accumulate - 1)
        if counter is not None:
            self._flops = counter.get_total_flops() * self.fabric.world_size
        for name in self._players:
            if name in touched:
                self._update(name, factor, sums)
        self.step += 1
        for average in self._averages.values():
            average.update(self.step)

    def _backward(self, batch: Batch, moment: StepContext, sums: _Means, *, last: bool) -> set[str]:
        touched = set()
        with contextlib.ExitStack() as stack:
            for player in self._players.values():
                stack.enter_context(self.fabric.no_backward_sync(player, enabled=not last))
            for part in self.task.losses(self._players, batch, moment):
                self.fabric.backward(part.loss / self.config.accumulate)
                touched.add(part.player)
                sums.add(part.metrics)
        return touched

    def _update(self, name: str, factor: float, sums: _Means) -> None:
        optimiser = self._optimisers[name]
        set_learning_rate(self._raw(name), factor)
        norm = self.fabric.clip_gradients(
            self._players[name], optimiser, max_norm=self.config.clip, error_if_nonfinite=False
        )
        sums.add({"gradient" if len(self._players) == 1 else f"gradient/{name}": norm})
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def _tick(self, stop: StopRequest) -> bool:
        limit = self.config.max_minutes
        spent = time.monotonic() - self._started
        wants = stop.asked or (limit is not None and spent >= 60 * limit)
        now = torch.tensor([self.elapsed, float(wants)], dtype=torch.float64)
        if self.fabric.world_size > 1:
            now = self.fabric.broadcast(now)
        self._now = float(now[0])
        return bool(now[1])

    def _due(self, since: float, minutes: float, steps: int | None) -> bool:
        by_steps = steps is not None and self.step % steps == 0
        by_time = time.monotonic() - since >= 60 * minutes
        if self.fabric.world_size > 1:
            by_time = bool(self.fabric.broadcast(by_time))
        return (by_steps or by_time) and self.done < 1

    # -- reports ------------------------------------------------------------------------------------------------

    def _meter(self) -> Throughput:
        examples = self.config.batch * self.config.accumulate * self.fabric.world_size
        return Throughput(units_per_step={name: count * examples for name, count in self.task.units.items()})

    def _tell(
        self, journal: RunLogger | None, metrics: dict[str, float], rates: dict[str, float], factor: float, first: float
    ) -> None:
        if not all(np.isfinite(value) for value in metrics.values()):
            raise PlayloomError(
                f"the loss stopped being a number at step {self.step} ({metrics}); lower learning_rate or raise "
                "warmup_steps, and resume from the last checkpoint"
            )
        if journal is None:
            return
        left = eta(self.done, first, time.monotonic() - self._started)
        report = LoopProgress(
            step=self.step,
            fraction=self.done,
            elapsed=self._now,
            eta=left,
            learning_rate=factor * self.config.learning_rate,
            metrics=metrics,
            rates=rates,
        )
        journal.write(report)
        if self._report is not None:
            self._report(report)

    def _over_ranks(self, metrics: dict[str, float]) -> dict[str, float]:
        """Mean over all processes: each has seen only its share of the batch."""
        if self.fabric.world_size == 1:
            return metrics
        means = self.fabric.all_reduce(torch.tensor([*metrics.values()], device=self.device), reduce_op="mean")
        return dict(zip(metrics, means.tolist(), strict=True))

    def _validate(self, journal: RunLogger | None) -> None:
        if journal is not None:
            with self.averaged(), torch.no_grad():
                figures = self.task.validate()
                picture = self.task.preview()
            self._validation = figures
            if figures:
                named = {f"validation/{name}": value for name, value in figures.items()}
                self._tell(journal, named, {}, learning_rate_factor(self.config, self.step, self.done), 0.0)
            if picture is not None:
                journal.preview(self.step, picture)
        self.fabric.barrier()

    def _save(self) -> None:
        if self.fabric.is_global_zero and self._saved_step != self.step:
            tensors: dict[str, Tensor] = {}
            for name, module in self.task.players.items():
                tensors |= _prefixed(f"model.{name}", module_tensors(module))
                tensors |= _prefixed(f"optimiser.{name}", optimiser_tensors(module, self._raw(name)))
                if name in self._averages:
                    tensors |= _prefixed(f"average.{name}", self._averages[name].tensors)
            snapshot = Snapshot(
                step=self.step, elapsed=self._now, flops=self._flops, identity=self._identity(), tensors=tensors
            )
            save_snapshot(self.folder / "checkpoints", snapshot, self.config.keep)
        self._saved_step = self.step
        self.fabric.barrier()


class _Means:
    """Running means of metrics, kept on the device until read."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, Any]) -> None:
        for name, value in metrics.items():
            tensor = torch.as_tensor(value).detach()
            self._sums[name] = self._sums[name] + tensor if name in self._sums else tensor
            self._counts[name] = self._counts.get(name, 0) + 1

    def take(self) -> dict[str, float]:
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        self._sums, self._counts = {}, {}
        return means


def _flop_counter(stack: contextlib.ExitStack) -> Any:
    """Counter that watches every operation until the stack unwinds; compiled code would hide them."""
    from torch.utils.flop_counter import FlopCounterMode

    stack.enter_context(torch.compiler.set_stance("force_eager"))
    return stack.enter_context(FlopCounterMode(display=False))


def _prefixed(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}:{name}": tensor for name, tensor in tensors.items()}


def _sections(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    result: dict[str, dict[str, Tensor]] = {}
    for full, tensor in tensors.items():
        prefix, name = full.split(":", 1)
        result.setdefault(prefix, {})[name] = tensor
    return result
