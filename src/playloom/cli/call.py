"""`playloom call`: generate through an endpoint, one step per request."""

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
    from playloom.client.messages import Request


def call_command(
    payload: Annotated[Path | None, typer.Option(help="A start request as a JSON file.")] = None,
    image: Annotated[Path | None, typer.Option(help="Or a picture as the start.")] = None,
    steps: Annotated[int, typer.Option(help="Number of steps, one request each.")] = 10,
    endpoint: Annotated[
        str | None, typer.Option(help="URL; default: MUSE_ENDPOINT_URL, else this machine's port 5000.")
    ] = None,
    key: Annotated[
        str | None, typer.Option(help="API key; default: MUSE_API_KEY or PLAYLOOM_API_KEY, else a hidden prompt.")
    ] = None,
    delay: Annotated[float, typer.Option(help="Seconds between requests.")] = 0.0,
    upscale: Annotated[
        Literal["lanczos", "realesrgan", "none"],
        typer.Option(help="To 4x: lanczos, realesrgan (the extra `sr`) or none."),
    ] = "lanczos",
    show_reply: Annotated[bool, typer.Option("--show-reply", help="Print the first 2 KB of each response.")] = False,
    out: Annotated[
        Path, typer.Option(callback=common.own_folder, help="Output folder; numbered after an earlier call.")
    ] = Path("out/call"),
    resume: Annotated[bool, typer.Option("--resume", help="Continue the call in --out.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of the random actions for responses without one.")] = 0,
    schema: Annotated[
        Literal["auto", "binned", "named"], typer.Option(help="Encoding of the actions in responses.")
    ] = "auto",
    tokens: Annotated[
        bool,
        typer.Option(
            "--tokens/--no-tokens", help="Send tokens of responses back; without: the server encodes frames again."
        ),
    ] = True,
    timeout: Annotated[float, typer.Option(help="Seconds per attempt.")] = 60.0,
    retries: Annotated[int, typer.Option(help="Retries on 429, 5xx, timeouts and lost connections.")] = 4,
) -> None:
    """Generate through an endpoint: request a step, append it, request the next.

    Works with `playloom serve` and any endpoint of the same schema. A failure keeps all earlier steps.
    """
    from playloom.client import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, CallEvents, CallJob, Retries, find_key, run_call

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
    # prompts for the key last
    job = replace(job, key=find_key(key, os.environ, _prompt_key if sys.stdin.isatty() else None))
    events = CallEvents(
        step=lambda number, of, words: typer.echo(f"[{number}/{of}] {words}"),
        note=lambda words: typer.echo(f"note: {words}", err=True),
        reply=typer.echo if show_reply else None,
    )
    left = "finished steps are kept; the same command with --resume continues"
    with common.stopping(left, after_step=False):
        _print_report(run_call(job, events))


def _start(payload: Path | None, image: Path | None) -> Request | None:
    from playloom.client.messages import start_from_file, start_from_picture

    if payload is not None and image is not None:
        raise BadInputError("--payload and --image exclude each other; give one of them")
    if payload is not None:
        return start_from_file(payload)
    if image is None:
        return None
    start, notes = start_from_picture(image)
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    return start


def _prompt_key() -> str:
    words = "The endpoint's key (hidden; Enter for none)"
    return str(typer.prompt(words, default="", hide_input=True, show_default=False))


def _print_report(report: CallReport) -> None:
    there = f" ({report.steps - report.received} of an earlier call)" if report.received < report.steps else ""
    typer.echo(f"{common.count(report.steps, 'step')}{there}: {report.seconds:.1f} s")
    if report.random_steps:
        typer.echo(f"{len(report.random_steps)} of them with a random action, because the response had none")
    typer.echo(f"{report.folder}/")
    for name in ("raw/", *report.files):
        typer.echo(f"  {name}")
