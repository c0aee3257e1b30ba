"""Log of a run: JSON lines, TensorBoard scalars if installed, preview strips; throughput.

After a resume the lines beyond the checkpoint are removed. Operations are counted once, on a run's first step; a
discriminator that starts later is not in the count.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.atomic_io import atomic_write


@dataclass(frozen=True, kw_only=True)
class LoopProgress:
    """One report of a running loop."""

    step: int
    """Optimiser steps done."""
    fraction: float
    """Part of the run done, in [0, 1]."""
    elapsed: float
    """Training time so far, all sessions, in seconds."""
    eta: float
    """Estimated seconds to the end."""
    learning_rate: float
    """Current learning rate of the first optimiser."""
    metrics: Mapping[str, float]
    """Means since the last report, `loss` among them, or the `validation/...` metrics."""
    rates: Mapping[str, float]
    """Units per second (pictures, tokens) and `flops` (operations per second) since the last report."""


@dataclass
class Throughput:
    """Time, units and operations since the last report."""

    units_per_step: Mapping[str, int]
    """Units of one optimiser step, over all devices."""
    _steps: int = 0
    _flops: float = 0.0
    _since: float = field(default_factory=time.monotonic)

    def tick(self, flops: float) -> None:
        """Count a step of this many operations over all devices."""
        self._steps += 1
        self._flops = flops

    def rates(self) -> dict[str, float]:
        """Return units and operations per second since the last call."""
        now = time.monotonic()
        per_second = self._steps / max(now - self._since, 1e-9)
        self._steps, self._since = 0, now
        rates = {name: count * per_second for name, count in self.units_per_step.items()}
        return {**rates, "flops": self._flops * per_second}

    def restart(self) -> None:
        """Reset the timer, after a validation or a checkpoint."""
        self._steps, self._since = 0, time.monotonic()


class RunLogger:
    """Write `log.jsonl`, `previews/` and `tensorboard/` of one run."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._path = folder / "log.jsonl"
        self._cut(resumed_step)
        self._file = self._path.open("a", encoding="utf-8")
        self._board = _tensorboard(folder / "tensorboard", resumed_step)

    def write(self, report: LoopProgress) -> None:
        """Write one report."""
        line = {"step": report.step, "elapsed": round(report.elapsed, 2), "lr": report.learning_rate, **report.metrics}
        self._file.write(json.dumps({**line, **{f"{k}/s": round(v, 1) for k, v in report.rates.items()}}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in {**report.metrics, "lr": report.learning_rate}.items():
                self._board.add_scalar(name, value, report.step)
            for name, value in report.rates.items():
                self._board.add_scalar(f"rate/{name}", value, report.step)

    def preview(self, step: int, strip_HWC: NDArray[np.uint8]) -> Path:
        """Save a picture strip, uint8 [H, W, 3], as `previews/step-....png`."""
        path = self.folder / "previews" / f"step-{step:09d}.png"
        with atomic_write(path) as temporary:
            Image.fromarray(strip_HWC).save(temporary, format="png")
        return path

    def close(self) -> None:
        """Flush and close all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()

    def _cut(self, step: int) -> None:
        if not self._path.exists():
            return
        lines = self._path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = [line for line in lines if _step(line) <= step]
        with atomic_write(self._path) as temporary:
            temporary.write_text("".join(kept), encoding="utf-8")


def strip(rows_TNHWC: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Join rows of pictures, each uint8 [N, H, W, 3], to one picture, uint8 [R H, N W, 3]."""
    return np.concatenate([np.concatenate(list(row), axis=1) for row in rows_TNHWC], axis=0)


def _step(line: str) -> float:
    """The step of a log line; infinite for a truncated line, which lies beyond every checkpoint."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")


def _tensorboard(folder: Path, resumed_step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=resumed_step + 1)
