"""`WS /v1/play`: live sessions and their WebSocket connections.

A malformed message closes the connection (1008). A request that cannot be met gets an `error` message and changes
nothing. The send queue of a connection holds all texts and the newest frame only, so a slow reader loses frames. A
session without a connection is paused and kept for `reconnect_grace_seconds`.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections import deque
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any, Generic, TypeVar

import numpy as np
from fastapi import FastAPI, WebSocket
from numpy.typing import NDArray
from starlette.websockets import WebSocketDisconnect, WebSocketState

from playloom.actions.controller import CONTROLS
from playloom.errors import BadInputError, PlayloomError
from playloom.inference.realtime.recorder import ContextBuffer, FrameHistory, RecordedFrame
from playloom.inference.realtime.session import LiveSession
from playloom.inference.realtime.types import Controller, LiveFrame, check_controller
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.media.images import Live, from_base64, live_picture
from playloom.provenance import Manifest
from playloom.server.errors import ApiError, parse_json, service_unavailable, to_api_error
from playloom.server.live_protocol import (
    CONTROL,
    HELLO,
    Control,
    Hello,
    OpeningProgress,
    Pause,
    Reset,
    Resume,
    SetController,
    SetTemperature,
    StepOnce,
    pack_frame,
    read_action,
)
from playloom.server.metrics import Metrics
from playloom.server.middleware import verify_api_key
from playloom.server.scheduler import Progress
from playloom.server.service import ContextStep, InferenceService, resolve_prompt, resolve_seed
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

    async def take(self) -> _T | bytes:
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
        self, service: InferenceService, metrics: Metrics, session: LiveSession, *, prompt_name: str | None, form: Live
    ) -> None:
        self.token = new_token(service.settings.replica)
        self.service, self.metrics, self.session = service, metrics, session
        self.prompt_name, self.form = prompt_name, form
        self.history = FrameHistory(service.settings.recording_frames)
        self.recent = ContextBuffer(session.prompt, service.context)
        self._dream = 0  # how often the session had started over when the newest frame was made
        self.send_queue: SendQueue[dict[str, Any]] | None = None
        """Send queue of the connected player, or None."""
        self.detached_at = time.monotonic()
        """Monotonic time of the last disconnect."""
        self.delivered = False
        """True after the first message from the player, or the first frame sent to it."""
        self.failure: str | None = None
        """Message of the error that ended the session."""
        self.manifest = self._manifest()
        self._text = self.manifest.to_json()
        self._paused_by_disconnect = False
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="playloom-live", daemon=True).start()

    def attach(self) -> SendQueue[dict[str, Any]]:
        """Attach a player and return its send queue; an earlier connection gets no more frames."""
        if self.send_queue is not None:
            self.send_queue.put_text({"type": "error", "message": "this session was taken over by another connection"})
        self.send_queue = SendQueue()
        if self._paused_by_disconnect:
            self.session.resume()
        self._paused_by_disconnect = False
        return self.send_queue

    def detach(self, send_queue: SendQueue[dict[str, Any]]) -> None:
        """Detach a player and pause the session; no effect when another connection has replaced it."""
        if self.send_queue is send_queue:
            self.send_queue, self.detached_at = None, time.monotonic()
            self._paused_by_disconnect = not self.session.paused
            self.session.pause()

    def state_changed(self) -> None:
        """Rebuild the manifest and send the state."""
        self.manifest = self._manifest()
        self._text = self.manifest.to_json()
        self.send_state()

    def send_state(self) -> None:
        """Send the state to the player."""
        if self.send_queue is not None:
            self.send_queue.put_text(self.state())

    def ready(self) -> dict[str, Any]:
        """Build the `ready` message."""
        height, width = self.service.size
        return {
            **self._changeable(),
            "type": "ready",
            "token": self.token,
            "model": self.service.model.config.name,
            "width": width,
            "height": height,
            "fps": self.session.fps,
            "controls": [control.name for control in CONTROLS],
        }

    def state(self) -> dict[str, Any]:
        """Build the `state` message."""
        report = self.session.report()
        return {**self._changeable(), "type": "state", "late": report.late, "skipped": report.skipped}

    def _changeable(self) -> dict[str, Any]:
        session = self.session
        return {
            "prompt": self.prompt_name,
            "seed": session.seed,
            "controller": session.controller,
            "temperature": session.sampling.temperature,
            "paused": session.paused,
        }

    def _manifest(self) -> Manifest:
        session = self.session
        mode = "world" if session.controller == "person" else "full"
        return self.service.manifest(session.prompt, session.sampling, session.seed, mode)

    def _run(self) -> None:
        try:
            self.session.run(self._on_frame)
        except Exception as error:
            if not self.session.closed:
                self.failure = to_api_error(error).message

    def _on_frame(self, frame: LiveFrame) -> None:
        picture = live_picture(frame.frame_HWC, self.form, self._text)
        self.history.add(RecordedFrame(picture, frame.action_A, frame.skipped))
        self._buffer_frame(frame)
        self.metrics.live_frames.inc()
        if frame.late:
            self.metrics.late.inc()
        if frame.key_to_frame is not None:
            self.metrics.input_latency.observe(frame.key_to_frame)
        packed = pack_frame(frame, picture, self.form)
        self._call_in_loop(lambda: self._deliver(packed))

    def _buffer_frame(self, frame: LiveFrame) -> None:
        if frame.dream != self._dream:
            self._dream = frame.dream
            self.recent.restart(self.session.prompt)
        assert frame.codes_N is not None, "a dreamed frame has its codes"
        self.recent.add(frame.frame_HWC, frame.codes_N, frame.action_A, frame.action_given, self.manifest)

    def _deliver(self, packed: bytes) -> None:
        if self.send_queue is not None and self.send_queue.put_frame(packed):
            self.metrics.unseen.inc()

    def _call_in_loop(self, work: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)


class LiveSessionManager:
    """All live sessions of a server. Used from one event loop."""

    def __init__(self, service: InferenceService, metrics: Metrics) -> None:
        self.service, self.metrics = service, metrics
        self.connections: dict[str, LiveConnection] = {}
        self.http_sessions = 0
        """Sessions of `/v1/sessions`, which count against the same limit."""
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
        self,
        prompt: Prompt,
        *,
        sampling: Sampling,
        seed: int,
        controller: Controller,
        prompt_name: str | None,
        form: Live,
        progress: Progress,
    ) -> LiveConnection:
        """Open a session; a cancelled call leaves nothing behind.

        Raises:
            ApiError: 503 when all are taken, or the server is stopping.
        """
        self.check_capacity()
        self._opening += 1
        try:
            dream = await self.service.open(prompt, sampling, seed, progress)
        finally:
            self._opening -= 1
        session = LiveSession(
            self.service.scheduler,
            prompt,
            dream=dream,
            seed=seed,
            controller=controller,
            fps=self.service.settings.fps,
            aligned=True,
        )
        connection = LiveConnection(self.service, self.metrics, session, prompt_name=prompt_name, form=form)
        self.connections[connection.token] = connection
        return connection

    def check_capacity(self) -> None:
        """Check that one more session is allowed.

        Raises:
            ApiError: 503.
        """
        self.service.limiter.check_open()
        limit = self.service.settings.max_sessions
        if self.open_sessions >= limit:
            raise service_unavailable(f"all {limit} sessions are taken; try again in a while", 10)

    async def close(self, connection: LiveConnection) -> None:
        """Close a session."""
        if self.connections.pop(connection.token, None) is not None:
            await self.service.run_blocking(connection.session.close)

    async def expire(self) -> None:
        """Close sessions that failed or whose player stayed away too long."""
        oldest = time.monotonic() - self.service.settings.reconnect_grace_seconds
        for connection in list(self.connections.values()):
            if connection.send_queue is None and (connection.detached_at < oldest or connection.failure is not None):
                await self.close(connection)


_MAX_CONTROLS = 64
_MAX_REASON = 120  # bytes; a close frame holds 123
_ANNOUNCE = 0.5  # seconds between words of progress
_TRY_LATER, _BROKEN, _POLICY = 1013, 1011, 1008


def register_live_routes(app: FastAPI, manager: LiveSessionManager) -> None:
    """Add the route."""

    @app.websocket("/v1/play")
    async def play(socket: WebSocket) -> None:
        await socket.accept()
        player = _Player(socket, manager)
        try:
            await player.play()
        except WebSocketDisconnect:
            pass
        except Exception as error:
            await player.reject(to_api_error(error))
        finally:
            await player.disconnect()


class _Player:
    """One WebSocket connection."""

    def __init__(self, socket: WebSocket, manager: LiveSessionManager) -> None:
        self.socket, self.live, self.service = socket, manager, manager.service
        self.connection: LiveConnection | None = None
        self.opening = OpeningProgress()
        self.early_A: NDArray[np.uint8] | None = None
        """Newest action received before the session is open."""
        self.send_queue: SendQueue[dict[str, Any]] = SendQueue()
        self.controls: asyncio.Queue[Control] = asyncio.Queue(_MAX_CONTROLS)

    async def play(self) -> None:
        """Run the connection from `hello` to its end."""
        hello = await self._hello()
        listening = asyncio.ensure_future(self._listen())  # while the session opens too: the player may leave
        try:
            await _until_one_ends(listening, self._open_session(hello), self._report_progress())
            assert self.connection is not None, "_open_session sets it"
            connection = self._attach(self.connection)
            await _until_one_ends(
                listening, self._handle_controls(connection), self._heartbeat(connection), self._send(connection)
            )
        except (ApiError, PlayloomError):
            if (
                self.connection is not None and self.connection.send_queue is self.send_queue
            ):  # else another connection took it over
                await self.live.close(self.connection)
            raise
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def disconnect(self) -> None:
        """Detach from the session."""
        connection = self.connection
        if connection is not None:
            connection.detach(self.send_queue)
            if not connection.delivered and connection.send_queue is None:
                await self.live.close(connection)

    async def reject(self, error: ApiError) -> None:
        """Send an error and close the socket."""
        code = _TRY_LATER if error.status == 503 else _BROKEN if error.status >= 500 else _POLICY
        with suppress(Exception):  # it may be gone already
            if self.socket.application_state is WebSocketState.CONNECTED:
                await asyncio.wait_for(self._send_json({"type": "error", "message": error.message}), 2)
                reason = error.message.encode("ascii", "replace")[:_MAX_REASON].decode()
                await asyncio.wait_for(self.socket.close(code, reason), 2)

    async def _hello(self) -> Hello:
        seconds = self.service.settings.handshake_timeout
        try:
            message = await asyncio.wait_for(self._receive(), seconds)
        except asyncio.TimeoutError:
            raise ApiError(408, f"no hello came within {seconds:g} seconds") from None
        if not isinstance(message, str):
            raise ApiError(400, 'the first message is JSON text: {"type": "hello", ...}')
        hello: Hello = parse_json(message, HELLO)
        key = self.service.settings.key
        header = self.socket.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not verify_api_key(hello.key or header, key):
            raise ApiError(401, "the key is missing or wrong; send it as key in hello")
        return hello

    async def _open_session(self, hello: Hello) -> None:
        """Resume the session named in `hello`, else open a new one."""
        kept = self.live.connections.get(hello.resume or "")
        if kept is not None and kept.failure is None:
            kept.form = hello.format
            self.connection = kept
            return
        self.live.check_capacity()
        prompt, prompt_name = await self._prompt(hello.prompt, hello.image)
        sampling = self.service.sampling()
        self.connection = await self.live.open(
            prompt,
            sampling=sampling if hello.temperature is None else replace(sampling, temperature=hello.temperature),
            seed=resolve_seed(hello.seed),
            controller=check_controller(hello.controller),
            prompt_name=prompt_name,
            form=hello.format,
            progress=self.opening.saw,
        )

    async def _report_progress(self) -> None:
        while True:
            await self._send_json(self.opening.message())
            await asyncio.sleep(_ANNOUNCE)

    def _attach(self, connection: LiveConnection) -> LiveConnection:
        self.send_queue = connection.attach()
        self.send_queue.put_text(connection.ready())
        if self.early_A is not None:
            connection.session.press(self.early_A)
        return connection

    async def _prompt(self, name: str | None, image: str | None) -> tuple[Prompt, str | None]:
        if image is None:
            name = resolve_prompt(name)
            return (await self.service.run_in_io_pool(lambda: self.service.bundled_prompt(name)))[0], name
        if name is not None:
            raise BadInputError("prompt and image were both sent; send one of them")
        picture = await self.service.run_in_io_pool(lambda: from_base64(image, "the image"))
        return await self.service.prompt([ContextStep(picture=picture, where="the image")], []), None

    async def _listen(self) -> None:
        """Apply actions at once; queue control messages for `_handle_controls`."""
        while True:
            message = await self._receive()
            if self.connection is not None and self.connection.send_queue is self.send_queue:
                self.connection.delivered = True
            if isinstance(message, bytes):
                self._press(read_action(message))
                continue
            control = parse_json(message, CONTROL)
            try:
                self.controls.put_nowait(control)
            except asyncio.QueueFull:
                raise ApiError(429, f"more than {_MAX_CONTROLS} requests wait to be done; send them slower") from None

    def _press(self, action_A: NDArray[np.uint8]) -> None:
        if self.connection is None:
            self.early_A = action_A
        else:
            self.connection.session.press(action_A)

    async def _handle_controls(self, connection: LiveConnection) -> None:
        while True:
            control = await self.controls.get()
            try:
                await self._do(connection, control)
            except (PlayloomError, ApiError) as error:
                if connection.session.closed:
                    raise
                self.send_queue.put_text({"type": "error", "message": to_api_error(error).message})
            else:
                connection.state_changed()

    async def _do(self, connection: LiveConnection, control: Control) -> None:
        session = connection.session
        if isinstance(control, Pause):
            session.pause()
        elif isinstance(control, Resume):
            session.resume()
        elif isinstance(control, StepOnce):
            session.pause()
            session.single_step()
        elif isinstance(control, SetController):
            session.controller = control.value
        elif isinstance(control, SetTemperature):
            sampling = replace(session.sampling, temperature=control.value)
            await self.service.run_blocking(lambda: setattr(session, "sampling", sampling))
        else:
            await self._reset(connection, control)

    async def _reset(self, connection: LiveConnection, params: Reset) -> None:
        prompt, prompt_name = None, connection.prompt_name
        if params.prompt is not None or params.image is not None:
            prompt, prompt_name = await self._prompt(params.prompt, params.image)
        await self.service.run_blocking(lambda: connection.session.restart(prompt=prompt, seed=params.seed))
        connection.prompt_name = prompt_name

    async def _heartbeat(self, connection: LiveConnection) -> None:
        while True:
            await asyncio.sleep(1)
            if connection.send_queue is not self.send_queue:
                raise ApiError(410, "this session was taken over by another connection")
            if connection.failure is not None:
                raise ApiError(500, connection.failure)
            if self.service.limiter.draining:
                raise ApiError(503, "the server is stopping; come back in a while")
            self.send_queue.put_text(connection.state())

    async def _send(self, connection: LiveConnection) -> None:
        while True:
            message = await self.send_queue.take()
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
                connection.delivered = True
            else:
                await self._send_json(message)

    async def _send_json(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(json.dumps(message))

    async def _receive(self) -> str | bytes:
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("bytes")
        return bytes(data) if data is not None else str(message.get("text") or "")


async def _until_one_ends(listening: asyncio.Future[None], *works: Coroutine[Any, Any, None]) -> None:
    """Wait for the first of these, or for `listening`; cancel the others.

    Raises:
        Exception: what the first one raised.
    """
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait([*tasks, listening], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
