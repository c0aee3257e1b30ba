"""`WS /v1/play`: the connection of one player to its live session.

A malformed message closes the connection (1008). A request that cannot be met gets an `error` message and changes
nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Annotated, Any, Literal

import anyio
import numpy as np
from fastapi import FastAPI, WebSocket
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter
from starlette.exceptions import HTTPException
from starlette.websockets import WebSocketDisconnect

from playloom.actions.codec import ACTION_SLOTS, rows_to_values
from playloom.errors import ActionError, PlayloomError
from playloom.inference.realtime.state import Controller
from playloom.media.images import Live
from playloom.server.errors import parse_json, to_http_error
from playloom.server.middleware import bearer_key, verify_api_key
from playloom.server.schemas import PromptParams, RequestModel, SeedValue, TemperatureValue, build_prompt
from playloom.server.service import resolve_seed
from playloom.server.sessions import LiveConnection, SendQueue, SessionManager, Start

_MAX_CONTROLS = 64
_MAX_REASON = 120  # bytes; a close frame holds 123
_TRY_LATER, _BROKEN, _POLICY = 1013, 1011, 1008
Name = Annotated[str, Field(max_length=255)]


def register_live_routes(app: FastAPI, sessions: SessionManager) -> None:
    """Add the route."""

    @app.websocket("/v1/play")
    async def play(socket: WebSocket) -> None:
        await socket.accept()
        player = _Player(socket, sessions)
        try:
            await player.play()
        except WebSocketDisconnect:
            pass
        except Exception as error:
            await player.reject(to_http_error(error))
        finally:
            player.disconnect()


class _StartFields(RequestModel):
    prompt: Name | None = Field(default=None, description="Name of a bundled prompt; none: the first one.")
    image: str | None = Field(default=None, description="Start image instead of a prompt: PNG or JPEG, base64.")
    seed: SeedValue | None = None
    """Random seed; the same seed and actions give the same frames. None: a random one."""


class Hello(_StartFields):
    """First message of a connection."""

    type: Literal["hello"]
    key: str | None = Field(default=None, max_length=4096)
    """API key; needed unless the upgrade request carried it."""
    resume: Name | None = None
    """Token of a session to resume; an unknown token opens a new session."""
    controller: Controller = "person"
    temperature: TemperatureValue | None = None
    """Divides the logits; none: the model's default."""
    format: Live = "jpeg"


class Command(RequestModel):
    """Pause the session, resume its clock, or generate one frame, which pauses first."""

    type: Literal["pause", "resume", "step"]


class Reset(_StartFields):
    """Restart, at the same prompt and seed or at others."""

    type: Literal["reset"]


class SetController(RequestModel):
    """Set the source of the actions."""

    type: Literal["controller"]
    value: Controller


class SetTemperature(RequestModel):
    """Set the temperature."""

    type: Literal["temperature"]
    value: TemperatureValue


Control = Command | Reset | SetController | SetTemperature
_CONTROL: TypeAdapter[Control] = TypeAdapter(Annotated[Control, Field(discriminator="type")])


def _read_action(data: bytes) -> NDArray[np.uint8]:
    if len(data) != 4 * ACTION_SLOTS:
        raise ActionError(f"an action is {4 * ACTION_SLOTS} bytes, 16 float32; got {len(data)}")
    return rows_to_values(np.frombuffer(data, "<f4"), "named")


class _Player:
    """One WebSocket connection."""

    def __init__(self, socket: WebSocket, sessions: SessionManager) -> None:
        self.socket, self.sessions, self.service = socket, sessions, sessions.service
        self.connection: LiveConnection | None = None
        self.prefilled: tuple[int | None, int | None] = (None, None)  # prompt steps prefilled, and their total
        self.early_A: NDArray[np.uint8] | None = None  # newest action received before the session is open
        self.send_queue: SendQueue[dict[str, Any]] = SendQueue()
        self.controls: asyncio.Queue[Control] = asyncio.Queue(_MAX_CONTROLS)

    async def play(self) -> None:
        hello = await self._hello()
        listening = asyncio.ensure_future(self._listen())  # while the session opens too: the player may leave
        try:
            await _until_one_ends(listening, self._open_session(hello), self._report_progress())
            connection = self.connection
            assert connection is not None, "_open_session sets it"
            self.send_queue = connection.attach()
            self.send_queue.put_text(connection.ready_message())
            if self.early_A is not None:
                connection.state.set_input(self.early_A)
            await _until_one_ends(
                listening, self._handle_controls(connection), self._heartbeat(connection), self._send(connection)
            )
        except (HTTPException, PlayloomError):
            if self._attached is not None:
                self.sessions.close(self._attached.token)
            raise
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    def disconnect(self) -> None:
        if (connection := self.connection) is not None:
            connection.detach(self.send_queue)
            if not connection.delivered and connection.send_queue is None:
                self.sessions.close(connection.token)

    async def reject(self, error: HTTPException) -> None:
        code = _TRY_LATER if error.status_code == 503 else _BROKEN if error.status_code >= 500 else _POLICY
        reason = error.detail.encode("ascii", "replace")[:_MAX_REASON].decode()
        with suppress(Exception), anyio.move_on_after(2):  # the socket may be closed already
            await self.socket.send_json({"type": "error", "message": error.detail})
            await self.socket.close(code, reason)

    @property
    def _attached(self) -> LiveConnection | None:
        """The session; None before it is open, and when another connection has taken it over."""
        connection = self.connection
        return connection if connection is not None and connection.send_queue is self.send_queue else None

    async def _hello(self) -> Hello:
        seconds = self.service.settings.handshake_timeout
        try:
            message = await asyncio.wait_for(self._receive(), seconds)
        except asyncio.TimeoutError:
            raise HTTPException(408, f"no hello came within {seconds:g} seconds") from None
        if not isinstance(message, str):
            raise HTTPException(400, 'the first message must be JSON text: {"type": "hello", ...}')
        hello = parse_json(message, Hello.model_validate_json)
        if not verify_api_key(hello.key or bearer_key(self.socket.headers), self.service.settings.key):
            raise HTTPException(401, "the key is missing or wrong; send it as key in hello")
        return hello

    async def _open_session(self, hello: Hello) -> None:
        """Resume the session named in `hello`, else open a new one."""
        kept = self.sessions.connections.get(hello.resume or "")
        if kept is not None and kept.failure is None:
            kept.form = hello.format
            self.connection = kept
            return
        with self.sessions.opening():
            start, sampling = await self._start(hello), self.service.sampling()
            if hello.temperature is not None:
                sampling = replace(sampling, temperature=hello.temperature)
            handle = await self.service.open(start.prompt, sampling, start.seed, self._progress)
        connection = LiveConnection(self.sessions, handle, start, controller=hello.controller, form=hello.format)
        self.connection = self.sessions.connections[connection.token] = connection

    def _progress(self, seen: int, steps: int) -> None:
        self.prefilled = seen, steps

    async def _report_progress(self) -> None:
        while True:
            seen, steps = self.prefilled
            await self.socket.send_json({"type": "opening", "seen": seen, "steps": steps})
            await asyncio.sleep(0.5)

    async def _start(self, asked: Hello | Reset) -> Start:
        params = PromptParams(prompt=asked.prompt, images=None if asked.image is None else [asked.image])
        prompt = await build_prompt(self.service, params)
        name = self.service.resolve_prompt(asked.prompt) if asked.image is None else None
        return Start(prompt, name, resolve_seed(asked.seed))

    async def _listen(self) -> None:
        """Apply actions at once; queue control messages for `_handle_controls`."""
        while True:
            message = await self._receive()
            connection = self._attached
            if connection is not None:
                connection.delivered = True
            if isinstance(message, str):
                try:
                    self.controls.put_nowait(parse_json(message, _CONTROL.validate_json))
                except asyncio.QueueFull:
                    raise HTTPException(
                        429, f"more than {_MAX_CONTROLS} requests are waiting; send them slower"
                    ) from None
            elif connection is None:
                self.early_A = _read_action(message)
            else:
                connection.state.set_input(_read_action(message))

    async def _handle_controls(self, connection: LiveConnection) -> None:
        while True:
            control = await self.controls.get()
            if self._attached is None:
                continue  # `_heartbeat` ends this connection
            try:
                await self._apply(connection, control)
            except (PlayloomError, HTTPException) as error:
                self.send_queue.put_text({"type": "error", "message": to_http_error(error).detail})
            else:
                connection.state_changed()

    async def _apply(self, connection: LiveConnection, control: Control) -> None:
        state = connection.state
        if control.type == "reset":
            start, seed = connection.start, connection.start.seed if control.seed is None else control.seed
            if control.prompt is not None or control.image is not None:
                start = await self._start(control)
            await connection.restart(start._replace(seed=seed))
        elif control.type == "controller":
            state.controller = control.value
        elif control.type == "temperature":
            connection.session.sampling = replace(connection.session.sampling, temperature=control.value)
        elif control.type == "resume":
            state.resume()
        else:
            state.pause()
            if control.type == "step":
                state.single_step()

    async def _heartbeat(self, connection: LiveConnection) -> None:
        while True:
            await asyncio.sleep(1)
            if connection.token not in self.sessions.connections:
                raise HTTPException(410, "this session was closed")
            if self._attached is None:
                raise HTTPException(410, "this session was taken over by another connection")
            if connection.failure is not None:
                raise HTTPException(500, connection.failure)
            if self.service.limiter.draining:
                raise HTTPException(503, "the server is stopping; reconnect in a while")
            self.send_queue.put_text(connection.state_message())

    async def _send(self, connection: LiveConnection) -> None:
        while True:
            message = await self.send_queue.get()
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
                connection.delivered = True
            else:
                await self.socket.send_json(message)

    async def _receive(self) -> str | bytes:
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("bytes")
        return bytes(data) if data is not None else str(message.get("text") or "")


async def _until_one_ends(listening: asyncio.Future[None], *works: Coroutine[Any, Any, None]) -> None:
    """Wait for the first of these, or for `listening`; cancel the others and raise its exception."""
    tasks = [asyncio.ensure_future(work) for work in works]
    try:
        done, _ = await asyncio.wait([*tasks, listening], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
