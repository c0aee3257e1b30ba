"""`playloom serve` and `call`: a model over HTTP, as the server (in this process or on Ray) and as a client."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.cli import common
from playloom.errors import BadInputError, MissingExtraError

if TYPE_CHECKING:
    from playloom.client import CallReport
    from playloom.client.endpoint import Request

_OF_CALL = ("steps", "out", "resume", "upscale", "schema", "seed", "delay", "timeout", "retries")
_NEEDED = ("fastapi", "uvicorn", "pydantic_settings", "prometheus_client", "python_multipart")


def run_server(say: Callable[[str], None] = typer.echo, *, cluster: bool = False, **given: Any) -> None:
    """Serve until stopped. A setting of None keeps the environment's value; `say` receives the address."""
    for extra, packages in (("serve", _NEEDED), ("cluster", ("ray",) if cluster else ())):
        for package in packages:
            if find_spec(package) is None:
                raise MissingExtraError.of(package, extra)
    from playloom.server.settings import read_settings

    settings = read_settings(**given)
    if cluster:
        _set_ray_environment()
        from playloom.server.ray import run
    else:
        from playloom.device import set_threads
        from playloom.server.main import run

        set_threads(settings.threads)
    run(settings, say=say)


def serve_command(
    call: typer.Context,
    model: common.Model = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on; default 127.0.0.1.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port; default 5000, 0 takes a free one.")] = None,
    key: Annotated[
        str | None,
        typer.Option(help="API key of requests; better in the environment: PLAYLOOM_API_KEY.", show_default=False),
    ] = None,
    decode_order: common.DecodeOrder = None,
    max_sessions: Annotated[int | None, typer.Option(min=1, help="Most live sessions; default 16.")] = None,
    queue: Annotated[int | None, typer.Option(min=0, help="Most waiting requests; default 32.")] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Most steps of one request; default 100.")] = None,
    stories: Annotated[str | None, typer.Option(help="Folder of the stories; default out/stories.")] = None,
    device: common.DeviceOrNone = None,
    backend: common.BackendOrNone = None,
    threads: common.Threads = None,
    cluster: Annotated[
        bool, typer.Option("--cluster", help="Run replicas on Ray Serve, here or on many machines.")
    ] = False,
    replicas: Annotated[
        int | None, typer.Option(min=1, help="With --cluster: least number of replicas; default 2.")
    ] = None,
    max_replicas: Annotated[int | None, typer.Option(min=1, help="With --cluster: most replicas under load.")] = None,
    static: Annotated[
        Path | None,
        typer.Option(callback=common.own_folder, help="Write the page into this folder; it runs the model itself."),
    ] = None,
) -> None:
    """Serve the page to play on, `/score`, the job API and `/v1`.

    Every other limit is an environment variable, PLAYLOOM_...: see docs/serve.md. Ctrl-C lets running work finish.
    With --static no server runs: any web server can serve the folder, and the model runs in the browser.
    """
    if static is not None:
        common.refuse(call, set(call.params) - {"static", "model"}, "does not apply to --static")
        from playloom.inference.generate import open_engine
        from playloom.server.static_page import write_static_page

        sizes = write_static_page(open_engine(model), static)
        typer.echo(f"{static}: {common.count(len(sizes), 'file')}, {sum(sizes.values()) / 1e6:.1f} MB")
        typer.echo(f"Any web server can serve it: python -m http.server -d {static} 8000")
        typer.echo("then open http://127.0.0.1:8000. On other hosts it needs HTTPS for threads and for use offline.")
        return
    if not cluster:
        common.refuse(call, ("replicas", "max_replicas"), "applies to --cluster only")
    run_server(api_key=key, **{name: value for name, value in call.params.items() if name not in ("key", "static")})


def _set_ray_environment() -> None:
    """Ray reads its environment when it is imported."""
    # Ray's default of five seconds for a proxy is too short on a slow machine. Equal access log lines must not merge.
    ray = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
        "RAY_DEDUP_LOGS": "0",
        "RAY_COLOR_PREFIX": "0",
    }
    if not os.environ.get("RAY_ADDRESS"):
        # Ray's ports allow code execution: listen on loopback only, with a token of this run.
        ray |= {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}
    os.environ.update(ray)


def call_command(
    call: typer.Context,
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
    tokens: Annotated[bool, typer.Option(help="Send tokens of responses back, else frames are encoded again.")] = True,
    timeout: Annotated[float, typer.Option(help="Seconds per attempt.")] = 60.0,
    retries: Annotated[int, typer.Option(help="Retries on 429, 5xx, timeouts and lost connections.")] = 4,
) -> None:
    """Generate through an endpoint: request a step, append it, request the next.

    Works with `playloom serve` and any endpoint of the same schema. A failure keeps all earlier steps.
    """
    from playloom.client import DEFAULT_ENDPOINT, ENDPOINT_VARIABLE, CallEvents, CallJob, find_key, run_call

    job = CallJob(
        start=_start(payload, image),
        endpoint=endpoint or os.environ.get(ENDPOINT_VARIABLE) or DEFAULT_ENDPOINT,
        with_tokens=tokens,
        **{name: call.params[name] for name in _OF_CALL},
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
    from playloom.client import start_from_file, start_from_picture

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
