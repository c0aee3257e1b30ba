"""Around everything: counts every request, adds the headers browsers want, and lets no traceback out. ASGI."""

from __future__ import annotations

import time

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.serving.metrics import Metrics
from playloom.serving.names import REPLICA_HEADER
from playloom.serving.refusals import refusal_of

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
        """One request; everything else passes."""
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
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(_method(scope["method"]), route, str(status)).inc()
            self.metrics.seconds.labels(route).observe(time.monotonic() - began)


def _method(method: str) -> str:
    """The method, one of few: what clients send must not make new series."""
    return method if method in ("GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH") else "other"
