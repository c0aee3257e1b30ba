"""What a training shows while it runs, and what it says at its end. Only the first process of several speaks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from playloom.training.loop import Report
    from playloom.training.task import Outcome


@contextmanager
def bar_of(title: str) -> Iterator[Any]:
    """A callback (done, total) that draws a progress bar once it is first called."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_console()) as bar:
        task = bar.add_task(title, total=None, visible=False)
        yield lambda done, total: bar.update(task, completed=done, total=total, visible=done < total)


@contextmanager
def reports_of(what: str) -> Iterator[Report]:
    """A callback that draws a bar and prints a line for every validation."""
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (TextColumn("{task.percentage:>5.1f} %"), BarColumn(bar_width=20), TextColumn("{task.description}"))
    with Progress(*columns, console=_console()) as bar:
        task = bar.add_task(what, total=1.0)

        def report(progress: Any) -> None:
            if progress.rates:
                bar.update(task, completed=progress.fraction, description=_line(progress))
            else:
                figures = "  ".join(f"{k.split('/')[-1]} {v:.4g}" for k, v in progress.metrics.items())
                bar.console.print(f"step {progress.step}  {figures}")

        yield report


def _console() -> Any:
    """Where bars are drawn; only the first process of several draws."""
    from rich.console import Console

    return Console(stderr=True, quiet=is_silent())


def is_silent() -> bool:
    """Whether this is one of several processes, and not the first."""
    from playloom.training.strategy import world

    return world()[0] > 0


def _line(progress: Any) -> str:
    rates = "  ".join(f"{v:,.0f} {k}/s" for k, v in progress.rates.items() if k != "flops")
    flops = progress.rates.get("flops", 0.0) / 1e9
    loss = progress.metrics.get("loss", float("nan"))
    left = f"{progress.eta / 60:.1f} min left"
    return f"step {progress.step}  loss {loss:.4f}  {rates}  {flops:,.1f} GFLOP/s  {left}"


def say_end(outcome: Outcome, out: Path, result: str) -> None:
    """How a run ended, and what it left."""
    if is_silent():
        return
    minutes = outcome.elapsed / 60
    if outcome.finished:
        typer.echo(f"finished after {outcome.step} steps and {minutes:.1f} minutes: {out}")
    else:
        typer.echo(f"saved at step {outcome.step} after {minutes:.1f} minutes; the same command goes on: {out}")
    typer.echo(result)
