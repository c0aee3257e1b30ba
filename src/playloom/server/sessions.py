"""`/v1/sessions`: sessions stepped by HTTP requests, and the recordings of these and of live sessions."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import Enum

from fastapi import FastAPI, Request
from starlette.responses import Response

from playloom.actions.codec import read_vector
from playloom.inference.realtime.recorder import FrameHistory, SentFrame, as_csv, as_mp4
from playloom.inference.types import StepResult
from playloom.media.images import live_picture
from playloom.provenance import Manifest
from playloom.server.errors import ApiError
from playloom.server.live import LiveSessionManager
from playloom.server.scheduler import Handle
from playloom.server.schemas import (
    GenerationResponse,
    PromptParams,
    RequestModel,
    Schema,
    Step,
    Vector,
    build_prompt,
    serialize_step,
)
from playloom.server.service import InferenceService, await_future
from playloom.server.settings import new_token

_TAGS: list[str | Enum] = ["playloom"]
_MP4: dict[int | str, dict[str, object]] = {200: {"content": {"video/mp4": {}}}}
_CSV: dict[int | str, dict[str, object]] = {200: {"content": {"text/csv": {}}}}


class SessionCreated(GenerationResponse):
    """A new session."""

    token: str
    """Token of the session; it gives access to step and close it."""


class StepBody(RequestModel):
    """Request of a step."""

    action: Vector | None = None
    """Sixteen numbers in the session's schema; none: sampled by the model."""


@dataclass(kw_only=True, eq=False)
class _Session:
    handle: Handle
    manifest: Manifest
    schema: Schema
    history: FrameHistory
    used_at: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def remember(self, done: Future[StepResult]) -> None:
        """Add a step to the history; runs in the scheduler's thread, also when its request has timed out."""
        if not done.cancelled() and done.exception() is None:
            self.history.add(done.result(), self.manifest)


class SessionManager:
    """All HTTP sessions. Used from one event loop."""

    def __init__(self, service: InferenceService, live: LiveSessionManager) -> None:
        self.service, self.live = service, live
        self.sessions: dict[str, _Session] = {}

    def find(self, token: str) -> _Session:
        """Return a session by its token, or raise an `ApiError` 404."""
        if token not in self.sessions:
            raise ApiError(404, "there is no such session; it was closed or expired")
        return self.sessions[token]

    def history(self, token: str) -> tuple[str, FrameHistory, Manifest]:
        """Return the prompt's name, the newest frames and the manifest of a live or HTTP session, or raise a 404."""
        live = self.live.connections.get(token)
        if live is not None:
            return live.prompt_name or "live play", live.history, live.manifest
        session = self.find(token)
        return "a session", session.history, session.manifest

    def close(self, token: str) -> None:
        """Close a session."""
        self.find(token).handle.close()
        del self.sessions[token]
        self.live.http_sessions -= 1

    def expire(self) -> None:
        """Close sessions that were idle too long."""
        oldest = time.monotonic() - self.service.settings.idle_seconds
        for token, session in list(self.sessions.items()):
            if session.used_at < oldest and not session.lock.locked():
                self.close(token)

    async def open(self, params: PromptParams) -> SessionCreated:
        """Open a session."""
        service = self.service
        self.live.check_capacity()
        prompt, (sampling, seed) = await build_prompt(service, params), params.resolve(service)
        handle = await self.live.open(prompt, sampling, seed)
        self.live.http_sessions += 1
        token = new_token(service.settings.replica)
        self.sessions[token] = _Session(
            handle=handle,
            manifest=service.manifest(prompt, sampling, seed, "full"),
            schema=params.schema_,
            history=FrameHistory(prompt, context=service.context, sent=service.settings.recording_frames),
        )
        return SessionCreated(token=token, model=service.model.config.name, seed=seed)

    async def step(self, token: str, body: StepBody) -> Step:
        """Run one step; concurrent steps of a session run one after the other."""
        session, service = self.find(token), self.service
        action_A = None if body.action is None else read_vector(body.action, session.schema, "the action")
        async with session.lock:
            self.find(token)  # it may have been closed meanwhile
            session.used_at = time.monotonic()
            future = session.handle.submit(action_A)
            future.add_done_callback(session.remember)
            step = await await_future(future)
            reply = await serialize_step(service, step, session.manifest, session.schema)
            frame_HWC = step.frame_HWC
            assert frame_HWC is not None, "a step of a session has a frame"
            picture = await service.run_in_io_pool(lambda: live_picture(frame_HWC, "jpeg", session.manifest.to_json()))
            session.history.add_sent(SentFrame(picture, step.action_A, 0))
            session.used_at = time.monotonic()
        return reply


def register_session_routes(app: FastAPI, service: InferenceService, sessions: SessionManager) -> None:
    """Add the routes."""

    @app.post("/v1/sessions", status_code=201, tags=_TAGS)
    async def open_session(body: PromptParams, request: Request) -> SessionCreated:
        """Open a session that is stepped by requests."""
        return await service.limiter.in_time(sessions.open(body), request)

    @app.post("/v1/sessions/{token}/step", tags=_TAGS)
    async def step_session(token: str, body: StepBody, request: Request) -> Step:
        """Run one step: a given or sampled action, and the frame after it."""
        return await service.limiter.in_time(sessions.step(token, body), request)

    @app.delete("/v1/sessions/{token}", status_code=204, tags=_TAGS)
    async def close_session(token: str) -> Response:
        """Close a session, HTTP or live."""
        live = sessions.live.connections.get(token)
        if live is None:
            sessions.close(token)
        else:
            sessions.live.close(live)
        return Response(status_code=204)

    @app.get("/v1/sessions/{token}/recording.mp4", response_class=Response, responses=_MP4, tags=_TAGS)
    async def video(token: str) -> Response:
        """Return the newest frames of a session as watermarked MP4 in real time."""
        _, history, manifest = sessions.history(token)
        frames = history.sent()
        data = await service.run_in_encode_pool(lambda: as_mp4(frames, manifest, service.settings.fps))
        headers = {"Content-Disposition": 'attachment; filename="playloom.mp4"'}
        return Response(data, media_type="video/mp4", headers=headers)

    @app.get("/v1/sessions/{token}/recording.csv", response_class=Response, responses=_CSV, tags=_TAGS)
    async def table(token: str) -> Response:
        """Return the actions of the newest frames of a session as CSV, one row each, `named` schema."""
        frames = sessions.history(token)[1].sent()
        data = await service.run_in_encode_pool(lambda: as_csv(frames))
        headers = {"Content-Disposition": 'attachment; filename="playloom.csv"'}
        return Response(data, media_type="text/csv", headers=headers)
