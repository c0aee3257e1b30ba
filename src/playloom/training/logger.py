"""Log of a run: JSON lines, TensorBoard scalars if installed, preview strips; throughput.

After a resume the lines beyond the checkpoint are removed.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from playloom.atomic_io import atomic_write


@dataclass(frozen=True, kw_only=True)
class LoopProgress:
    """One report of a running loop."""

    step: int
    fraction: float  # part of the run done, in [0, 1]
    elapsed: float  # training time so far, all sessions, in seconds
    eta: float
    learning_rate: float
    metrics: Mapping[str, float]  # means since the last report, `loss` among them, or the `validation/...` metrics
    rates: Mapping[str, float]  # units (pictures, tokens) and operations (`flops`) per second since the last report


class Meter:
    """Means of metrics, which stay on the device until read, and units per second, since the last report."""

    def __init__(self, units_per_step: Mapping[str, float]) -> None:
        self.units_per_step = units_per_step
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self.restart()

    def add(self, metrics: Mapping[str, Any]) -> None:
        """Add scalars."""
        for name, value in metrics.items():
            self._sums[name] = self._sums.get(name, 0) + torch.as_tensor(value).detach()
            self._counts[name] += 1

    def take(self, flops: float) -> tuple[dict[str, float], dict[str, float]]:
        """Return means and rates, with `flops` operations per step, and reset them."""
        means = {name: float(total) / self._counts[name] for name, total in self._sums.items()}
        per_second = self.steps / max(time.monotonic() - self._since, 1e-9)
        self._sums.clear()
        self._counts.clear()
        self.restart()
        return means, {name: count * per_second for name, count in {**self.units_per_step, "flops": flops}.items()}

    def restart(self) -> None:
        """Reset the clock and the number of steps."""
        self.steps, self._since = 0, time.monotonic()


class RunLogger:
    """Write `log.jsonl`, `previews/` and `tensorboard/` of one run."""

    def __init__(self, folder: Path, resumed_step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        path = folder / "log.jsonl"
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines()
            with atomic_write(path) as temporary:
                kept = "".join(f"{line}\n" for line in lines if _step(line) <= resumed_step)
                temporary.write_text(kept, encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        with suppress(ImportError):  # TensorBoard is not installed
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=resumed_step + 1)

    def write(self, report: LoopProgress) -> None:
        """Write one report."""
        line = {"step": report.step, "elapsed": round(report.elapsed, 2), "lr": report.learning_rate, **report.metrics}
        self._file.write(json.dumps({**line, **{f"{k}/s": round(v, 1) for k, v in report.rates.items()}}) + "\n")
        self._file.flush()
        if self._board is not None:
            rates = {f"rate/{name}": value for name, value in report.rates.items()}
            for name, value in {**report.metrics, "lr": report.learning_rate, **rates}.items():
                self._board.add_scalar(name, value, report.step)

    def preview(self, step: int, strip_HWC: NDArray[np.uint8]) -> None:
        """Save a picture strip, uint8 [H, W, 3], as `previews/step-....png`."""
        path = self.folder / "previews" / f"step-{step:09d}.png"
        with atomic_write(path) as temporary:
            Image.fromarray(strip_HWC).save(temporary, format="png")

    def close(self) -> None:
        """Flush and close all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _step(line: str) -> float:
    """The step of a log line; infinite for a truncated line, which lies beyond every checkpoint."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
