"""`playloom record`: record episodes of scripted players, and say where they lie."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from playloom.cli import common

if TYPE_CHECKING:
    from playloom.games.recorder import RecordProgress


def register(app: typer.Typer) -> None:
    """Add `record` to the program."""
    app.command("record")(record_command)


def record_command(
    hours: Annotated[float, typer.Option(help="Hours of play, at 10 steps per second; at most 1000.")] = 1.0,
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="Folder for the episodes.")] = Path(
        "recordings"
    ),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the others follow one by one.")] = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="Games at a time; all cores by default.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Length of an episode in steps of 0.1 s.")] = 600,
    as_json: common.Json = False,
) -> None:
    """Let scripted players play the arena and keep what they do.

    Stop it at any time: the same command goes on where it was. Pictures are not kept; they are rendered again
    from seed and actions when needed.
    """
    from playloom.games.recorder import record_episodes

    skipped = 0
    left = f"the same command goes on: {out}"
    with common.progress("recording", "episodes") as bar, common.stopping(left, after_step=False):

        def report(progress: RecordProgress) -> None:
            nonlocal skipped
            skipped = progress.skipped
            bar(progress.done, progress.total)

        paths = record_episodes(out, hours, seed, processes, report, steps)
    if as_json:
        common.print_json({"folder": out, "episodes": len(paths), "steps": steps, "already_there": skipped})
        return
    known = f" ({skipped} of them were there already)" if skipped else ""
    typer.echo(f"{common.count(len(paths), 'episode')} of {steps} steps{known}: {out}")
