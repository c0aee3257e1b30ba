"""The program `playloom`: gathers the commands, and turns every error a user can mend into one sentence.

Heavy packages are imported inside the commands, so that `playloom --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import playloom
from playloom.cli import act, bench, call, dream, evaluate, import_, models, play, recipe, record, serve, train, view
from playloom.errors import PlayloomError
from playloom.runtime import limit_spinning

app = typer.Typer(
    name="playloom",
    help="Record a game, learn it, dream on from any moment.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (dream, play, act, serve, call, record, view, import_, train, evaluate, bench, recipe, models):
    command.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"playloom {playloom.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    pass


def main() -> None:
    """Run the program; exit code 2 and one sentence for an error that the user can mend."""
    limit_spinning()
    try:
        app()
    except PlayloomError as error:
        typer.echo(f"playloom: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)
