"""The program `playloom`: its commands, and the exit code of an error.

Commands import heavy packages inside their functions, so that `playloom --help` is fast.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable
from typing import Annotated

import typer

import playloom
from playloom.cli import data, dream, evaluate, models, serve, train
from playloom.device import limit_spinning
from playloom.errors import MissingExtraError, PlayloomError

app = typer.Typer(
    name="playloom",
    help="Learn a video game from recordings, then generate it frame by frame while you play.\n\n"
    "Try it: `playloom dream` makes a short clip with the bundled model; `playloom play` opens a page to play on.\n\n"
    "Your own game: record or import, train, evaluate, then dream and play with it.\n\n"
    "In this program, to dream is to generate the next frames, and a prompt is the start: frames and inputs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
_COMMANDS: tuple[Callable[..., None], ...] = (
    dream.dream_command, dream.play_command, evaluate.act_command, serve.serve_command, serve.call_command,
    data.record_command, data.capture_command, data.view_command, data.import_command,
    evaluate.evaluate_command, models.bench_command, models.models_command, models.plan_command,
)  # fmt: skip
for command in _COMMANDS:  # `dream_command` is `playloom dream`
    app.command(command.__name__.removesuffix("_command"))(command)
app.add_typer(train.app, name="train")
app.add_typer(models.export_app, name="export")


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
    except (typer.Abort, BrokenPipeError):
        sys.exit(1)
    except PlayloomError as error:
        message = str(error)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        message = f"{error.filename!s:.60}... is too long for a file name; choose a shorter one"
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        message = str(MissingExtraError.of("torch", "train"))
    except Exception as error:  # an unknown flag or a value out of range; the class depends on typer's version
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            error.show()  # type: ignore[attr-defined]
            sys.exit(2)
        words = error.format_message().replace("Value error, ", "").replace("Input should be", "expected")
        message = " ".join(words.split())
    typer.echo(f"playloom: {message}", err=True)
    sys.exit(2)
