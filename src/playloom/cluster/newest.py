"""A slow reader at Ray's proxy loses frames, and is never shown old ones. ASGI.

Between replica and proxy Ray holds nothing back: what a reader does not take would pile up in the proxy, ever older. So
what comes for a WebSocket is put into an `SendQueue` at once and sent from there as the reader takes it.
"""

from __future__ import annotations

import asyncio
import socket
from contextlib import suppress
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.server.live import SendQueue

_BUFFER = 16 * 2**10  # bytes that the machine may hold for a reader; frames in it are as good as sent


class Newest:
    """Every text in order, of the frames only the newest, the end last."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One WebSocket; requests pass."""
        if scope["type"] != "websocket":
            return await self.app(scope, receive, send)
        line = _Line(send)
        try:
            await self.app(scope, receive, line.put)
        finally:
            line.cut()


class _Line:
    """The way to one reader."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._outbox: SendQueue[Message] = SendQueue()
        self._sender: asyncio.Task[None] | None = None

    async def put(self, message: Message) -> None:
        """Take a message; only an end is waited for."""
        if message["type"] == "websocket.accept":
            _hold_little(self._send)
            await self._send(message)
            self._sender = asyncio.ensure_future(self._run())
        elif message["type"] == "websocket.send" and message.get("bytes") is not None:
            self._outbox.put_frame(message["bytes"])
        elif self._sender is None:  # refused before it began
            await self._send(message)
        else:
            self._outbox.put_text(message)
            if message["type"] == "websocket.close":
                await self._sender

    def cut(self) -> None:
        """Nothing more is sent."""
        if self._sender is not None:
            self._sender.cancel()

    async def _run(self) -> None:
        """Send until the end; a reader that went away is the application's to notice."""
        with suppress(Exception):
            while True:
                message = await self._outbox.take()
                if isinstance(message, bytes):
                    message = {"type": "websocket.send", "bytes": message}
                await self._send(message)
                if message["type"] == "websocket.close":
                    return


def _hold_little(send: Send) -> None:
    """Let the machine buffer frames by the kilobyte, as the server without Ray does; where the way to it is known.

    ASGI has no word for it: uvicorn's `send` is a method of the connection's protocol, which has the transport.
    """
    transport: Any = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.set_write_buffer_limits(high=_BUFFER)
        transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
