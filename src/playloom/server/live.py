"""`WS /v1/play`: one player's connection. What they press and ask for goes in, frames and state come out.

A message that breaks the format ends the session (1008); a request that cannot be met is answered with an error and
changes nothing.

What waits to be sent to one reader: every text, and only the newest frame. A slow reader loses frames.

Live sessions and the players in front of them. A player may leave and come back; the session waits a while, paused.

Every session has a thread that makes its frames by the clock. It leaves the newest for the player, who takes it when
the network lets them: a slow one loses frames and delays nobody. Knows no socket.
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
from playloom.inference.realtime.recorder import ContextBuffer as Recent
from playloom.inference.realtime.recorder import FrameHistory, RecordedFrame
from playloom.inference.realtime.session import LiveSession
from playloom.inference.realtime.types import Controller, LiveFrame, check_controller
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.media.images import Live, from_base64, live_picture
from playloom.provenance import Manifest
from playloom.server.errors import ApiError, busy, to_api_error
from playloom.server.live_protocol import (
    CONTROL,
    CONTROL_KINDS,
    HELLO,
    Control,
    Hello,
    OpeningProgress,
    Pause,
    Reset,
    Resume,
    SetTemperature,
    SetWho,
    StepOnce,
    pack_frame,
    read_action,
)
from playloom.server.metrics import Metrics
from playloom.server.middleware import verify_api_key
from playloom.server.scheduler import Progress
from playloom.server.service import ContextStep, InferenceService, parse_any, resolve_prompt, resolve_seed
from playloom.server.settings import new_token

_T = TypeVar("_T")
_MOST_TEXTS = 64


class SendQueue(Generic[_T]):
    """Filled by who makes, emptied by who sends. Used from the event loop."""

    def __init__(self) -> None:
        self._texts: deque[_T] = deque(maxlen=_MOST_TEXTS)
        self._frame: bytes | None = None
        self._changed = asyncio.Event()

    def put_text(self, text: _T) -> None:
        """Send this after what waits."""
        self._texts.append(text)
        self._changed.set()

    def put_frame(self, frame: bytes) -> bool:
        """Send this when there is room; whether it took the place of one never sent."""
        lost, self._frame = self._frame is not None, frame
        self._changed.set()
        return lost

    async def take(self) -> _T | bytes:
        """The next thing to send, texts first."""
        while not self._texts and self._frame is None:
            self._changed.clear()
            await self._changed.wait()
        if self._texts:
            return self._texts.popleft()
        frame, self._frame = self._frame, None
        assert frame is not None, "checked above"
        return frame


class LiveConnection:
    """One live session, taken or waiting for its player to come back."""

    def __init__(
        self, studio: InferenceService, metrics: Metrics, session: LiveSession, *, moment: str | None, form: Live
    ) -> None:
        self.token = new_token(studio.settings.replica)
        self.studio, self.metrics, self.session = studio, metrics, session
        self.moment, self.form = moment, form
        self.reel = FrameHistory(studio.settings.recording_frames)
        self.recent = Recent(session.prompt, studio.context)
        self._dream = 0  # how often the session had started over when the newest frame was made
        self.outbox: SendQueue[dict[str, Any]] | None = None
        """Of the player who sits here; None: nobody does."""
        self.left_at = time.monotonic()
        """Since when nobody sits here."""
        self.delivered = False
        """Whether a player was heard, or sent a frame, after `ready`: else nobody knows the token."""
        self.failure: str | None = None
        """Why the session ended, when it failed."""
        self.manifest = self._manifest()
        self._text = self.manifest.to_json()
        self._paused_by_leaving = False
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._run, name="playloom-live", daemon=True).start()

    def sit(self) -> SendQueue[dict[str, Any]]:
        """A player comes (back); whoever sat here before gets no more frames."""
        if self.outbox is not None:
            self.outbox.put_text({"type": "error", "message": "this session was taken over by another connection"})
        self.outbox = SendQueue()
        if self._paused_by_leaving:
            self.session.resume()
        self._paused_by_leaving = False
        return self.outbox

    def leave(self, outbox: SendQueue[dict[str, Any]]) -> None:
        """The player's connection is gone: wait, paused. Nothing happens when another one sits here already."""
        if self.outbox is outbox:
            self.outbox, self.left_at = None, time.monotonic()
            self._paused_by_leaving = not self.session.paused
            self.session.pause()

    def changed(self) -> None:
        """Say so to the player, and in the manifest of what follows."""
        self.manifest = self._manifest()
        self._text = self.manifest.to_json()
        self.say_state()

    def say_state(self) -> None:
        """Tell the player how things stand."""
        if self.outbox is not None:
            self.outbox.put_text(self.state())

    def ready(self) -> dict[str, Any]:
        """The first thing a player is told."""
        height, width = self.studio.size
        return {
            **self._changeable(),
            "type": "ready",
            "token": self.token,
            "model": self.studio.model.config.name,
            "width": width,
            "height": height,
            "fps": self.session.fps,
            "controls": [control.name for control in CONTROLS],
        }

    def state(self) -> dict[str, Any]:
        """What changed, or may have."""
        report = self.session.report()
        return {**self._changeable(), "type": "state", "late": report.late, "skipped": report.skipped}

    def _changeable(self) -> dict[str, Any]:
        session = self.session
        return {
            "moment": self.moment,
            "seed": session.seed,
            "controller": session.controller,
            "temperature": session.sampling.temperature,
            "paused": session.paused,
        }

    def _manifest(self) -> Manifest:
        session = self.session
        mode = "world" if session.controller == "person" else "full"
        return self.studio.manifest(session.prompt, session.sampling, session.seed, mode)

    def _run(self) -> None:
        """The session's own thread."""
        try:
            self.session.run(self._show)
        except Exception as error:
            if not self.session.closed:
                self.failure = to_api_error(error).sentence

    def _show(self, frame: LiveFrame) -> None:
        picture = live_picture(frame.frame_HWC, self.form, self._text)
        self.reel.add(RecordedFrame(picture, frame.action_A, frame.skipped))
        self._remember(frame)
        self.metrics.live_frames.inc()
        if frame.late:
            self.metrics.late.inc()
        if frame.key_to_frame is not None:
            self.metrics.key_to_frame.observe(frame.key_to_frame)
        packed = pack_frame(frame, picture, self.form)
        self._tell(lambda: self._deliver(packed))

    def _remember(self, frame: LiveFrame) -> None:
        if frame.dream != self._dream:
            self._dream = frame.dream
            self.recent.restart(self.session.prompt)
        assert frame.codes_N is not None, "a dreamed frame has its codes"
        self.recent.add(frame.frame_HWC, frame.codes_N, frame.action_A, frame.action_given, self.manifest)

    def _deliver(self, packed: bytes) -> None:
        if self.outbox is not None and self.outbox.put_frame(packed):
            self.metrics.unseen.inc()

    def _tell(self, work: Any) -> None:
        """In the event loop, while there is one."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(work)


class LiveSessionManager:
    """All seats of a server. Used from one event loop."""

    def __init__(self, studio: InferenceService, metrics: Metrics) -> None:
        self.studio, self.metrics = studio, metrics
        self.seats: dict[str, LiveConnection] = {}
        self.others = 0
        """Sessions of other kinds that count against the same limit."""
        self._opening = 0

    @property
    def playing(self) -> int:
        """Seats with a player in front of them."""
        return sum(seat.outbox is not None for seat in self.seats.values())

    @property
    def pending_action(self) -> int:
        """Sessions open or being opened."""
        return len(self.seats) + self._opening + self.others

    async def open(
        self,
        prompt: Prompt,
        *,
        sampling: Sampling,
        seed: int,
        controller: Controller,
        moment: str | None,
        form: Live,
        progress: Progress,
    ) -> LiveConnection:
        """A new session, its first player about to sit down. Cancelled, it leaves nothing behind.

        Raises:
            Refusal: 503 when all are taken, or the server is stopping.
        """
        self.check_room()
        self._opening += 1
        try:
            dream = await self.studio.open(prompt, sampling, seed, progress)
        finally:
            self._opening -= 1
        session = LiveSession(
            self.studio.broker,
            prompt,
            dream=dream,
            seed=seed,
            controller=controller,
            fps=self.studio.settings.fps,
            aligned=True,
        )
        seat = LiveConnection(self.studio, self.metrics, session, moment=moment, form=form)
        self.seats[seat.token] = seat
        return seat

    def check_room(self) -> None:
        """See that there is room for one more session.

        Raises:
            Refusal: 503.
        """
        self.studio.gate.check_open()
        limit = self.studio.settings.sessions
        if self.pending_action >= limit:
            raise busy(f"all {limit} sessions are taken; try again in a while", 10)

    async def close(self, seat: LiveConnection) -> None:
        """End a session for good."""
        if self.seats.pop(seat.token, None) is not None:
            await self.studio.wait_for(seat.session.close)

    async def expire(self) -> None:
        """Close what was deserted too long ago, or failed."""
        oldest = time.monotonic() - self.studio.settings.keep_seconds
        for seat in list(self.seats.values()):
            if seat.outbox is None and (seat.left_at < oldest or seat.failure is not None):
                await self.close(seat)


_MOST_CONTROLS = 64
_LONGEST_REASON = 120  # bytes; a close frame holds 123
_ANNOUNCE = 0.5  # seconds between words of progress
_TRY_LATER, _BROKEN, _POLICY = 1013, 1011, 1008


def register_live_routes(app: FastAPI, room: LiveSessionManager) -> None:
    """Add the route."""

    @app.websocket("/v1/play")
    async def play(socket: WebSocket) -> None:
        await socket.accept()
        player = _Player(socket, room)
        try:
            await player.play()
        except WebSocketDisconnect:
            pass
        except Exception as error:
            await player.refuse(to_api_error(error))
        finally:
            await player.leave()


class _Player:
    """One connection."""

    def __init__(self, socket: WebSocket, room: LiveSessionManager) -> None:
        self.socket, self.room, self.studio = socket, room, room.studio
        self.seat: LiveConnection | None = None
        self.opening = OpeningProgress()
        self.early_A: NDArray[np.uint8] | None = None
        """The newest action that came before the session was open."""
        self.outbox: SendQueue[dict[str, Any]] = SendQueue()
        self.controls: asyncio.Queue[Control] = asyncio.Queue(_MOST_CONTROLS)

    async def play(self) -> None:
        """From hello to the end of the connection."""
        hello = await self._hello()
        listening = asyncio.ensure_future(self._listen())  # while the session opens too: the player may leave
        try:
            await _until_one_ends(listening, self._find_seat(hello), self._announce())
            assert self.seat is not None, "it was found"
            seat = self._sit(self.seat)
            await _until_one_ends(listening, self._obey(seat), self._tick(seat), self._send(seat))
        except (ApiError, PlayloomError):
            if self.seat is not None and self.seat.outbox is self.outbox:  # else another connection took it over
                await self.room.close(self.seat)
            raise
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)

    async def leave(self) -> None:
        """The connection is gone."""
        seat = self.seat
        if seat is not None:
            seat.leave(self.outbox)
            if not seat.delivered and seat.outbox is None:
                await self.room.close(seat)

    async def refuse(self, refusal: ApiError) -> None:
        """Say why it ends, and end it."""
        code = _TRY_LATER if refusal.status == 503 else _BROKEN if refusal.status >= 500 else _POLICY
        with suppress(Exception):  # it may be gone already
            if self.socket.application_state is WebSocketState.CONNECTED:
                await asyncio.wait_for(self._say({"type": "error", "message": refusal.sentence}), 2)
                reason = refusal.sentence.encode("ascii", "replace")[:_LONGEST_REASON].decode()
                await asyncio.wait_for(self.socket.close(code, reason), 2)

    async def _hello(self) -> Hello:
        seconds = self.studio.settings.hello_seconds
        try:
            message = await asyncio.wait_for(self._receive(), seconds)
        except asyncio.TimeoutError:
            raise ApiError(408, f"no hello came within {seconds:g} seconds") from None
        if not isinstance(message, str):
            raise ApiError(400, 'the first message is JSON text: {"type": "hello", ...}')
        hello: Hello = parse_any(message.encode("utf-8", "replace"), HELLO, [Hello])
        key = self.studio.settings.key
        header = self.socket.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not verify_api_key(hello.key or header, key):
            raise ApiError(401, "the key is missing or wrong; send it as key in hello")
        return hello

    async def _find_seat(self, hello: Hello) -> None:
        """The session to go on with, or a new one."""
        kept = self.room.seats.get(hello.resume or "")
        if kept is not None and kept.failure is None:
            kept.form = hello.format
            self.seat = kept
            return
        self.room.check_room()
        prompt, moment = await self._prompt(hello.moment, hello.image)
        how = self.studio.sampling()
        self.seat = await self.room.open(
            prompt,
            sampling=how if hello.temperature is None else replace(how, temperature=hello.temperature),
            seed=resolve_seed(hello.seed),
            controller=check_controller(hello.controller),
            moment=moment,
            form=hello.format,
            progress=self.opening.saw,
        )

    async def _announce(self) -> None:
        """Say how far the opening is, at once and then for as long as it takes."""
        while True:
            await self._say(self.opening.message())
            await asyncio.sleep(_ANNOUNCE)

    def _sit(self, seat: LiveConnection) -> LiveConnection:
        self.outbox = seat.sit()
        self.outbox.put_text(seat.ready())
        if self.early_A is not None:
            seat.session.press(self.early_A)
        return seat

    async def _prompt(self, moment: str | None, image: str | None) -> tuple[Prompt, str | None]:
        if image is None:
            name = resolve_prompt(moment)
            return (await self.studio.side(lambda: self.studio.moment(name)))[0], name
        if moment is not None:
            raise BadInputError("a dream begins at a moment or at an image; send one of the two")
        picture = await self.studio.side(lambda: from_base64(image, "the image"))
        return await self.studio.prompt([ContextStep(picture=picture, where="the image")], []), None

    async def _listen(self) -> None:
        """Actions take effect at once; what is asked for is left for `_obey`, in order."""
        while True:
            message = await self._receive()
            if self.seat is not None and self.seat.outbox is self.outbox:
                self.seat.delivered = True
            if isinstance(message, bytes):
                self._press(read_action(message))
                continue
            control = parse_any(message.encode("utf-8", "replace"), CONTROL, CONTROL_KINDS)
            try:
                self.controls.put_nowait(control)
            except asyncio.QueueFull:
                raise ApiError(429, f"more than {_MOST_CONTROLS} requests wait to be done; send them slower") from None

    def _press(self, action_A: NDArray[np.uint8]) -> None:
        if self.seat is None:
            self.early_A = action_A
        else:
            self.seat.session.press(action_A)

    async def _obey(self, seat: LiveConnection) -> None:
        while True:
            control = await self.controls.get()
            try:
                await self._do(seat, control)
            except (PlayloomError, ApiError) as error:
                if seat.session.closed:
                    raise
                self.outbox.put_text({"type": "error", "message": to_api_error(error).sentence})
            else:
                seat.changed()

    async def _do(self, seat: LiveConnection, control: Control) -> None:
        session = seat.session
        if isinstance(control, Pause):
            session.pause()
        elif isinstance(control, Resume):
            session.resume()
        elif isinstance(control, StepOnce):
            session.pause()
            session.single_step()
        elif isinstance(control, SetWho):
            session.controller = control.value
        elif isinstance(control, SetTemperature):
            how = replace(session.sampling, temperature=control.value)
            await self.studio.wait_for(lambda: setattr(session, "sampling", how))
        else:
            await self._reset(seat, control)

    async def _reset(self, seat: LiveConnection, asked: Reset) -> None:
        prompt, moment = None, seat.moment
        if asked.moment is not None or asked.image is not None:
            prompt, moment = await self._prompt(asked.moment, asked.image)
        await self.studio.wait_for(lambda: seat.session.restart(prompt=prompt, seed=asked.seed))
        seat.moment = moment

    async def _tick(self, seat: LiveConnection) -> None:
        """State once a second."""
        while True:
            await asyncio.sleep(1)
            if seat.outbox is not self.outbox:
                raise ApiError(410, "this session was taken over by another connection")
            if seat.failure is not None:
                raise ApiError(500, seat.failure)
            if self.studio.gate.draining:
                raise ApiError(503, "the server is stopping; come back in a while")
            self.outbox.put_text(seat.state())

    async def _send(self, seat: LiveConnection) -> None:
        while True:
            message = await self.outbox.take()
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
                seat.delivered = True
            else:
                await self._say(message)

    async def _say(self, message: dict[str, Any]) -> None:
        await self.socket.send_text(json.dumps(message))

    async def _receive(self) -> str | bytes:
        message = await self.socket.receive()
        if message["type"] == "websocket.disconnect":
            raise WebSocketDisconnect(message.get("code", 1005))
        data = message.get("bytes")
        return bytes(data) if data is not None else str(message.get("text") or "")


async def _until_one_ends(listening: asyncio.Future[None], *works: Coroutine[Any, Any, None]) -> None:
    """Wait for the first of these, or for `listening`, which goes on; the others are cancelled.

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
