"""`playloom record`: parses, records, says where the episodes lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from playloom.games.recorder import RecordProgress


def register(app: typer.Typer) -> None:
    """Add `record` to the program."""
    app.command("record")(record_command)


def record_command(
    hours: Annotated[float, typer.Option(help="Hours of play, at 10 steps a second.")] = 1.0,
    out: Annotated[Path, typer.Option(help="Folder for the episodes.")] = Path("recordings"),
    seed: Annotated[int, typer.Option(help="Seed of the first episode; the others follow one by one.")] = 0,
    processes: Annotated[int | None, typer.Option(help="Games at a time; all cores by default.")] = None,
    steps: Annotated[int, typer.Option(help="Length of an episode in steps of 0.1 s.")] = 600,
) -> None:
    """Let scripted players play the arena and keep what they do.

    Stop it at any time: the same command goes on where it was. Pictures are not kept; they are rendered again
    from seed and actions when needed.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from playloom.games.recorder import record_episodes

    columns = (TextColumn("recording"), BarColumn(), MofNCompleteColumn(), TextColumn("episodes, left:"))
    skipped = 0
    try:
        with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("recording", total=None, visible=False)  # until the settings are found good

            def report(progress: RecordProgress) -> None:
                nonlocal skipped
                if bar.tasks[0].total is None:
                    # What was there before must not make the estimate of the time left too good.
                    skipped = progress.skipped
                bar.update(task, total=progress.total - skipped, completed=progress.done - skipped, visible=True)

            paths = record_episodes(out, hours, seed, processes, report, steps)
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on: {out}", err=True)
        raise typer.Exit(130) from None
    known = f" ({skipped} of them were there already)" if skipped else ""
    typer.echo(f"{len(paths)} episodes of {steps} steps{known}: {out}")
