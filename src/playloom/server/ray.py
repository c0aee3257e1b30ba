"""The application as many replicas on Ray Serve, behind one address.

Sessions and jobs live in the memory of one replica, and their tokens begin with its tag. `StickyMiddleware` reads the
tag in Ray's HTTP proxy, and `StickyRouter` sends the request to that replica. Ray reads its environment when it is
imported; `playloom.cli.serve` sets it before it imports this module.
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import random
import re
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from fastapi import FastAPI, HTTPException
from ray import serve
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from starlette.datastructures import QueryParams
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.device import pick_device, set_threads
from playloom.errors import ConfigError, PlayloomError, ResourceError
from playloom.models.folder import bundled_models, model_folder, read_model
from playloom.server.app import Server, create_app
from playloom.server.errors import error_response
from playloom.server.main import greeting, listen, log_requests
from playloom.server.sessions import SendQueue
from playloom.server.settings import Settings, replica_in

_APPLICATION = "playloom"
_PROXY_ENVIRONMENT = {"RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH": "playloom.server.ray.proxy_middleware"}
_REPLICAS_PER_CPU = 64  # at most
_TICK = 0.2
_WATCH = 5.0
_FLUSH = 0.5  # seconds in which the last answers are sent


def replicas_in(path: str, query: bytes) -> set[str]:
    """Return the tags of the replicas that a request names: by its session, its jobs or `?at=TAG`."""
    params, session = QueryParams(query), re.match(r"/v1/sessions/([^/]+)", path)
    tokens = [session[1]] if session else [*params.getlist("job_ids"), *params.getlist("job_id")]
    tags = {tag for tag in map(replica_in, tokens) if tag}
    return tags or {tag for at in params.getlist("at")[-1:] if (tag := replica_in(f"{at}."))}


class StickyMiddleware:
    """ASGI middleware of Ray's HTTP proxy that puts the replica a request names into the header `x-session-id`."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request or WebSocket on."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        tags = replicas_in(scope["path"], scope.get("query_string", b""))
        if len(tags) > 1:
            sentence = "these jobs are on different replicas; request the jobs of one replica at a time"
            return await error_response(HTTPException(400, sentence))(scope, receive, send)
        scope = {**scope, "headers": [*scope["headers"], *((b"x-session-id", tag.encode()) for tag in tags)]}
        if scope["type"] == "http":
            return await self.app(scope, receive, send)
        # Frames that a slow reader does not take are dropped: Ray itself would keep them all in the proxy's memory.
        queue: SendQueue[Message | None] = SendQueue()

        async def put(message: Message) -> None:
            if message.get("bytes") is not None:
                queue.put_frame(message["bytes"])
            else:
                queue.put_text(message)

        async def forward() -> None:
            while (item := await queue.get()) is not None:
                await send({"type": "websocket.send", "bytes": item} if isinstance(item, bytes) else item)

        sender = asyncio.ensure_future(forward())
        try:
            await self.app(scope, receive, put)
        finally:
            queue.put_text(None)
            await asyncio.gather(sender, return_exceptions=True)  # the reader may have disconnected


def proxy_middleware() -> list[Middleware]:
    """Return the middleware that Ray's HTTP proxies import by name."""
    return [Middleware(StickyMiddleware)]


class StickyRouter(RequestRouter):  # type: ignore[misc]  # Ray's types are not read
    """Choose the replica that a request names, else the less busy of two.

    Ray's FIFO and locality mixins are left out. The first would hand the chosen replica to a request that waits longer;
    the second would fill the proxy's own machine first.
    """

    max_num_routing_tasks_cap = 1024

    @property
    def max_num_routing_tasks(self) -> int:
        """Allow enough tasks that requests for a replica that hangs do not delay others."""
        return self.max_num_routing_tasks_cap if self.curr_replicas else 0

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the candidates of one request; a session of an ended replica goes to any other."""
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # else Ray retries without a pause
            tag = pending_request.metadata.session_id
            if home := [replica for replica in candidate_replicas if replica.replica_id.unique_id == tag]:
                return [home]
        return [random.sample(candidate_replicas, min(2, len(candidate_replicas)))]


class Replica:
    """One replica: the application of `playloom.server.app`, tagged with Ray's name for the replica."""

    def __init__(self, settings: Settings) -> None:
        set_threads(settings.threads)
        log_requests(settings)
        tag = serve.get_replica_context().replica_id.unique_id
        self._app = create_app(settings.model_copy(update={"replica": tag}))
        self._server: Server = self._app.state.server

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Return the application, for `serve.ingress`."""
        return self._app

    async def check_health(self) -> None:
        """Fail if the scheduler's thread has ended, so that Ray starts another replica."""
        if not self._server.service.scheduler.alive:
            raise RuntimeError("the scheduler's thread has ended")

    async def drain(self) -> bool:
        """Take no new work, and return whether work is still in progress."""
        self._server.drain()
        return self._server.has_active_work

    async def end(self) -> None:
        """Cancel the work in progress; its clients get 503."""
        self._server.service.limiter.abort_all()


def replica_resources(settings: Settings, nodes: Sequence[dict[str, float]]) -> tuple[float, int]:
    """Return the CPUs (or a fraction of one) and GPUs (0 or 1) of one replica, so that all fit.

    `nodes` are the resources of each machine, by Ray's names. The device `auto` is a GPU if the cluster has any.
    """
    count, gpus = settings.most_replicas, sum(int(node.get("GPU", 0)) for node in nodes)
    on_gpu = settings.device.startswith("cuda") or (settings.device == "auto" and gpus > 0)
    if on_gpu and gpus < count:
        raise ResourceError(
            f"not enough GPUs for {count} replicas: got {gpus}, expected {count}; request fewer or use --device cpu"
        )
    places = [(node.get("CPU", 0.0), node.get("GPU", 0.0) if on_gpu else math.inf) for node in nodes]
    total = sum(cpus for cpus, slots in places if slots >= 1)
    for share in [*range(int(total / count), 0, -1), *(1 / part for part in range(2, _REPLICAS_PER_CPU + 1))]:
        if sum(min(cpus // share, slots) for cpus, slots in places) >= count:
            return share, int(on_gpu)
    raise ResourceError(f"not enough CPUs for {count} replicas: got {total:g}; request fewer or add machines")


def build_application(settings: Settings, nodes: Sequence[dict[str, float]]) -> serve.Application:
    """Describe the replicas, their resources and their router to Ray; `nodes` as for `replica_resources`."""
    cpus, gpus = replica_resources(settings, nodes)
    update: dict[str, Any] = {
        "threads": settings.threads or max(1, int(cpus)),
        "device": "cuda" if gpus else "cpu" if settings.device == "auto" else settings.device,
    }
    if settings.model is not None and settings.model not in bundled_models():
        update["model"] = str(Path(settings.model).resolve())
    deployment = serve.deployment(
        serve.ingress()(Replica),
        name=_APPLICATION,
        ray_actor_options={"num_cpus": cpus, "num_gpus": gpus},
        autoscaling_config=AutoscalingConfig(
            min_replicas=settings.replicas,
            max_replicas=settings.most_replicas,
            target_ongoing_requests=settings.max_requests,
            upscale_delay_s=10,
        ),
        max_ongoing_requests=settings.max_connections,  # more than the application accepts: it sends the 503
        max_queued_requests=settings.max_connections,
        request_router_config=RequestRouterConfig(request_router_class=StickyRouter),
        health_check_period_s=2,
        graceful_shutdown_timeout_s=settings.drain_seconds,
        graceful_shutdown_wait_loop_s=_TICK,
    )
    return deployment.bind(settings.model_copy(update=update))


def run(settings: Settings, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Serve until SIGTERM or Ctrl-C; then replicas finish their work, for at most `drain_seconds`."""
    model = read_model(model_folder(settings.model))
    if not os.environ.get("RAY_ADDRESS"):
        pick_device(settings.device)
    with listen(settings) as listener:
        settings = settings.model_copy(update={"port": listener.getsockname()[1]})
    with ExitStack() as stack:
        handle = _start(settings, stack)
        stop = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: stop.set())
        count = " to ".join(str(number) for number in sorted({settings.replicas, settings.most_replicas}))
        say(f"{count} replicas on Ray. {greeting(settings, model, settings.port)}")
        while not stop.wait(_WATCH):
            if not any(node["Alive"] for node in ray.nodes()):
                raise ResourceError("Ray has ended; its logs are in session_latest/logs of its temporary folder")
        end = time.monotonic() + settings.drain_seconds
        while _call(handle, "drain") and time.monotonic() < end:
            time.sleep(_TICK)
        _call(handle, "end")
        time.sleep(_FLUSH)


def _start(settings: Settings, stack: ExitStack) -> DeploymentHandle[Any]:
    """Join the cluster of RAY_ADDRESS or start one here, start the replicas, and wait until they run."""
    address = os.environ.get("RAY_ADDRESS")
    for logger in ("ray", "ray.serve"):
        logging.getLogger(logger).setLevel(logging.CRITICAL)
    quiet = {"log_level": logging.CRITICAL, "enable_access_log": False}  # Ray's access log would hold tokens
    stack.callback(ray.shutdown)
    try:
        url = urlsplit(f"//{address or ''}")
        if url.hostname and url.port:  # Ray itself retries for minutes when nothing listens
            socket.create_connection((url.hostname, url.port), timeout=10).close()
        ray.init(
            address=address or "local",
            namespace=_APPLICATION,
            logging_level=logging.CRITICAL,
            runtime_env={"env_vars": _PROXY_ENVIRONMENT},
            **({} if address else {"include_dashboard": False}),
        )
        if serve.status().applications:
            raise ConfigError("this cluster already serves an application; end it first with: serve shutdown")
        application = build_application(settings, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        stack.callback(serve.shutdown)
        with suppress(TimeoutError):  # Ray's limit of a minute is short for a busy machine; `run` adds a minute
            serve.start(
                proxy_location="HeadOnly" if settings.local else "EveryNode",
                http_options={"host": settings.host, "port": settings.port, "keep_alive_timeout_s": 5},
                logging_config=quiet,
            )
        return serve.run(application, name=_APPLICATION, logging_config=quiet)
    except PlayloomError:
        raise
    except Exception as error:  # Ray raises a plain Exception when its own processes start too slowly
        reasons = [str(error)]
        if ray.is_initialized():  # why a replica failed
            reasons += [found.deployments[_APPLICATION].message for found in serve.status().applications.values()]
        where = f"at {address} (from RAY_ADDRESS)" if address else "on this machine"
        raise ResourceError(
            f"Ray {where} cannot start the server: {' '.join(reasons).strip().splitlines()[-1]}"
        ) from error


def _call(handle: DeploymentHandle[Any], method: str) -> bool:
    """Call a method of every replica; return whether any answers True. A replica that has ended answers nothing."""
    return any(answer is True for answer in handle.broadcast(method).results(timeout_s=5, return_exceptions=True))
