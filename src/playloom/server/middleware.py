"""ASGI middlewares: authorization, body limits, metrics and the access log.

Without a key the server is for this machine: the Host header must name it, which also stops DNS rebinding. Foreign
origins are refused with and without a key, WebSockets included. Request bodies are bounded in size, in time and in
total, and complete before a route runs. The access log is the logger `playloom.access`, level INFO; it holds no key,
token, body or query.
"""

from __future__ import annotations

import hmac
import logging
import re
import time
from collections.abc import Callable, Mapping
from functools import partial
from urllib.parse import SplitResult, quote, urlsplit

import anyio
from fastapi import HTTPException
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from playloom.client.endpoint import is_loopback
from playloom.server.errors import check_complexity, error_response, service_unavailable
from playloom.server.settings import Settings

_FORM_PATH = "/new_job"  # takes a form; every other body is JSON


class BodyLimitMiddleware:
    """Reads a request's body before the application sees the request."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings
        self._inflight = 0  # bytes of all bodies in memory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request; WebSockets pass."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        body = bytearray()
        try:
            await self._read(Request(scope, receive), body)
            if scope["path"] != _FORM_PATH:
                check_complexity(body)
                # JSON whatever its content type: `curl -d` and clients of the hosted endpoint send others.
                others = [header for header in scope["headers"] if header[0] != b"content-type"]
                scope["headers"] = [*others, (b"content-type", b"application/json")]
            complete = iter([{"type": "http.request", "body": bytes(body)}])

            async def replay() -> Message:
                return next(complete, None) or await receive()  # the body, then the disconnect

            await self.app(scope, replay, send)
        except ClientDisconnect:
            return None
        except HTTPException as error:
            await error_response(error)(scope, receive, send)
        finally:
            self._inflight -= len(body)

    async def _read(self, request: Request, body: bytearray) -> None:
        limit, seconds = self.settings.body_bytes, self.settings.body_seconds
        too_large = HTTPException(413, f"the body is larger than {limit:,} bytes; send fewer or smaller images")
        declared = request.headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit:
            raise too_large
        try:
            with anyio.fail_after(seconds):
                async for chunk in request.stream():
                    body += chunk
                    self._inflight += len(chunk)
                    if len(body) > limit:
                        raise too_large
                    if self._inflight > max(len(body), self.settings.max_inflight_bytes):  # one alone always fits
                        raise service_unavailable("too many large requests at once; try again in a while", 2)
        except TimeoutError:
            sentence = f"the body did not come within {seconds:g} seconds; send it faster"
            raise HTTPException(408, sentence, {"Connection": "close"}) from None


_OPEN = re.compile(
    r"/|/assets/.*|/[\w.-]+\.(svg|ico|png|webmanifest|txt)|/v1/health|/v1/openapi\.json|/v1/prompts(/.*)?|"
    r"/v1/sessions/[^/]+/recording\.(mp4|csv)|/v1/play|"
    r"/v1/stories/[0-9a-f]{32}/(events|story\.zip|nodes/\d+\.(png|webp)|nodes/\d+/path\.(mp4|gif|csv|npz|zip))"
)
"""Served without a key: the page and what it shows before one is typed in. Recordings and stories are named by a secret
token, which gives read access to a story only; live play needs the key in its first message."""


class AuthMiddleware:
    """Rejects unauthorized requests."""

    def __init__(self, app: ASGIApp, settings: Settings) -> None:
        self.app, self.settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        error = self._authorize(scope) if scope["type"] in ("http", "websocket") else None
        await (self.app if error is None else error_response(error))(scope, receive, send)

    def _authorize(self, scope: Scope) -> HTTPException | None:
        headers, key = Headers(scope=scope), self.settings.key
        host = headers.get("host", "")
        if key is None and not is_loopback(_split(f"//{host}").hostname or ""):
            return HTTPException(403, "without a key the server answers to this machine's own names only, as 127.0.0.1")
        if not self._own_origin(headers, host):
            sentence = "pages of other origins may not call this server; see the setting allowed_origins"
            return HTTPException(403, sentence)
        if key is None or _OPEN.fullmatch(scope["path"]) or scope.get("method") == "OPTIONS":
            return None
        if not verify_api_key(bearer_key(headers), key):
            return HTTPException(401, "send the key as: Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
        return None

    def _own_origin(self, headers: Headers, host: str) -> bool:
        origin = headers.get("origin")
        if origin is not None:
            return origin in self.settings.allowed_origins or _split(origin).netloc.lower() == host.lower()
        # An image or script tag of a foreign page sends no Origin, but browsers send where it comes from.
        return headers.get("sec-fetch-site", "none") != "cross-site" or headers.get("sec-fetch-mode") == "navigate"


def bearer_key(headers: Headers) -> str:
    """Return the key in the Authorization header, or an empty text; the scheme may be written in any case."""
    return re.sub(r"(?i)^bearer\s", "", headers.get("authorization", "")).strip()


def verify_api_key(given: str, key: str | None) -> bool:
    """Compare a key in constant time; any key is valid when none is set."""
    return key is None or hmac.compare_digest(given.encode("utf-8", "replace"), key.encode("utf-8", "replace"))


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        return urlsplit("")


access = logging.getLogger("playloom.access")

_LONGEST = 200  # characters of a path in the log
_SECRET = 24  # characters from which a part of a path may be a token, and is not logged
_HEADERS = [(b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"no-referrer")]
_LATENCY = (0.02, 0.05, 0.075, 0.1, 0.125, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0)
_DURATION = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
_METHODS = {"GET", "POST", "DELETE", "HEAD", "OPTIONS", "PUT", "PATCH"}
_ONLY_GET = re.compile(r"/get_job_results|/cancel_job|/v1/stories/[^/]+/events")
"""Not answered to HEAD: a GET takes results, cancels, or does not end."""


class Metrics:
    """Counters and histograms, which any thread may increment, and gauges."""

    def __init__(self, batch: int, gauges: Mapping[str, Callable[[], float]]) -> None:
        self.registry = CollectorRegistry()
        counter, histogram = partial(Counter, registry=self.registry), partial(Histogram, registry=self.registry)
        self.requests = counter("playloom_requests", "Requests answered.", ["method", "route", "status"])
        self.seconds = histogram("playloom_request_duration_seconds", "Time to answer.", ["route"], buckets=_DURATION)
        self.live_frames = counter("playloom_live_frames", "Frames of live play.")
        self.unseen = counter("playloom_live_frames_dropped", "Live frames that a slow reader lost.")
        self.late = counter("playloom_live_frames_late", "Live frames after their time.")
        about = "From an action's arrival until its frame is ready."
        self.input_latency = histogram("playloom_input_latency_seconds", about, buckets=_LATENCY)
        self.batch_size = histogram("playloom_batch_size", "Sessions in one batch.", buckets=range(1, batch + 1))
        self.frames = counter("playloom_generated_frames", "Steps generated.")
        self.in_progress = 0  # HTTP requests that are not answered yet: a stopping server waits for them
        for name, value in gauges.items():
            text = name.replace("_", " ").capitalize()
            Gauge(f"playloom_{name}", f"{text} now.", registry=self.registry).set_function(value)

    def count_batch(self, size: int) -> None:
        """Count a batch of steps."""
        self.batch_size.observe(size)
        self.frames.inc(size)


class MetricsMiddleware:
    """Outermost middleware: counts and logs requests, adds headers (the replica's name too), hides tracebacks.

    HEAD is passed on as GET; the web server leaves out the body.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics, replica: str | None = None) -> None:
        self.app, self.metrics = app, metrics
        self._headers = _HEADERS + ([] if replica is None else [(b"x-playloom-replica", replica.encode())])

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or WebSocket."""
        kind, method = scope["type"], scope.get("method")
        if kind not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        if method == "HEAD" and not _ONLY_GET.fullmatch(scope["path"]):
            scope = {**scope, "method": "GET"}
        began, status, frames = time.monotonic(), 0, 0
        client, parts = (scope.get("client") or "-")[0], scope["path"].split("/")
        path = "/".join("*" if len(part) >= _SECRET else part for part in parts)[:_LONGEST]
        path = quote(path, safe="/:@!$&'()*+,;=", errors="replace")

        async def heard() -> Message:
            nonlocal status
            message = await receive()
            if message["type"] == "websocket.disconnect":
                status = status or message.get("code", 1005)
            return message

        async def watched(message: Message) -> None:
            nonlocal status, frames
            if message["type"].endswith("http.response.start"):
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), *self._headers]}
            await send(message)
            if message["type"] == "websocket.accept":
                access.info("%s WS %s open", client, path)
            elif message["type"] == "websocket.close":
                status = status or message.get("code", 1000)
            frames += message["type"] == "websocket.send" and message.get("bytes") is not None

        self.metrics.in_progress += kind == "http"
        try:
            await self.app(scope, heard, watched)
        except Exception as error:
            if kind == "websocket":
                raise
            response = error_response(error)
            if not status:
                await response(scope, receive, watched)
        finally:
            seconds = time.monotonic() - began
            if kind == "websocket":
                access.info("%s WS %s closed %d %d frames %.1f s", client, path, status, frames, seconds)
            else:
                self.metrics.in_progress -= 1
                route = getattr(scope.get("route"), "path", "other")
                label = method if method in _METHODS else "other"  # no series that clients invent
                self.metrics.requests.labels(label, route, str(status)).inc()
                self.metrics.seconds.labels(route).observe(seconds)
                access.info("%s %s %s %d %.0f ms", client, label, path, status, 1000 * seconds)
