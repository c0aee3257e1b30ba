"""Run the server on one port, with graceful shutdown.

SIGTERM or Ctrl-C rejects new work with 503 and gives running work up to `drain_seconds`; a second signal ends it at
once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from playloom.errors import BadInputError
from playloom.models.card import describe_controls
from playloom.models.folder import ModelDescription
from playloom.server.app import Server as Application
from playloom.server.app import create_app
from playloom.server.middleware import access
from playloom.server.settings import Settings

Say = Callable[[str], None]
_SOCKET_BUFFER = 16 * 2**10
_GRACE = 1.8  # seconds after the drain, in which everything is closed


class _GuardedProtocol(H11Protocol):
    """One HTTP connection with a timeout for request heads; above `max_connections`, the longest idle one is closed."""

    limits: Settings
    idle: OrderedDict[_GuardedProtocol, asyncio.TimerHandle]  # all idle connections of the server, longest idle first

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._set_idle()
        if len(self.connections) > self.limits.max_connections:
            oldest = next(iter(self.idle))
            oldest._refuse(503, "there are too many connections; try again in a while")

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_busy()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._set_busy()
        elif not self.transport.is_closing() and self.transport.get_protocol() is self:
            self._set_idle()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self._set_idle()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """Small buffers keep a slow reader's frames recent."""
        self._set_busy()
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self.transport.set_write_buffer_limits(high=_SOCKET_BUFFER)
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        self._refuse(400, "this is no HTTP request that can be read, or its head is too large")

    def _refuse(self, status: int, message: str) -> None:
        self._set_busy()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            body = json.dumps({"error": message})
            head = f"HTTP/1.1 {status} {HTTPStatus(status).phrase}\r\ncontent-type: application/json\r\n"
            self.transport.write(
                f"{head}content-length: {len(body)}\r\nconnection: close\r\n\r\n{body}".encode("ascii")
            )
        self.transport.close()

    def _set_idle(self) -> None:
        if self not in self.idle:
            seconds = self.limits.header_seconds
            message = f"no request came within {seconds:g} seconds"
            self.idle[self] = self.loop.call_later(seconds, self._refuse, 408, message)

    def _set_busy(self) -> None:
        if (timer := self.idle.pop(self, None)) is not None:
            timer.cancel()


class DrainingServer(uvicorn.Server):
    """A uvicorn server whose first signal starts the drain."""

    def __init__(self, config: uvicorn.Config, application: Application, say: Say, greeting: str) -> None:
        super().__init__(config)
        self.application, self.say, self.greeting = application, say, greeting
        self._drain_end: float | None = None  # by the monotonic clock
        self._announced = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then print the greeting."""
        await super().startup(sockets)
        self.say(self.greeting)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the drain; a second signal exits at once."""
        if self._drain_end is None:
            seconds = self.application.settings.drain_seconds
            self._drain_end = time.monotonic() + seconds
            self.application.drain()
            # Whatever hangs then (a device, a video being written), the process ends.
            last = threading.Timer(seconds + _GRACE, os._exit, (0,))
            last.daemon = True
            last.start()
        else:
            self.should_exit = self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down; event streams end first."""
        self.application.drain()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Check the drain, ten times per second."""
        if self._drain_end is not None:
            if not self._announced:  # not in the signal handler: that may interrupt another print
                self._announced, seconds = True, self.application.settings.drain_seconds
                self.say(f"stopping; running work has {seconds:g} more seconds, press Ctrl-C again to end at once")
            if time.monotonic() >= self._drain_end or not self.application.has_active_work:
                self.application.service.limiter.abort_all()
                self.should_exit = True
        return await super().on_tick(counter)


def run(settings: Settings, say: Say = lambda sentence: None) -> None:
    """Serve until stopped; `say` prints that the server listens, and later that it is stopping."""
    with listen(settings) as listener:
        log_requests(settings)
        server_of(settings, create_app(settings), listener, say).run(sockets=[listener])


def server_of(settings: Settings, app: FastAPI, listener: socket.socket, say: Say) -> DrainingServer:
    """Build the server of an application, ready to run on a socket of `listen`."""
    application: Application = app.state.server
    config = uvicorn.Config(
        app,
        http=type("Guarded", (_GuardedProtocol,), {"limits": settings, "idle": OrderedDict()}),
        ws="websockets-sansio",
        ws_max_size=settings.socket_bytes,
        ws_per_message_deflate=False,
        ws_ping_interval=10,
        ws_ping_timeout=10,
        h11_max_incomplete_event_size=64 * 2**10,
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=1024,
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # A text that is not UTF-8 closes its WebSocket (1007); uvicorn's traceback of it is noise.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not str(record.msg).startswith("Invalid UTF-8"))
    words = greeting(settings, application.service.model, listener.getsockname()[1])
    return DrainingServer(config, application, say, words)


def listen(settings: Settings) -> socket.socket:
    """Open a socket on the configured address; raise a `BadInputError` if it is not available."""
    family, address = socket.AF_INET6 if ":" in settings.host else socket.AF_INET, (settings.host, settings.port)
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
    except (OSError, TypeError) as error:  # TypeError: of a host name that cannot be encoded
        listener.close()
        place, reason = f"{settings.host} port {settings.port}", getattr(error, "strerror", None) or error
        raise BadInputError(f"cannot listen on {place}: {reason}; choose another --port or --host") from error
    return listener


def log_requests(settings: Settings) -> None:
    """Write a line for each request to stderr from now on, if `access_log` is set."""
    if settings.access_log:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        access.addHandler(handler)
        access.setLevel(logging.INFO)


def greeting(settings: Settings, model: ModelDescription, port: int) -> str:
    """Return the address to open, who may use it, and the model's controls."""
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # an address that can be opened
    host = f"[{shown}]" if ":" in shown else shown
    access_rule = "requests need the key" if settings.key else "without a key, for this machine only"
    every = "" if shown == settings.host else "listens on every address, "
    controls = describe_controls(model.card)
    sentence = f"Open http://{host}:{port} to play {model.config.name} ({every}{access_rule})"
    return f"{sentence}\nControls: {controls}" if controls else sentence
