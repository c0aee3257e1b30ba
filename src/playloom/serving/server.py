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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import uvicorn
from fastapi import FastAPI

from playloom.errors import BadInputError
from playloom.serving.app import Server as Application
from playloom.serving.app import create_app
from playloom.serving.connections import guarded_protocol, worth_logging
from playloom.serving.settings import Settings
from playloom.serving.watch import access

_BACKLOG = 1024
_TICK = 0.1  # seconds, uvicorn's
_GRACE = 1.8  # seconds after the time to finish is over, in which everything is closed


class DrainingServer(uvicorn.Server):
    """uvicorn, except that a signal first lets what runs be finished."""

    def __init__(
        self, config: uvicorn.Config, application: Application, say: Callable[[str], None], greeting: str
    ) -> None:
        super().__init__(config)
        self.application, self.say, self.greeting = application, say, greeting
        self._draining: float | None = None
        self._farewell = (
            f"stopping; what runs may take {application.settings.drain_seconds:g} more seconds, "
            "press Ctrl-C again to end at once"
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, then say so."""
        await super().startup(sockets)
        self.say(self.greeting)

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
            if self._farewell:  # said here: a signal may come in the middle of another sentence
                self.say(self._farewell)
                self._farewell = ""
            self._draining -= _TICK
            if self._draining <= 0 or not self.application.working:
                self.application.studio.gate.end()
                self.should_exit = True
        return await super().on_tick(counter)


def run(settings: Settings, say: Callable[[str], None] = lambda sentence: None) -> None:
    """Serve until told to stop.

    Args:
        settings: what to serve, where, and every limit.
        say: told in a sentence that it listens, and later that it is stopping.

    Raises:
        PlayloomError: when the model cannot be used or the port is taken.
    """
    with listen(settings) as listener, _access_log(settings):
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
    return DrainingServer(config, application, say, _greeting(application, listener.getsockname()[1]))


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


@contextmanager
def _access_log(settings: Settings) -> Iterator[None]:
    """Requests are logged to stderr, where the settings ask for it."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    if settings.access_log:
        access.addHandler(handler)
        access.setLevel(logging.INFO)
    try:
        yield
    finally:
        access.removeHandler(handler)


def _greeting(application: Application, port: int) -> str:
    settings = application.settings
    shown = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)  # a link has to lead somewhere
    host = f"[{shown}]" if ":" in shown else shown
    who = "requests need the key" if settings.key else "without a key, for this machine only"
    every = "" if shown == settings.host else "listens on every address, "
    return f"Open http://{host}:{port} to play {application.studio.model.config.name} ({every}{who})"
