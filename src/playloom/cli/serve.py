"""`playloom serve`: serve a model over HTTP, in this process or on Ray."""

from __future__ import annotations

import os
from importlib.util import find_spec
from secrets import token_hex
from typing import TYPE_CHECKING, Annotated

import typer

from playloom.cli import common
from playloom.errors import MissingExtraError

if TYPE_CHECKING:
    from playloom.server.settings import Settings

_NEEDED = ("fastapi", "uvicorn", "pydantic_settings", "prometheus_client", "python_multipart")


def require_serving() -> None:
    """Raise a MissingExtraError unless the packages of the extra `serve` are installed."""
    for package in _NEEDED:
        if find_spec(package) is None:
            raise MissingExtraError.of(package, "serve")


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
) -> None:
    """Serve the page to play on, `/score`, the job API and `/v1`.

    Every other limit is an environment variable, PLAYLOOM_...: see docs/serve.md. Ctrl-C lets running work finish.
    """
    if not cluster:
        common.refuse(call, ("replicas", "max_replicas"), "applies to --cluster only")
    require_serving()
    if cluster and find_spec("ray") is None:
        raise MissingExtraError.of("ray", "cluster")
    from playloom.server.settings import read_settings

    given = {name: value for name, value in call.params.items() if name not in ("key", "cluster")}
    settings = read_settings(api_key=key, **given)
    if cluster:
        _run_cluster(settings)
        return
    from playloom.device import set_threads
    from playloom.server.main import run

    set_threads(settings.threads)
    run(settings, say=typer.echo)


def _run_cluster(settings: Settings) -> None:
    """Serve on Ray, which reads its environment when it is imported."""
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
    from playloom.server.ray import run

    run(settings, say=typer.echo)
