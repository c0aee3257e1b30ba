"""The size of a WebSocket message, which Ray's proxy does not take from the settings. ASGI."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.server.settings import Settings

_TOO_LARGE = 1009


class Messages:
    """Ends a connection at the first message that is too large; requests pass."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.limit = app, settings.socket_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket."""
        if scope["type"] != "websocket":
            return await self.app(scope, receive, send)
        over = False

        async def weighed() -> Message:
            nonlocal over
            message = await receive()
            if _size(message) <= self.limit:
                return message
            over = True
            await send({"type": "websocket.close", "code": _TOO_LARGE, "reason": f"more than {self.limit} bytes"})
            return {"type": "websocket.disconnect", "code": _TOO_LARGE}

        async def unless_over(message: Message) -> None:
            if not over:
                await send(message)

        return await self.app(scope, weighed, unless_over)


def _size(message: Message) -> int:
    data, text = message.get("bytes"), message.get("text")
    return len(data or b"") + (len(text.encode("utf-8", "replace")) if text else 0)
