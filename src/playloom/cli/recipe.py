"""`playloom recipe`: parses, runs a recipe for a while, says what is done and where it lies."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from playloom.cli import common

Stage = Literal["record", "tokenizer", "tokens", "world", "evaluate", "export"]

_MORE = 3
"""Exit code of a run that waits for its next piece."""


def register(app: typer.Typer) -> None:
    """Add `recipe` to the program."""
    app.command("recipe")(recipe_command)


def recipe_command(
    call: typer.Context,
    name: Annotated[
        Literal["arena", "arena-live", "arena-cpu"],
        typer.Argument(help="arena and arena-live: one GPU and 16 cores; arena-cpu: two cores."),
    ] = "arena",
    out: Annotated[
        Path | None, typer.Option(callback=common.own_folder, help="The run's folder; default: runs/NAME.")
    ] = None,
    piece: Annotated[
        float | None, typer.Option(min=0, help="Save and stop after so many minutes; exit code 3.")
    ] = None,
    toy: Annotated[bool, typer.Option("--toy", help="A rehearsal: all stages, tiny sizes, a minute or two.")] = False,
    collect: Annotated[Path | None, typer.Option(help="Copy the outputs worth keeping here.")] = None,
    change: Annotated[
        list[str] | None, typer.Option("--set", help="Change a setting, such as world.loop.minutes=30.")
    ] = None,
    redo: Annotated[Stage | None, typer.Option(help="Begin this stage anew, and all made from it.")] = None,
    until: Annotated[Stage | None, typer.Option(help="Stop after this stage.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what is done and what is to do.")] = False,
    device: common.Device = "auto",
    threads: common.Threads = None,
    processes: Annotated[int | None, typer.Option(min=1, help="Games at a time; all cores by default.")] = None,
) -> None:
    """From nothing to shipped weights: record, tokenizer, tokens, world, evaluate, export.

    Stop it at any time: the same command goes on where it was.
    """
    if plan:
        common.refuse(call, ("piece", "collect", "redo", "until", "threads", "processes"), "does not apply to --plan")
    from playloom.atomic_io import ensure_writable
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
        ensure_writable(collect / "model")
    machine = Machine(device=device, threads=threads, processes=processes)
    with common.stopping(f"the same command goes on: {folder}", after_step=False):
        outcome = run_recipe(
            wanted, folder, piece_minutes=piece, machine=machine, redo=redo, until=until, say=typer.echo
        )
    if collect is not None:
        files, notes = collect_outputs(folder, collect)
        typer.echo(f"collected {common.count(len(files), 'file')}: {collect}")
        for note in notes:
            typer.echo(f"note: {note}")
    if not outcome.finished:
        typer.echo(f"stopped in stage {outcome.stage}; the same command goes on: {folder}")
        raise typer.Exit(_MORE)
    typer.echo(f"done: {outcome.result if until is None else folder}")
