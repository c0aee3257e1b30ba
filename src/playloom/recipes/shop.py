"""What every stage of a run gets: the recipe, its folder, the time left, the machine, and whom to tell.

Owns where things lie in a run's folder. Does no work.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from playloom.device import pick_device, usable_cores
from playloom.errors import ConfigError
from playloom.recipes.piece import Piece
from playloom.recipes.recipe import Recipe
from playloom.training.logger import LoopProgress

Say = Callable[[str], None]
"""Told one line of text."""
_EVERY = 15.0
"""Seconds between lines about the same work: unattended runs keep their output."""


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What a run may use; decides how fast it is, not what it makes.

    Raises:
        ConfigError: when a number is below one.
    """

    device: str = "auto"
    """`auto`, `cpu` or `cuda`."""
    threads: int | None = None
    """CPU threads of the networks; None: torch's choice."""
    processes: int | None = None
    """Games at a time; None: one a core."""

    def __post_init__(self) -> None:
        for name in ("threads", "processes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}; expected 1 or more")

    @property
    def games(self) -> int:
        """Games at a time, resolved."""
        return self.processes or usable_cores()

    def describe(self) -> dict[str, Any]:
        """For stamps and the model's card."""
        device = pick_device(self.device)
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else None
        return {
            "gpu": gpu,
            "cpu_cores": os.cpu_count(),
            "torch_threads": self.threads or torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }


@dataclass(frozen=True, kw_only=True)
class Shop:
    """One run at work."""

    recipe: Recipe
    """What is made."""
    folder: Path
    """The run's folder."""
    piece: Piece
    """How long this process may go on."""
    machine: Machine
    """What it may use."""
    say: Say = print
    """Told what happens."""
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What the stages so far said about their results, by stage."""

    @property
    def recordings(self) -> Path:
        """Episodes."""
        return self.folder / "record"

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's run and result."""
        return self.folder / "tokenizer"

    @property
    def tokens(self) -> Path:
        """Token stores."""
        return self.folder / "tokens"

    @property
    def world(self) -> Path:
        """The transformer's run; `world/model` is the whole model."""
        return self.folder / "world"

    @property
    def evaluation(self) -> Path:
        """Test pictures and figures."""
        return self.folder / "evaluate"

    @property
    def result(self) -> Path:
        """What is shipped: `model/` and `moments/`."""
        return self.folder / "export"

    def teller(self, what: str) -> Callable[[int, int], None]:
        """A callback (done, total) that says how far `what` is now and then, and ends the piece in time."""
        pace = _Pace()

        def tell(done: int, total: int) -> None:
            rate = pace.rate(done)
            if rate and (pace.due() or done == total):
                left = (total - done) / rate / 60
                self.say(f"  {what}: {done:,} of {total:,}, {rate:,.1f} a second, {left:.1f} min left")
            self.piece.check()

        return tell

    def reporter(self, what: str) -> Callable[[LoopProgress], None]:
        """A callback that says how far a training is now and then, and every validation."""
        pace = _Pace()

        def report(progress: LoopProgress) -> None:
            if not progress.rates:
                figures = "  ".join(f"{name} {value:.4g}" for name, value in progress.metrics.items())
                self.say(f"  {what} step {progress.step}: {figures}")
            elif pace.due():
                self.say(f"  {what} {_line(progress)}")

        return report


class _Pace:
    """When to say something again, and how fast the work goes."""

    def __init__(self) -> None:
        self._started = self._said = time.monotonic()
        self._first: int | None = None

    def due(self) -> bool:
        now = time.monotonic()
        if now - self._said < _EVERY:
            return False
        self._said = now
        return True

    def rate(self, done: int) -> float:
        """Units a second since the first call; what an earlier piece did does not count."""
        if self._first is None:
            self._first, self._started = done, time.monotonic()
        return (done - self._first) / max(time.monotonic() - self._started, 1e-9)


def _line(progress: LoopProgress) -> str:
    rates = "  ".join(f"{value:,.0f} {name}/s" for name, value in progress.rates.items() if name != "flops")
    flops = progress.rates.get("flops", 0.0) / 1e12
    loss = progress.metrics.get("loss", float("nan"))
    return (
        f"{100 * progress.fraction:.1f} %  step {progress.step}  loss {loss:.4f}  {rates}  {flops:.2f} TFLOP/s  "
        f"{progress.eta / 60:.1f} min left"
    )
