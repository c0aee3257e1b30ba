"""The training loop: steps, checkpoints, validation, reports, on Lightning Fabric.

Data and randomness of a step are functions of (seed, step, rank), so a killed run resumes exactly.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from playloom.errors import CheckpointError, PlayloomError
from playloom.training.checkpoint import Snapshot, differences, load_newest, save_snapshot
from playloom.training.distributed import make_fabric, read_ahead, sharded_parts, stop_requests, whole
from playloom.training.logger import LoopProgress, Meter, RunLogger
from playloom.training.optim import (
    AveragedWeights,
    copy_tensors,
    learning_rate_factor,
    load_optimiser,
    make_optimiser,
    module_tensors,
    optimiser_tensors,
    progress,
)
from playloom.training.task import MUTABLE_ON_RESUME, Batch, LoopConfig, StepContext, Task, TrainingResult

Report = Callable[[LoopProgress], None]


class Loop:
    """One run in one folder. Resumes when the folder holds checkpoints."""

    def __init__(self, task: Task, config: LoopConfig, folder: Path, report: Report | None = None) -> None:
        self.task, self.config, self.folder = task, config, folder
        self._report = report
        self.fabric = make_fabric(config)
        self.device = self.fabric.device
        task.to(self.device)
        self._modules: dict[str, Any] = {}
        self._optimisers: dict[str, Any] = {}
        for name, module in task.modules.items():
            module.to(self.device).train()
            # Sharding replaces parameters, so the optimiser comes after it.
            self._modules[name] = self.fabric.setup_module(torch.compile(module) if config.compile else module)
            optimiser = make_optimiser(module, config, config.learning_rate * task.rates[name])
            self._optimisers[name] = self.fabric.setup_optimizers(optimiser)
        averaged = sorted(task.averaged) if config.ema_decay else []
        self._averages = {name: AveragedWeights(task.modules[name], config.ema_decay) for name in averaged}
        self._sharded = config.strategy == "fsdp" and self.fabric.world_size > 1
        self.step, self._seen, self._before, self._now, self._started = 0, 0, 0.0, 0.0, time.monotonic()
        self._saved_step, self._flops, self._validation, self._first = -1, 0.0, dict[str, float](), 0.0
        self._logger: RunLogger | None = None
        self._resume()

    def run(self) -> TrainingResult:
        """Train until the end, the session's time limit, or SIGINT / SIGTERM, and leave a checkpoint."""
        if self.fabric.is_global_zero and self.done < 1:  # the log of a finished run is complete
            self._logger = RunLogger(self.folder, self.step)
        self._started, self._first = time.monotonic(), self.done
        torch.set_flush_denormal(self.device.type == "cpu")  # denormals in the averages are slow on a CPU
        try:
            with stop_requests() as stop:
                if self.step == 0 and "start" in self.task.run_config:
                    self._validate()  # the figures to compare with: a renewed rate makes the first ones worse
                    self._started = time.monotonic()
                self._train(stop)
                if self.done >= 1:  # also in a finished run: its export names the metrics
                    self._validate()
                self._save()
        finally:
            torch.set_flush_denormal(False)
            if self._logger is not None:
                self._logger.close()
        return TrainingResult(self.step, self.elapsed, self.done >= 1, self._validation, self.folder)

    def export(self, save: Callable[[], object]) -> None:
        """Call `save` in the first process, with averaged weights and in eval mode; the other processes wait."""
        with self._averaged():
            for part in sharded_parts(self.task.modules.values()):
                part.unshard()
            if self.fabric.is_global_zero:
                save()
        self.fabric.barrier()

    @property
    def elapsed(self) -> float:
        """Training time in seconds, all sessions."""
        return self._before + time.monotonic() - self._started

    @property
    def done(self) -> float:
        """Part of the run done, in [0, 1]."""
        return progress(self.config, self.step, self._now)

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            # A forward pass without a backward one leaves the root's weights gathered.
            for part in sharded_parts(self.task.modules.values()):
                stack.callback(part.reshard)
            for name, module in self.task.modules.items():
                if name in self._averages:
                    stack.enter_context(self._averages[name].applied())
                stack.callback(module.train, module.training)
                module.eval()
            yield

    def _run_config(self) -> dict[str, Any]:
        loop = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in MUTABLE_ON_RESUME}
        return {"loop": loop, **self.task.run_config}

    def _resume(self) -> None:
        snapshot = load_newest(self.folder / "checkpoints")
        if snapshot is None:
            return
        changed = differences(snapshot.identity, self._run_config())
        if changed:
            raise CheckpointError(
                f"{self.folder} holds another run ({'; '.join(changed[:4])}); give the same settings, or another --out"
            )
        sections: defaultdict[str, dict[str, Tensor]] = defaultdict(dict)
        for full, tensor in snapshot.tensors.items():
            section, name = full.split(":", 1)
            sections[section][name] = tensor
        for name, module in self.task.modules.items():
            copy_tensors(module_tensors(module), sections[f"model.{name}"])
            load_optimiser(module, self._optimisers[name].optimizer, sections[f"optimiser.{name}"])
            if name in self._averages:
                copy_tensors(self._averages[name].tensors, sections[f"average.{name}"])
        self.step, self._seen = snapshot.step, snapshot.seen
        self._before = self._now = snapshot.elapsed
        self._saved_step, self._flops = snapshot.step, snapshot.flops

    def _save(self) -> None:
        if self._saved_step != self.step and (self.fabric.is_global_zero or self._sharded):
            tensors: dict[str, Tensor] = {}
            for name, module in self.task.modules.items():
                parts = {"model": module_tensors(module)}
                parts["optimiser"] = optimiser_tensors(module, self._optimisers[name].optimizer)
                if name in self._averages:
                    parts["average"] = self._averages[name].tensors
                for part, named in parts.items():
                    tensors |= {f"{part}.{name}:{key}": whole(tensor).cpu() for key, tensor in named.items()}
            if self.fabric.is_global_zero:
                self._check_finite(tensors)
                snapshot = Snapshot(self.step, self._seen, self._now, self._flops, self._run_config(), tensors)
                save_snapshot(self.folder / "checkpoints", snapshot, self.config.keep)
        self._saved_step = self.step
        self.fabric.barrier()

    def _train(self, stop: Event) -> None:
        config, saved, validated = self.config, time.monotonic(), time.monotonic()
        batch = config.batch * self.fabric.world_size
        meter = Meter({name: each * batch * config.accumulate for name, each in self.task.units.items()})
        batches = read_ahead(self.task.batch, count(self._seen, batch), self.device)
        while self.done < 1:
            factor = learning_rate_factor(config, self.step, self.done)
            self._one_step(batches, factor, meter)
            meter.steps += 1
            stopping = self._tick(stop)
            if self.step % config.log_steps == 0 or self.step == 1:  # the first step shows the speed at once
                metrics, rates = meter.take(self._flops)
                self._log(self._over_ranks(metrics), rates, factor)
            if self._due(validated, config.validate_minutes, config.validate_steps):
                self._validate()
                validated = time.monotonic()
                meter.restart()
            if self._due(saved, config.save_minutes, config.save_steps):
                self._save()
                saved = time.monotonic()
                meter.restart()
            if stopping:
                return

    def _one_step(self, batches: Iterator[Batch], factor: float, meter: Meter) -> None:
        seed = [self.config.seed, self.step]
        torch.manual_seed(int(np.random.SeedSequence([*seed, self.fabric.global_rank]).generate_state(1)[0]))
        context = StepContext(self.step, self.done, np.random.default_rng(seed))
        touched: set[str] = set()
        # Counting needs other kernels, which round differently: so always on a run's first step, and never later.
        counter = FlopCounterMode(display=False) if self.step == 0 else None
        with contextlib.ExitStack() as stack:
            if counter is not None:
                stack.enter_context(torch.compiler.set_stance("force_eager"))  # compiled code hides its operations
                stack.enter_context(counter)
            for number in range(self.config.accumulate):
                touched |= self._backward(next(batches), context, meter, last=number == self.config.accumulate - 1)
        if counter is not None:
            self._flops = counter.get_total_flops() * self.fabric.world_size
        for name in self._modules:
            if name in touched:
                self._update(name, factor, meter)
        self.step += 1
        self._seen += self.config.batch * self.config.accumulate * self.fabric.world_size
        for average in self._averages.values():
            average.update(self.step)

    def _backward(self, batch: Batch, context: StepContext, meter: Meter, *, last: bool) -> set[str]:
        touched = set()
        with contextlib.ExitStack() as stack:
            for module in self._modules.values():
                stack.enter_context(self.fabric.no_backward_sync(module, enabled=not last))
            for part in self.task.losses(self._modules, batch, context):
                self.fabric.backward(part.loss / self.config.accumulate)
                touched.add(part.module)
                meter.add(part.metrics)
        return touched

    def _update(self, name: str, factor: float, meter: Meter) -> None:
        module, optimiser = self._modules[name], self._optimisers[name]
        for group in optimiser.optimizer.param_groups:
            group["lr"] = factor * group["peak"]
        norm = self.fabric.clip_gradients(module, optimiser, max_norm=self.config.clip, error_if_nonfinite=False)
        meter.add({"gradient" if len(self._modules) == 1 else f"gradient/{name}": whole(norm)})
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)

    def _tick(self, stop: Event) -> bool:
        limit = self.config.max_minutes
        stopping = stop.is_set() or (limit is not None and time.monotonic() - self._started >= 60 * limit)
        now = self.fabric.broadcast(torch.tensor([self.elapsed, float(stopping)], dtype=torch.float64))
        self._now = float(now[0])
        return bool(now[1])

    def _due(self, since: float, minutes: float, steps: int | None) -> bool:
        by_steps = steps is not None and self.step % steps == 0
        by_time = bool(self.fabric.broadcast(time.monotonic() - since >= 60 * minutes))
        return (by_steps or by_time) and self.done < 1

    def _log(self, metrics: dict[str, float], rates: dict[str, float], factor: float) -> None:
        self._check_finite(metrics)
        if self._logger is None:
            return
        gained, seconds = self.done - self._first, time.monotonic() - self._started
        report = LoopProgress(
            step=self.step,
            fraction=self.done,
            elapsed=self._now,
            eta=(1 - self.done) * seconds / gained if gained > 0 else float("inf"),
            learning_rate=factor * self.config.learning_rate,
            metrics=metrics,
            rates=rates,
        )
        self._logger.write(report)
        if self._report is not None:
            self._report(report)

    def _check_finite(self, values: Mapping[str, Tensor | float]) -> None:
        wrong = [name for name, value in values.items() if not torch.as_tensor(value).isfinite().all()]
        if wrong:
            raise PlayloomError(
                f"the training diverged: {', '.join(wrong[:4])} is not a finite number at step {self.step}; start "
                "again in another --out, with a lower learning_rate or more warmup_steps"
            )

    def _over_ranks(self, metrics: dict[str, float]) -> dict[str, float]:
        if self.fabric.world_size == 1 or not metrics:
            return metrics
        means = self.fabric.all_reduce(torch.tensor([*metrics.values()], device=self.device), reduce_op="mean")
        return dict(zip(metrics, means.tolist(), strict=True))

    def _validate(self) -> None:
        with self._averaged(), torch.no_grad():
            self._validation = self._over_ranks(self.task.validate())
            picture = self.task.preview() if self._logger is not None and not self._sharded else None
        if self._validation:
            named = {f"validation/{name}": value for name, value in self._validation.items()}
            self._log(named, {}, learning_rate_factor(self.config, self.step, self.done))
        if picture is not None and self._logger is not None:
            self._logger.preview(self.step, picture)
        self.fabric.barrier()
