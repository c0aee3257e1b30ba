"""The program `playloom`: gathers the commands, and turns every error a user can mend into one sentence.

Heavy packages are imported inside the commands, so that `playloom --help` answers at once.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import playloom
from playloom.cli import act, bench, call, data, dream, evaluate, models, play, recipe, serve, train
from playloom.device import limit_spinning
from playloom.errors import PlayloomError

app = typer.Typer(
    name="playloom",
    help="Learn a video game from recordings, then generate it frame by frame while you play.\n\n"
    "Try it: `playloom dream` makes a short clip with the bundled model; `playloom play` opens a page to play on.\n\n"
    "Your own game: record or import, train tokenizer, train world, evaluate, then dream and play with it.\n\n"
    "In this program, to dream is to generate the next frames, and a prompt is the moment where that begins.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
for command in (dream, play, act, serve, call, data, train, evaluate, bench, recipe, models):
    command.register(app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"playloom {playloom.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program; exit code 2 and one sentence for an error that the user can mend."""
    limit_spinning()
    try:
        sys.exit(app(standalone_mode=False) or 0)
    except PlayloomError as error:
        typer.echo(f"playloom: {error}", err=True)
        sys.exit(2)
    except typer.Abort:
        sys.exit(1)
    except BrokenPipeError:
        sys.exit(1)
    except Exception as error:  # an unknown flag or a value out of range; the class depends on typer's version
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
        else:
            words = error.format_message().replace("Value error, ", "").replace("Input should be", "expected")
            typer.echo(f"playloom: {' '.join(words.split())}", err=True)
        sys.exit(2)
