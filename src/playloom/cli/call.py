"""`playloom call`: parses, asks an endpoint for steps one by one, says what came."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from playloom.cli import common
from playloom.errors import BadInputError

if TYPE_CHECKING:
    from playloom.client import CallReport
    from playloom.client.payload import Request


def register(app: typer.Typer) -> None:
    """Add `call` to the program."""
    app.command("call")(call_command)


def call_command(
    payload: Annotated[
        Path | None, typer.Option(help="A JSON file in the endpoint's shape: where the dream begins.")
    ] = None,
    image: Annotated[Path | None, typer.Option(help="Or a picture to begin with.")] = None,
    steps: Annotated[int, typer.Option(help="Steps in all, one request each.")] = 10,
    endpoint: Annotated[
        str | None, typer.Option(help="Its address; else MUSE_ENDPOINT_URL, else this machine's port 5000.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="Its key; else MUSE_API_KEY or PLAYLOOM_API_KEY, else you are asked.")
    ] = None,
    delay: Annotated[float, typer.Option(help="Seconds between two requests.")] = 0.0,
    upscale: Annotated[
        Literal["lanczos", "realesrgan", "none"],
        typer.Option(help="To 4x: lanczos, realesrgan (the extra `sr`) or none."),
    ] = "lanczos",
    show_reply: Annotated[bool, typer.Option("--show-reply", help="Show the first 2 KB of each reply.")] = False,
    out: Annotated[
        Path, typer.Option(callback=common.own_folder, help="The folder to write; numbered after an earlier call.")
    ] = Path("out/call"),
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the call that lies in --out.")] = False,
    seed: Annotated[int, typer.Option(help="Of the random actions, for replies without any.")] = 0,
    schema: Annotated[Literal["auto", "binned", "named"], typer.Option(help="Of the replies' actions.")] = "auto",
    tokens: Annotated[
        bool, typer.Option("--tokens/--no-tokens", help="Send the replies' tokens back; without: encode anew.")
    ] = True,
    timeout: Annotated[float, typer.Option(help="Seconds for one attempt.")] = 60.0,
    retries: Annotated[int, typer.Option(help="Attempts after the first, on 429, 5xx, timeouts and breaks.")] = 4,
) -> None:
    """Dream through an endpoint: ask for a step, append it, ask for the next.

    Works with `playloom serve` and with any endpoint of the same schema. A failure leaves all earlier steps complete.
    """
    from playloom.client import (
        DEFAULT_ENDPOINT,
        ENDPOINT_VARIABLE,
        CallEvents,
        CallJob,
        Retries,
        find_key,
        run_call,
    )

    job = CallJob(
        start=_start(payload, image),
        steps=steps,
        endpoint=endpoint or os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT,
        out=out,
        resume=resume,
        upscale=upscale,
        schema=schema,
        with_tokens=tokens,
        seed=seed,
        delay=delay,
        timeout=timeout,
        retries=Retries(times=retries),
    )
    job = replace(job, key=find_key(key, os.environ, _ask if sys.stdin.isatty() else None))  # asked when all else fits
    events = CallEvents(
        step=lambda number, of, words: typer.echo(f"[{number}/{of}] {words}"),
        note=lambda words: typer.echo(f"note: {words}", err=True),
        reply=typer.echo if show_reply else None,
    )
    left = "what came is complete, and the same command with --resume goes on"
    with common.stopping(left, after_step=False):
        _say(run_call(job, events))


def _start(payload: Path | None, image: Path | None) -> Request | None:
    from playloom.client.payload import start_from_file, start_from_picture

    if payload is not None and image is not None:
        raise BadInputError("a call begins with --payload or with --image; give one of them")
    if payload is not None:
        return start_from_file(payload)
    if image is None:
        return None
    start, notes = start_from_picture(image)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    return start


def _ask() -> str:
    answer = typer.prompt(
        "The endpoint's key (hidden; Enter for none)", default="", hide_input=True, show_default=False
    )
    return str(answer)


def _say(report: CallReport) -> None:
    there = f" ({report.steps - report.received} were there already)" if report.received < report.steps else ""
    typer.echo(f"{common.count(report.steps, 'step')}{there}: {report.seconds:.1f} s")
    if report.random_steps:
        typer.echo(f"{len(report.random_steps)} of them with a random action, because the reply held none")
    typer.echo(f"{report.folder}/")
    for name in ("raw/", *report.files):
        typer.echo(f"  {name}")
