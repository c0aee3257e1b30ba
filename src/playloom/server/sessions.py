"""Sessions: live ones, which the scheduler steps at their ticks, and those of `/v1/sessions`, stepped by requests.

The send queue of a live connection holds all texts and the newest frame only, so a slow reader loses frames. A live
session without a connection is paused and kept for `reconnect_grace_seconds`.
"""

from __future__ import annotations

import asyncio
import math
import struct
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, NamedTuple, TypeVar

from fastapi import FastAPI, HTTPException, Request
from pydantic import Field
from starlette.responses import Response

from playloom.actions.codec import read_vector, values_to_rows
from playloom.actions.controller import CONTROLS
from playloom.errors import BadInputError
from playloom.inference.realtime.recorder import FrameHistory, SentFrame, as_csv, as_mp4
from playloom.inference.realtime.state import Controller, LiveFrame, LiveState
from playloom.inference.session import Prompt, Session, StepResult
from playloom.media.images import Live, live_picture
from playloom.provenance import Manifest
from playloom.server import schemas
from playloom.server.errors import service_unavailable, to_http_error
from playloom.server.middleware import Metrics
from playloom.server.scheduler import Handle, LiveHandle
from playloom.server.service import InferenceService, await_future, run_in
from playloom.server.settings import new_token

_T = TypeVar("_T")
HEADER = struct.Struct("<4sIIdffBBxx16f")  # before the picture of a live frame; its fields are in docs/serve.md
_FORMATS: dict[Live, int] = {"jpeg": 1, "webp": 2}
_MAX_TEXTS = 64


class SendQueue(Generic[_T]):
    """Messages to send: all texts, and the newest frame only. Used from the event loop."""

    def __init__(self) -> None:
        self._texts: deque[_T] = deque(maxlen=_MAX_TEXTS)
        self._frame: bytes | None = None
        self._changed = asyncio.Event()

    def put_text(self, text: _T) -> None:
        """Append a text."""
        self._texts.append(text)
        self._changed.set()

    def put_frame(self, frame: bytes) -> bool:
        """Set the newest frame; returns True when it replaces one that was not sent."""
        lost, self._frame = self._frame is not None, frame
        self._changed.set()
        return lost

    async def get(self) -> _T | bytes:
        """Wait for the next message; texts come first."""
        while True:
            if self._texts:
                return self._texts.popleft()
            if self._frame is not None:
                frame, self._frame = self._frame, None
                return frame
            self._changed.clear()
            await self._changed.wait()


class Start(NamedTuple):
    """Start of a live session; the name is None for an image."""

    prompt: Prompt
    name: str | None
    seed: int


class LiveConnection:
    """A live session with its connection, or waiting for a reconnect."""

    def __init__(
        self, sessions: SessionManager, handle: Handle, start: Start, *, controller: Controller, form: Live
    ) -> None:
        service = sessions.service
        self.service, self.metrics = service, sessions.metrics
        self.token, self.start, self.form = new_token(service.settings.replica), start, form
        self.state = LiveState(controller=controller, fps=service.settings.fps, aligned=True)
        self.history = FrameHistory(start.prompt, context=service.context, sent=service.settings.recording_frames)
        self.send_queue: SendQueue[dict[str, Any]] | None = None  # of the connected player
        self.detached_at = time.monotonic()
        self.delivered = False  # until the first message from the player, or the first frame sent to it
        self.failure: str | None = None  # the message of the error that ended the session
        self._paused_by_disconnect = False
        self._restarts = 0  # of the newest frame in the history
        self._loop = asyncio.get_running_loop()
        self._live = LiveHandle(handle=handle, state=self.state, on_frame=self._on_frame, on_error=self._on_error)
        self.manifest = self._manifest(start)
        service.scheduler.play(self._live)

    def attach(self) -> SendQueue[dict[str, Any]]:
        """Attach a player and return its send queue; an earlier connection gets no more frames."""
        if self.send_queue is not None:
            self.send_queue.put_text({"type": "error", "message": "this session was taken over by another connection"})
        self.send_queue = SendQueue()
        if self._paused_by_disconnect:
            self.state.resume()
            self.service.scheduler.wake()
        self._paused_by_disconnect = False
        return self.send_queue

    def detach(self, send_queue: SendQueue[dict[str, Any]]) -> None:
        """Detach a player and pause the session; no effect when another connection has replaced it."""
        if self.send_queue is send_queue:
            self.send_queue, self.detached_at = None, time.monotonic()
            self._paused_by_disconnect = not self.state.paused
            self.state.pause()

    @property
    def session(self) -> Session:
        """The session; another one after a restart."""
        return self._live.handle.session

    async def restart(self, start: Start) -> None:
        """Open a new session and switch to it between two frames; the old one goes on until then."""
        handle = await self.service.open(start.prompt, self.session.sampling, start.seed)
        manifest = self._manifest(start)

        def switch() -> None:
            self.service.scheduler.wait_for_frames()  # of the old session, with the old manifest
            old = self._live.handle
            if old.session.closed:
                handle.close()
                raise BadInputError("this live session is closed; open another one")
            self._live.handle, self.start, self.manifest = handle, start, manifest
            self.state.restarts += 1
            old.close()

        await await_future(self.service.scheduler.run(switch))

    def close(self) -> None:
        """Free the session's memory."""
        self.service.scheduler.stop(self._live)

    def state_changed(self) -> None:
        """Apply a change of the state: new manifest, another look at the clock, a message to the player."""
        self.manifest = self._manifest(self.start)
        self.service.scheduler.wake()
        if self.send_queue is not None:
            self.send_queue.put_text(self.state_message())

    def ready_message(self) -> dict[str, Any]:
        """Build the `ready` message."""
        height, width = self.service.size
        return {
            **self._changeable(),
            "type": "ready",
            "token": self.token,
            "model": self.service.model.config.name,
            "width": width,
            "height": height,
            "fps": self.state.fps,
            "controls": [control.name for control in CONTROLS],
        }

    def state_message(self) -> dict[str, Any]:
        """Build the `state` message."""
        return {**self._changeable(), "type": "state", "late": self.state.late, "skipped": self.state.skipped}

    def _changeable(self) -> dict[str, Any]:
        return {
            "prompt": self.start.name,
            "seed": self.start.seed,
            "controller": self.state.controller,
            "temperature": self.session.sampling.temperature,
            "paused": self.state.paused,
        }

    def _manifest(self, start: Start) -> Manifest:
        mode = "world" if self.state.controller == "person" else "full"
        return self.service.manifest(start.prompt, self.session.sampling, start.seed, mode)

    def _on_frame(self, frame: LiveFrame) -> Future[None]:
        prompt, manifest = self.start.prompt, self.manifest  # those of this frame
        return self.service.live_pool.submit(self._encode, frame, prompt, manifest)

    def _on_error(self, error: BaseException) -> None:
        self.failure = to_http_error(error).detail

    def _encode(self, frame: LiveFrame, prompt: Prompt, manifest: Manifest) -> None:
        form = self.form  # a player who reconnects may set another one meanwhile
        picture = live_picture(frame.frame_HWC, form, manifest.to_json())
        if frame.restarts != self._restarts:
            self._restarts = frame.restarts
            self.history.restart(prompt)
        self.history.add(frame, manifest)
        self.history.add_sent(SentFrame(picture, frame.action_A, frame.skipped))
        self.metrics.live_frames.inc()
        self.metrics.late.inc(frame.late)
        if frame.key_to_frame is not None:
            self.metrics.input_latency.observe(frame.key_to_frame)
        header = HEADER.pack(
            b"PLF1",
            frame.sequence % 2**32,
            frame.restarts % 2**32,
            frame.time,
            math.nan if frame.key_to_frame is None else frame.key_to_frame,
            frame.latency,
            frame.action_given,
            _FORMATS[form],
            *values_to_rows(frame.action_A, "named").tolist(),
        )
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, header + picture)

    def _deliver(self, packed: bytes) -> None:
        if self.send_queue is not None and self.send_queue.put_frame(packed):
            self.metrics.unseen.inc()


@dataclass(kw_only=True, eq=False)
class HttpSession:
    """A session that is stepped by requests."""

    handle: Handle
    manifest: Manifest
    schema: schemas.Schema
    history: FrameHistory
    used_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    recorded: Future[None] | None = None  # the newest step's picture

    def remember(self, pool: Executor, done: Future[StepResult]) -> None:
        """Add a step to the history, and to the recording in `pool`, also when its request has ended before."""
        if not done.cancelled() and done.exception() is None:
            self.history.add(done.result(), self.manifest)
            self.recorded = pool.submit(self._record, done.result())

    def _record(self, step: StepResult) -> None:
        assert step.frame_HWC is not None, "a step of a session has a frame"
        picture = live_picture(step.frame_HWC, "jpeg", self.manifest.to_json())
        self.history.add_sent(SentFrame(picture, step.action_A, 0))

    def close(self) -> None:
        """Free the session's memory."""
        self.handle.close()


class SessionCreated(schemas.GenerationResponse):
    """A new session."""

    token: str = Field(description="Token of the session; it gives access to step and close it.")


class StepBody(schemas.RequestModel):
    """Request of a step."""

    action: schemas.Vector | None = None
    """Sixteen numbers in the session's schema; none: sampled by the model."""


class SessionManager:
    """All sessions of a server. Used from one event loop."""

    def __init__(self, service: InferenceService, metrics: Metrics) -> None:
        self.service, self.metrics = service, metrics
        self.connections: dict[str, LiveConnection] = {}
        self.http_sessions: dict[str, HttpSession] = {}
        self._opening = 0

    @property
    def playing(self) -> int:
        """Number of live sessions with a connected player."""
        return sum(connection.send_queue is not None for connection in self.connections.values())

    @property
    def open_sessions(self) -> int:
        """Number of sessions open or being opened."""
        return len(self.connections) + len(self.http_sessions) + self._opening

    @contextmanager
    def opening(self) -> Iterator[None]:
        """Count a session that is being opened, or raise an `HTTPException` 503 if no more is allowed."""
        self.service.limiter.check_open()
        limit = self.service.settings.max_sessions
        if self.open_sessions >= limit:
            raise service_unavailable(f"all {limit} sessions are taken; try again in a while", 10)
        self._opening += 1
        try:
            yield
        finally:
            self._opening -= 1

    def find(self, token: str) -> HttpSession:
        """Return an HTTP session by its token, or raise an `HTTPException` 404."""
        session = self.http_sessions.get(token)
        if session is None or session.handle.session.closed:  # a failed step closes the handle
            raise HTTPException(404, "there is no such session; it was closed or expired")
        return session

    def history(self, token: str) -> tuple[str, FrameHistory, Manifest]:
        """Return the prompt's name, the newest frames and the manifest of a session, or raise a 404."""
        if live := self.connections.get(token):
            return live.start.name or "live play", live.history, live.manifest
        session = self.find(token)
        return "a session", session.history, session.manifest

    def close(self, token: str) -> bool:
        """Close a session; returns False when there is none."""
        session = self.connections.pop(token, None) or self.http_sessions.pop(token, None)
        if session is not None:
            session.close()
        return session is not None

    def expire(self) -> None:
        """Close sessions that failed, were idle too long, or whose player stayed away too long."""
        settings, now = self.service.settings, time.monotonic()
        for token, live in list(self.connections.items()):
            away = live.send_queue is None and now - live.detached_at > settings.reconnect_grace_seconds
            if away or (live.send_queue is None and live.failure is not None):
                self.close(token)
        for token, session in list(self.http_sessions.items()):
            idle = now - session.used_at > settings.idle_seconds and not session.lock.locked()
            if idle or session.handle.session.closed:
                self.close(token)


def register_session_routes(app: FastAPI, sessions: SessionManager) -> None:
    """Add the routes."""
    service = sessions.service

    @app.post("/v1/sessions", status_code=201, tags=["playloom"])
    async def open_session(body: schemas.PromptParams, request: Request) -> SessionCreated:
        """Open a session that is stepped by requests."""
        async with service.limiter.in_time(request):
            with sessions.opening():
                prompt, (sampling, seed) = await schemas.build_prompt(service, body), body.resolve(service)
                handle, token = await service.open(prompt, sampling, seed), new_token(service.settings.replica)
            sessions.http_sessions[token] = HttpSession(
                handle=handle,
                manifest=service.manifest(prompt, sampling, seed, "full"),
                schema=body.schema_,
                history=FrameHistory(prompt, context=service.context, sent=service.settings.recording_frames),
            )
            return SessionCreated(token=token, model=service.model.config.name, seed=seed)

    @app.post("/v1/sessions/{token}/step", tags=["playloom"])
    async def step_session(token: str, body: StepBody, request: Request) -> schemas.Step:
        """Run one step: a given or sampled action, and the frame after it."""
        session = sessions.find(token)
        action_A = None if body.action is None else read_vector(body.action, session.schema, "the action")
        async with service.limiter.in_time(request), session.lock:
            sessions.find(token)  # it may have been closed meanwhile
            session.used_at = time.monotonic()
            future = session.handle.submit(action_A)
            future.add_done_callback(partial(session.remember, service.live_pool))
            step = await await_future(future)
            reply = await schemas.serialize_step(service, step, session.manifest, session.schema)
            if session.recorded is not None:
                await await_future(session.recorded)
            session.used_at = time.monotonic()
            return reply

    @app.delete("/v1/sessions/{token}", status_code=204, tags=["playloom"])
    async def close_session(token: str) -> None:
        """Close a session, HTTP or live."""
        if not sessions.close(token):
            sessions.find(token)

    @app.get("/v1/sessions/{token}/recording.mp4", tags=["playloom"], **schemas.file_response("video/mp4"))
    async def video(token: str) -> Response:
        """Return the newest frames of a session as watermarked MP4 in real time."""
        _, history, manifest = sessions.history(token)
        async with service.limiter.in_time():
            data = await run_in(service.encode_pool, as_mp4, history.sent(), manifest, service.settings.fps)
        return schemas.download(data, "playloom.mp4", "video/mp4")

    @app.get("/v1/sessions/{token}/recording.csv", tags=["playloom"], **schemas.file_response("text/csv"))
    async def table(token: str) -> Response:
        """Return the actions of the newest frames of a session as CSV, one row each, `named` schema."""
        data = await run_in(service.encode_pool, as_csv, sessions.history(token)[1].sent())
        return schemas.download(data, "playloom.csv", "text/csv")
