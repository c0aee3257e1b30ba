"""Connections as such: cut off when they send no request in time, and making room for others when there are too many.

uvicorn limits what a request may do once its head is in; this is what comes before.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections import OrderedDict
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from playloom.serving.settings import Settings

_SOCKET_BUFFER = 16 * 2**10


def worth_logging(record: logging.LogRecord) -> bool:
    """A filter of uvicorn's log: without the traceback that any client's text of broken UTF-8 leaves (close 1007)."""
    return not str(record.msg).startswith("Invalid UTF-8")


def guarded_protocol(settings: Settings) -> type[asyncio.Protocol]:
    """uvicorn's HTTP protocol with these limits."""
    idle: OrderedDict[GuardedProtocol, None] = OrderedDict()

    class Guarded(GuardedProtocol):
        limits, waiting = settings, idle

    return Guarded


class GuardedProtocol(H11Protocol):
    """One connection. Between requests it is idle, and idle connections are on a clock and in a queue to be closed."""

    limits: Settings
    """How long, and how many."""
    waiting: OrderedDict[GuardedProtocol, None]
    """Connections without a request in progress, longest idle first; shared by all of a server."""
    _clock: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A connection comes; at the limit the longest idle one goes, or this one when all are at work."""
        super().connection_made(transport)
        self._idle()
        if len(self.connections) > self.limits.connections:
            oldest = next(iter(self.waiting))
            oldest.refuse(503, "there are too many connections; try again in a while")

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._busy()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """A piece of a head or of a body; only a whole head stops the clock."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._busy()
        elif not self.transport.is_closing() and self.transport.get_protocol() is self:
            self._idle()

    def on_response_complete(self) -> None:
        """A request is answered: idle again."""
        super().on_response_complete()
        if not self.transport.is_closing() and (self.cycle is None or self.cycle.response_complete):
            self._idle()

    def handle_websocket_upgrade(self, event: h11.Request) -> None:
        """From here on it is a WebSocket's business.

        Little is buffered for it, so that a slow reader falls frames behind, not megabytes.
        """
        self._busy()
        self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SOCKET_BUFFER)
        self.transport.set_write_buffer_limits(high=_SOCKET_BUFFER)
        super().handle_websocket_upgrade(event)

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP at all."""
        self.refuse(400, "this is no HTTP request that can be read, or its head is too large")

    def refuse(self, status: int, sentence: str) -> None:
        """Say why, if a request may still be answered, and close."""
        self._busy()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE) and not self.transport.is_closing():
            body = json.dumps({"error": sentence}).encode("ascii")
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("connection", "close"),
            ]
            parts = [h11.Response(status_code=status, headers=headers), h11.Data(data=body), h11.EndOfMessage()]
            self.transport.write(b"".join(self.conn.send(part) or b"" for part in parts))
        self.transport.close()

    def _idle(self) -> None:
        if self._clock is None:
            self._clock = self.loop.call_later(self.limits.header_seconds, self._out_of_time)
            self.waiting[self] = None

    def _busy(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None
        self.waiting.pop(self, None)

    def _out_of_time(self) -> None:
        self.refuse(408, f"no request came within {self.limits.header_seconds:g} seconds")
