"""Bodies of requests: bounded in size, in time and all together, and whole in hand before anything happens. ASGI."""

from __future__ import annotations

import asyncio
import time

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.serving.refusals import Refusal, busy
from playloom.serving.settings import Settings


class _Gone(Exception):
    """The client went away before its body had come."""


class Bodies:
    """Reads a request's body before the application sees the request."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self.held = 0
        """Bytes of all bodies in memory."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request; WebSockets pass."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        chunks: list[bytes] = []
        try:
            await self._read(Headers(scope=scope), receive, chunks)
            await self.app(scope, _replay(b"".join(chunks), receive), send)
        except _Gone:
            return None
        except Refusal as refusal:
            await refusal.response()(scope, receive, send)
        finally:
            self.held -= sum(map(len, chunks))

    async def _read(self, headers: Headers, receive: Receive, chunks: list[bytes]) -> None:
        limit = self.settings.body_bytes
        declared = headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
            raise _too_large(limit)
        end, size, more = time.monotonic() + self.settings.body_seconds, 0, True
        while more:
            message = await self._next(receive, end)
            chunk = message.get("body", b"")
            chunks.append(chunk)
            size += len(chunk)
            self.held += len(chunk)
            more = message.get("more_body", False)
            if size > limit:
                raise _too_large(limit)
            if self.held > self.settings.bodies_bytes:
                raise busy("too many large requests at once; try again in a while", 2)

    async def _next(self, receive: Receive, end: float) -> Message:
        try:
            message = await asyncio.wait_for(receive(), max(0.001, end - time.monotonic()))
        except asyncio.TimeoutError:
            seconds = self.settings.body_seconds
            raise Refusal(
                408, f"the body did not come within {seconds:g} seconds; send it faster", {"Connection": "close"}
            ) from None
        if message["type"] == "http.disconnect":
            raise _Gone
        return message


def _too_large(limit: int) -> Refusal:
    return Refusal(413, f"the body is larger than {limit:,} bytes; send fewer or smaller pictures")


def _replay(body: bytes, receive: Receive) -> Receive:
    """Gives the body once, then whatever comes (that the client went away)."""
    first = True

    async def replay() -> Message:
        nonlocal first
        if first:
            first = False
            return {"type": "http.request", "body": body, "more_body": False}
        return await receive()

    return replay
