"""Answers that are Ray's own, not the application's, in the words that clients of the application know. ASGI.

Ray answers itself, with its own text or with none, when no replica is up, when one dies at a request, when its queue is
full. All of it becomes 503 and a sentence; for a WebSocket, an error and 1013. What broke off after its start stays so.
"""

from __future__ import annotations

import json
import logging

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.server.errors import ApiError, service_unavailable
from playloom.server.middleware import reject_websocket
from playloom.server.settings import REPLICA_HEADER

log = logging.getLogger("playloom.cluster")
_SECONDS = 2
_TRY_LATER = 1013
_OWN_ROUTES = "/-/"  # of Ray's proxy, for load balancers


class Plain:
    """Lets through what a replica says, and speaks where none does."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] == "http" and not scope["path"].startswith(_OWN_ROUTES):
            return await self._request(scope, receive, send)
        if scope["type"] == "websocket":
            return await self._socket(scope, receive, send)
        return await self.app(scope, receive, send)

    async def _request(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = refused = False

        async def checked(message: Message) -> None:
            nonlocal started, refused
            if message["type"] == "http.response.start":
                started = any(name.lower() == REPLICA_HEADER.encode() for name, _ in message.get("headers", []))
                refused = not started
            if started:
                await send(message)

        try:
            await self.app(scope, receive, checked)
        except Exception as error:
            if started:
                raise
            log.warning("a request failed in Ray", exc_info=error)
        if not started:
            await (_nobody() if refused else _gone()).response()(scope, receive, send)

    async def _socket(self, scope: Scope, receive: Receive, send: Send) -> None:
        accepted = ended = False

        async def checked(message: Message) -> None:
            nonlocal accepted, ended
            if message["type"].startswith("http."):  # Ray's own words, which no WebSocket can carry
                return
            accepted = accepted or message["type"] == "websocket.accept"
            ended = ended or message["type"] in ("websocket.close", "websocket.http.response.start")
            await send(message)

        async def heard() -> Message:
            nonlocal ended
            message = await receive()
            ended = ended or message["type"] == "websocket.disconnect"
            return message

        try:
            await self.app(scope, heard, checked)
        except Exception as error:
            log.warning("a WebSocket failed in Ray", exc_info=error)
        if accepted and not ended:
            sentence = _gone().message
            await send({"type": "websocket.send", "text": json.dumps({"type": "error", "message": sentence})})
            await send({"type": "websocket.close", "code": _TRY_LATER, "reason": sentence})
        elif not ended:
            await reject_websocket(_gone(), scope, send)


def _gone() -> ApiError:
    return service_unavailable("the replica that was at this is gone; try again in a while", _SECONDS)


def _nobody() -> ApiError:
    return service_unavailable("no replica of the cluster can take this now; try again in a while", _SECONDS)
