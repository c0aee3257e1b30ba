"""`playloom view`: parses, shows recorded episodes as contact sheet and film, or their players' figures."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from playloom.cli import common
from playloom.errors import PlayloomError

if TYPE_CHECKING:
    from playloom.games.statistics import PlayStatistics


def register(app: typer.Typer) -> None:
    """Add `view` to the program."""
    app.command("view")(view_command)


def view_command(
    call: typer.Context,
    recording: Annotated[Path, typer.Argument(help="An episode (.npz or .json), or a folder of them.")],
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="Folder for the pictures and films.")] = Path(
        "out/view"
    ),
    episodes: Annotated[int, typer.Option(min=1, help="How many of a folder's episodes to show.")] = 1,
    every: Annotated[int, typer.Option(min=1, help="Steps between two pictures of the sheet.")] = 10,
    verify: Annotated[bool, typer.Option(help="Check the frames against the recorded hash.")] = True,
    figures: Annotated[bool, typer.Option(help="Only print what the players did, in figures.")] = False,
) -> None:
    """Show a recording: every frame rendered again, the controller drawn beside it."""
    if figures:
        common.refuse(call, ("out", "episodes", "every", "verify"), "does not apply to --figures")
    from playloom.games.viewing import episodes_at

    paths = episodes_at(recording)
    if figures:
        _print_figures(paths)
        return
    skipped = []
    for path in paths[:episodes]:
        try:
            _view(path, out, every, verify)
        except PlayloomError as error:
            if len(paths) == 1:
                raise
            skipped.append(str(error) if str(path) in str(error) else f"{path}: {error}")
    for line in skipped:
        typer.echo(f"skipped: {line}", err=True)
    if skipped:
        raise typer.Exit(2)


def _view(path: Path, out: Path, every: int, verify: bool) -> None:
    from playloom.games.viewing import view_episode

    with common.progress(path.name, "steps") as bar:
        viewed = view_episode(path, out, every, verify, bar)
    typer.echo(f"{viewed.sheet}\n{viewed.film}  ({common.count(viewed.steps, 'real step')})")


def _print_figures(paths: list[Path]) -> None:
    from collections import defaultdict

    from rich.console import Console
    from rich.table import Table

    from playloom.data.recording import Episode, load_episode
    from playloom.games.statistics import play_statistics

    by_style: dict[str, list[Episode]] = defaultdict(list)
    for path in paths:
        episode = load_episode(path)
        by_style[episode.meta.style].append(episode)
    by_style["all"] = [episode for group in by_style.values() for episode in group]
    table = Table()
    for title in ("figure", *by_style):
        table.add_column(title, no_wrap=True)
    columns = [_rows(play_statistics(group)) for group in by_style.values()]
    for name in columns[0]:
        table.add_row(name, *(column[name] for column in columns))
    Console().print(table)


def _rows(figures: PlayStatistics) -> dict[str, str]:
    plain = dataclasses.asdict(figures)
    usage = plain.pop("usage")
    rows = {"steps": f"{plain.pop('steps')}", "reversals a second": f"{plain.pop('reversals_a_second'):.2f}"}
    rows |= {name.replace("_", " "): f"{100 * share:.1f} %" for name, share in plain.items()}
    return rows | {name: f"{100 * share:.2f} %" for name, share in usage.items()}
