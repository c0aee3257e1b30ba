"""`playloom recipe`: parses, runs a recipe for a while, says what is done and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_MORE = 3
"""Exit code of a run that waits for its next piece."""


def register(app: typer.Typer) -> None:
    """Add `recipe` to the program."""
    app.command("recipe")(recipe_command)


def recipe_command(
    name: Annotated[str, typer.Argument(help="arena, arena-live (one GPU, 16 cores) or arena-cpu.")] = "arena",
    out: Annotated[Path | None, typer.Option(help="The run's folder; default: runs/NAME.")] = None,
    piece: Annotated[float | None, typer.Option(help="Save and stop after so many minutes; exit code 3.")] = None,
    toy: Annotated[bool, typer.Option("--toy", help="A rehearsal: all stages, tiny sizes, a minute or two.")] = False,
    collect: Annotated[Path | None, typer.Option(help="Copy the outputs worth keeping here.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as world.loop.minutes=30.")
    ] = None,
    redo: Annotated[str | None, typer.Option(help="Begin this stage anew, and all made from it.")] = None,
    until: Annotated[str | None, typer.Option(help="Stop after this stage.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what is done and what is to do.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads.")] = None,
    processes: Annotated[int | None, typer.Option(help="Games at a time; all cores by default.")] = None,
) -> None:
    """From nothing to shipped weights: record, tokenizer, tokens, world, evaluate, export.

    Stop it at any time: the same command goes on where it was.
    """
    from playloom.files import check_place
    from playloom.recipes.collect import collect as collect_outputs
    from playloom.recipes.recipe import changed, parse_change
    from playloom.recipes.run import plan_lines, run_recipe
    from playloom.recipes.shop import Machine
    from playloom.recipes.table import recipe
    from playloom.recipes.table import toy as toy_of

    wanted = recipe(name)
    wanted = changed(toy_of(wanted) if toy else wanted, dict(parse_change(text) for text in change or []))
    folder = out or Path("runs") / wanted.name
    if plan:
        typer.echo("\n".join(plan_lines(wanted, folder)))
        return
    if collect is not None:
        check_place(collect / "model")
    machine = Machine(device=device, threads=threads, processes=processes)
    try:
        outcome = run_recipe(
            wanted, folder, piece_minutes=piece, machine=machine, redo=redo, until=until, say=typer.echo
        )
    except KeyboardInterrupt:
        typer.echo(f"stopped; the same command goes on: {folder}", err=True)
        raise typer.Exit(130) from None
    if collect is not None:
        files, notes = collect_outputs(folder, collect)
        typer.echo(f"collected {len(files)} files: {collect}")
        for note in notes:
            typer.echo(f"note: {note}")
    if not outcome.finished:
        typer.echo(f"stopped in stage {outcome.stage}; the same command goes on: {folder}")
        raise typer.Exit(_MORE)
    typer.echo(f"done: {outcome.result if until is None else folder}")
