"""`playloom act`: parses, lets the model play the real game, prints the figures and one line of JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from playloom.cli.stopping import STOPPED, ctrl_c
from playloom.errors import BadInputError

if TYPE_CHECKING:
    from playloom.acting.report import ActReport
    from playloom.acting.run import Progress


def register(app: typer.Typer) -> None:
    """Add `act` to the program."""
    app.command("act")(act_command)


def act_command(
    out: Annotated[Path, typer.Option(help="Folder for recordings, films and figures; numbered if taken.")] = Path(
        "out/act"
    ),
    model: Annotated[str | None, typer.Option(help="A bundled model's name, or a folder.")] = None,
    by: Annotated[
        str | None, typer.Option(help="Who plays: model (default), repeat, random, or a scripted player's style.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="The model and all baselines, on the same games.")] = False,
    variant: Annotated[str, typer.Option(help="The arena: plaza, court or canyon.")] = "plaza",
    mode: Annotated[str, typer.Option(help="ffa: everyone for themselves; 4v4: two teams.")] = "ffa",
    seconds: Annotated[float, typer.Option(help="How long each game is, in the game's time.")] = 30.0,
    games: Annotated[int, typer.Option(help="How many games.")] = 1,
    seed: Annotated[int, typer.Option(help="Of the first game; the others follow one by one.")] = 1000,
    temperature: Annotated[float, typer.Option(help="Of the model's inputs; 0 is greedy, 1 as it learned them.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest values of a control only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest values that reach p together.")] = None,
    films: Annotated[
        int | None, typer.Option(help="Games of each player to make a film of; default: all, with --compare the first.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    timestamp: Annotated[bool, typer.Option(help="Put the time into manifests; each run then differs.")] = False,
) -> None:
    """Let the model hold the controller in the real game, and say how it did.

    Ctrl-C ends it; what was played is kept.
    """
    if compare and by is not None:
        raise BadInputError("--compare lets everybody play; leave out --by")
    from playloom.acting.job import COMPARED, ActJob
    from playloom.acting.run import run_act
    from playloom.runtime import machine, pick_device

    job = ActJob(
        players=COMPARED if compare else ("model" if by is None else by,),
        model=model,
        variant=variant,
        mode=mode,  # type: ignore[arg-type]  # checked by ActJob, in a sentence
        seconds=seconds,
        games=games,
        seed=seed,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        device=device,
        out=out,
        films=1 if compare and films is None else films,
        timestamp=timestamp,
    )
    with ctrl_c() as stopped, _bar() as progress:
        report = run_act(job, machine=machine(pick_device(device)), stop=stopped, progress=progress)
        was_stopped = stopped()
    if report.games:
        _say(report)
    elif not was_stopped:
        raise BadInputError("every game was over before its player could press anything; say more --seconds")
    if was_stopped:
        left = f"what was played is kept: {report.folder}" if report.games else "nothing was played"
        typer.echo(f"stopped; {left}", err=True)
        raise typer.Exit(STOPPED)


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("starting", total=None)
        yield lambda now: bar.update(task, description=now.player, completed=now.done, total=now.total)


def _say(report: ActReport) -> None:
    import json

    from playloom.benchmarks.rows import aligned

    facts = report.facts
    typer.echo(aligned(report.head(), report.lines()))
    where = f"{facts['variant']}, which has {facts['tiles']} tiles"
    typer.echo(f"mean ± standard error over games of {facts['seconds']:g} s in {where}")
    typer.echo(f"{report.folder}/")
    for game in report.games:
        if len(game.files) > 1:
            typer.echo("  " + "  ".join(str(path.relative_to(report.folder)) for path in game.files))
    typer.echo(json.dumps(report.means()))
