"""Live sessions: each is stepped by the scheduler at its ticks, and keeps its newest frames.

The send queue of a connection holds all texts and the newest frame only, so a slow reader loses frames. A session
without a connection is paused and kept for `reconnect_grace_seconds`.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from concurrent.futures import Future
from typing import Any, Generic, TypeVar

from playloom.actions.controller import CONTROLS
from playloom.errors import BadInputError
from playloom.inference.realtime.recorder import FrameHistory, SentFrame
from playloom.inference.realtime.state import LiveState
from playloom.inference.realtime.types import Controller, LiveFrame
from playloom.inference.sampling import Sampling
from playloom.inference.session import Session
from playloom.inference.types import Prompt
from playloom.media.images import Live, live_picture
from playloom.provenance import Manifest
from playloom.server.errors import service_unavailable, to_api_error
from playloom.server.live_protocol import pack_frame
from playloom.server.metrics import Metrics
from playloom.server.scheduler import Handle, LiveHandle, Progress
from playloom.server.service import InferenceService, await_future
from playloom.server.settings import new_token

_T = TypeVar("_T")
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
        while not self._texts and self._frame is None:
            self._changed.clear()
            await self._changed.wait()
        if self._texts:
            return self._texts.popleft()
        frame, self._frame = self._frame, None
        assert frame is not None, "checked above"
        return frame


class LiveConnection:
    """A live session with its connection, or waiting for a reconnect."""

    def __init__(
        self,
        service: InferenceService,
        metrics: Metrics,
        handle: Handle,
        *,
        prompt: Prompt,
        prompt_name: str | None,
        seed: int,
        controller: Controller,
        form: Live,
    ) -> None:
        self.token = new_token(service.settings.replica)
        self.service, self.metrics = service, metrics
        self.prompt, self.prompt_name, self.seed, self.form = prompt, prompt_name, seed, form
        self.state = LiveState(controller=controller, fps=service.settings.fps, aligned=True)
        self.history = FrameHistory(prompt, context=service.context, sent=service.settings.recording_frames)
        self.send_queue: SendQueue[dict[str, Any]] | None = None  # of the connected player
        self.detached_at = time.monotonic()
        self.delivered = False  # until the first message from the player, or the first frame sent to it
        self.failure: str | None = None  # the message of the error that ended the session
        self._paused_by_disconnect = False
        self._restarts = 0  # of the newest frame in the history
        self._loop = asyncio.get_running_loop()
        self._live = LiveHandle(handle=handle, state=self.state, on_frame=self._on_frame, on_error=self._on_error)
        self.manifest = self._manifest(prompt, seed)
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

    async def restart(self, *, prompt: Prompt, prompt_name: str | None, seed: int) -> None:
        """Open a new session and switch to it between two frames; the old one goes on until then."""
        handle = await self.service.open(prompt, self.session.sampling, seed)
        manifest = self._manifest(prompt, seed)

        def switch() -> None:
            old = self._live.handle
            if old.closed:
                handle.close()
                raise BadInputError("this live session is closed; open another one")
            self._live.handle = handle
            self.prompt, self.prompt_name, self.seed = prompt, prompt_name, seed
            self.manifest = manifest
            self.state.restarts += 1
            old.close()

        await await_future(self.service.scheduler.run(switch))

    def close(self) -> None:
        """Free the session's memory."""
        self.failure = self.failure or "this session was closed"
        self._live.handle.close()

    def state_changed(self) -> None:
        """Apply a change of the state: new manifest, another look at the clock, a message to the player."""
        self.manifest = self._manifest(self.prompt, self.seed)
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
            "prompt": self.prompt_name,
            "seed": self.seed,
            "controller": self.state.controller,
            "temperature": self.session.sampling.temperature,
            "paused": self.state.paused,
        }

    def _manifest(self, prompt: Prompt, seed: int) -> Manifest:
        mode = "world" if self.state.controller == "person" else "full"
        return self.service.manifest(prompt, self.session.sampling, seed, mode)

    def _on_frame(self, frame: LiveFrame) -> Future[None]:
        prompt, manifest = self.prompt, self.manifest  # those of this frame
        return self.service.submit_live(lambda: self._encode(frame, prompt, manifest))

    def _on_error(self, error: Exception) -> None:
        self.failure = to_api_error(error).message

    def _encode(self, frame: LiveFrame, prompt: Prompt, manifest: Manifest) -> None:
        picture = live_picture(frame.frame_HWC, self.form, manifest.to_json())
        if frame.restarts != self._restarts:
            self._restarts = frame.restarts
            self.history.restart(prompt)
        self.history.add(frame, manifest)
        self.history.add_sent(SentFrame(picture, frame.action_A, frame.skipped))
        self.metrics.live_frames.inc()
        if frame.late:
            self.metrics.late.inc()
        if frame.key_to_frame is not None:
            self.metrics.input_latency.observe(frame.key_to_frame)
        packed = pack_frame(frame, picture, self.form)
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._deliver, packed)

    def _deliver(self, packed: bytes) -> None:
        if self.send_queue is not None and self.send_queue.put_frame(packed):
            self.metrics.unseen.inc()


class LiveSessionManager:
    """All live sessions of a server. Used from one event loop."""

    def __init__(self, service: InferenceService, metrics: Metrics) -> None:
        self.service, self.metrics = service, metrics
        self.connections: dict[str, LiveConnection] = {}
        self.http_sessions = 0  # they count against the same limit
        self._opening = 0

    @property
    def playing(self) -> int:
        """Number of live sessions with a connected player."""
        return sum(connection.send_queue is not None for connection in self.connections.values())

    @property
    def open_sessions(self) -> int:
        """Number of sessions open or being opened."""
        return len(self.connections) + self._opening + self.http_sessions

    async def open(
        self, prompt: Prompt, sampling: Sampling, seed: int, progress: Progress = lambda seen, steps: None
    ) -> Handle:
        """Open a session, or raise a 503; a cancelled call leaves nothing behind."""
        self.check_capacity()
        self._opening += 1
        try:
            return await self.service.open(prompt, sampling, seed, progress)
        finally:
            self._opening -= 1

    def check_capacity(self) -> None:
        """Raise an `ApiError` 503 if no more session is allowed."""
        self.service.limiter.check_open()
        limit = self.service.settings.max_sessions
        if self.open_sessions >= limit:
            raise service_unavailable(f"all {limit} sessions are taken; try again in a while", 10)

    def close(self, connection: LiveConnection) -> None:
        """Close a session."""
        if self.connections.pop(connection.token, None) is not None:
            connection.close()

    def expire(self) -> None:
        """Close sessions that failed or whose player stayed away too long."""
        oldest = time.monotonic() - self.service.settings.reconnect_grace_seconds
        for connection in list(self.connections.values()):
            if connection.send_queue is None and (connection.detached_at < oldest or connection.failure is not None):
                self.close(connection)
