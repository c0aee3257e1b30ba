"""Who may speak to the server: the key, and that no foreign web page speaks through a user's browser. ASGI.

Without a key the server is for this machine, so the Host header must name it (else a page whose name was pointed at
127.0.0.1 could call us: DNS rebinding). Foreign origins are refused with and without a key, WebSockets included.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from playloom.serving.refusals import Refusal
from playloom.serving.settings import Settings

_OPEN = re.compile(
    r"/|/assets/.*|/[\w.-]+\.(svg|ico|png|webmanifest|txt)|/v1/health|/v1/openapi\.json|/v1/moments(/.*)?|"
    r"/v1/sessions/[^/]+/recording\.(mp4|csv)|/v1/play|"
    r"/v1/stories/[0-9a-f]{32}/(events|story\.zip|nodes/\d+\.(png|webp)|nodes/\d+/path\.(mp4|gif|csv|npz|zip))"
)
"""Served without a key: the page and what it shows before one is typed in. Recordings and stories are named by a secret
token (a story can only be looked at with it alone); live play asks for the key in its first message."""


class Guard:
    """Refuses who may not; everybody else passes."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request or WebSocket."""
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        refusal = self.judge(scope)
        if refusal is None:
            return await self.app(scope, receive, send)
        if scope["type"] == "websocket":
            await receive()
            return await turn_away(refusal, scope, send)
        return await refusal.response()(scope, receive, send)

    def judge(self, scope: Scope) -> Refusal | None:
        """Why this request is refused; None when it is not."""
        headers, key = Headers(scope=scope), self.settings.key
        host = headers.get("host", "")
        if key is None and not _is_loopback(host):
            return Refusal(403, "without a key the server answers to this machine's own names only, as 127.0.0.1")
        if not self._own_origin(headers, host):
            return Refusal(403, "pages of other origins may not call this server; see the setting allowed_origins")
        if key is None or _OPEN.fullmatch(scope["path"]) or scope.get("method") == "OPTIONS":
            return None
        if not key_fits(headers.get("authorization", "").removeprefix("Bearer ").strip(), key):
            return Refusal(401, "send the key as: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        return None

    def _own_origin(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            return origin in self.settings.allowed_origins or urlsplit_host(origin) == host.lower()
        # A picture or script tag of a foreign page sends no Origin, but browsers say where it comes from.
        return headers.get("sec-fetch-site", "none") != "cross-site" or headers.get("sec-fetch-mode") == "navigate"


async def turn_away(refusal: Refusal, scope: Scope, send: Send) -> None:
    """Refuse a WebSocket before it is one: with the same answer as a request, where the server can send it."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        return await send({"type": "websocket.close", "code": 1008})
    answer = refusal.response()
    start = {"type": "websocket.http.response.start", "status": answer.status_code, "headers": answer.raw_headers}
    await send(start)
    return await send({"type": "websocket.http.response.body", "body": answer.body})


def key_fits(given: str | None, key: str | None) -> bool:
    """Whether the key is right, in a time that does not tell how nearly; any is when there is none."""
    return key is None or hmac.compare_digest((given or "").encode("utf-8", "replace"), key.encode("utf-8", "replace"))


def urlsplit_host(origin: str) -> str:
    """Host and port of an origin, lower case; empty for what is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
