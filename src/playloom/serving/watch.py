"""Around everything: counts and logs every request, adds the headers browsers want, lets no traceback out. ASGI.

The access log is the logger `playloom.access`, level INFO. It holds no key, token, body or query.
"""

from __future__ import annotations

import logging
import time
from urllib.parse import quote

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.serving.metrics import Metrics
from playloom.serving.names import REPLICA_HEADER
from playloom.serving.refusals import refusal_of

access = logging.getLogger("playloom.access")

_LONGEST = 200  # characters of a path in the log
_SECRET = 24  # characters from which a part of a path may be a token, and is not logged
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]


class Watch:
    """The outermost layer."""

    def __init__(self, app: ASGIApp, metrics: Metrics, replica: str | None = None) -> None:
        """See the module.

        Args:
            app: what is inside.
            metrics: where requests are counted.
            replica: the server's name among several, told in every answer.
        """
        self.app, self.metrics = app, metrics
        own = [] if replica is None else [(REPLICA_HEADER.encode(), replica.encode())]
        self._headers = [*_HEADERS, *own]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket; everything else passes."""
        if scope["type"] == "websocket":
            return await self._socket(scope, receive, send)
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.monotonic(), 0

        async def watched(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)

        try:
            await self.app(scope, receive, watched)
        except Exception as error:
            refusal = refusal_of(error)
            if not status:
                await refusal.response()(scope, receive, watched)
        finally:
            route, took = getattr(scope.get("route"), "path", "other"), time.monotonic() - began
            method = _method(scope["method"])
            self.metrics.requests.labels(method, route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(took)
            access.info("%s %s %s %d %.0f ms", _client(scope), method, _path(scope), status, 1000 * took)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        began, frames, code = time.monotonic(), 0, 0
        client, path = _client(scope), _path(scope)

        async def heard() -> Message:
            nonlocal code
            message = await receive()
            if message["type"] == "websocket.disconnect":
                code = code or message.get("code", 1005)
            return message

        async def watched(message: Message) -> None:
            nonlocal code, frames
            await send(message)
            kind = message["type"]
            if kind == "websocket.accept":
                access.info("%s WS %s open", client, path)
            elif kind == "websocket.http.response.start":
                code = message["status"]
            elif kind == "websocket.close":
                code = code or message.get("code", 1000)
            elif kind == "websocket.send" and message.get("bytes") is not None:
                frames += 1

        try:
            await self.app(scope, heard, watched)
        finally:
            took = time.monotonic() - began
            access.info("%s WS %s closed %d %d frames %.1f s", client, path, code, frames, took)


def _client(scope: Scope) -> str:
    client = scope.get("client")
    return client[0] if client else "-"


def _path(scope: Scope) -> str:
    """The path on one line of ASCII, without the parts that may be tokens."""
    parts = ["*" if len(part) >= _SECRET else part for part in scope["path"].split("/")]
    return quote("/".join(parts)[:_LONGEST], safe="/:@!$&'()*+,;=", errors="replace")


def _method(method: str) -> str:
    """The method, one of few: what clients send must not make new series."""
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
