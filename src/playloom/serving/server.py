"""Running the application: one process, one port, and an end that finishes what was begun.

    run(read_settings(port=5000), say=print)

On SIGTERM or Ctrl-C new work is refused with 503 while what runs is finished, for at most `drain_seconds`; a second
signal ends it at once.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable
from types import FrameType

import uvicorn
from fastapi import FastAPI

from playloom.errors import BadInputError
from playloom.serving.app import Server as Application
from playloom.serving.app import create_app
from playloom.serving.connections import guarded_protocol, worth_logging
from playloom.serving.settings import Settings

_BACKLOG = 1024
_TICK = 0.1  # seconds, uvicorn's
_GRACE = 1.8  # seconds after the time to finish is over, in which everything is closed


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal first lets what runs be finished."""

    def __init__(self, config: uvicorn.Config, application: Application, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self.application, self.on_start = application, on_start
        self._draining: float | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.on_start()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins the end, the next one is it."""
        if self._draining is None:
            self._draining = self.application.settings.drain_seconds
            self.application.drain()
            # Whatever hangs then (a device, a video being written), the process ends.
            last = threading.Timer(self._draining + _GRACE, os._exit, (1,))
            last.daemon = True
            last.start()
        else:
            self.should_exit = self.force_exit = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """The end: whoever listens to events for ever is let go first."""
        self.application.drain()
        await super().shutdown(sockets)

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's look around, ten times a second."""
        if self._draining is not None:
            self._draining -= _TICK
            if self._draining <= 0 or not self.application.working:
                self.application.studio.gate.end()
                self.should_exit = True
        return await super().on_tick(counter)


def run(settings: Settings, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Serve until told to stop.

    Args:
        settings: what to serve, where, and every limit.
        say: told once it listens, in a sentence.

    Raises:
        PlayloomError: when the model cannot be used or the port is taken.
    """
    with listen(settings) as listener:
        server_of(settings, create_app(settings), listener, say).run(sockets=[listener])


def server_of(
    settings: Settings, app: FastAPI, listener: socket.socket, say: Callable[[str], None] = lambda sentence: None
) -> DrainingServer:
    """The server of an application, ready to run on a socket of `listen`."""
    application: Application = app.state.server
    config = uvicorn.Config(
        app,
        http=guarded_protocol(settings),
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
        backlog=_BACKLOG,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    logging.getLogger("uvicorn.error").addFilter(worth_logging)
    greeting = _greeting(application, listener.getsockname()[1])
    return DrainingServer(config, application, lambda: say(greeting))


def listen(settings: Settings) -> socket.socket:
    """A socket on the address that the settings name.

    Raises:
        BadInputError: when it is taken or not this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise BadInputError(
            f"cannot listen on {settings.host} port {settings.port}: {error.strerror or error}; choose another --port"
        ) from error
    return listener


def _greeting(application: Application, port: int) -> str:
    settings = application.settings
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    who = "requests need the key" if settings.key else "without a key, for this machine only"
    return f"playloom serves {application.studio.model.config.name} on http://{host}:{port} ({who})"
