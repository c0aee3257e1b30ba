"""`WS /v1/play`: one player's connection. What they press and ask for goes in, frames and state come out.

A message that breaks the format ends the session (1008); a request that cannot be met is answered with an error and
changes nothing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from fastapi import FastAPI, WebSocket
from numpy.typing import NDArray
from starlette.websockets import WebSocketDisconnect, WebSocketState

from playloom.engine import Prompt
from playloom.errors import BadInputError, PlayloomError
from playloom.live.contract import check_who
from playloom.serving.guard import key_fits
from playloom.serving.outbox import Outbox
from playloom.serving.parsing import parse_any
from playloom.serving.pictures import from_base64
from playloom.serving.play_format import (
    CONTROL,
    CONTROL_KINDS,
    HELLO,
    Control,
    Hello,
    Opening,
    Pause,
    Reset,
    Resume,
    SetTemperature,
    SetWho,
    StepOnce,
    read_action,
)
from playloom.serving.refusals import Refusal, refusal_of
from playloom.serving.seats import Room, Seat
from playloom.serving.studio import Seen, pick_moment, pick_seed

_MOST_CONTROLS = 64
_LONGEST_REASON = 120  # bytes; a close frame holds 123
_ANNOUNCE = 0.5  # seconds between words of progress
_TRY_LATER, _BROKEN, _POLICY = 1013, 1011, 1008


def add_play(app: FastAPI, room: Room) -> None:
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
            await player.refuse(refusal_of(error))
        finally:
            await player.leave()


class _Player:
    """One connection."""

    def __init__(self, socket: WebSocket, room: Room) -> None:
        self.socket, self.room, self.studio = socket, room, room.studio
        self.seat: Seat | None = None
        self.opening = Opening()
        self.early_A: NDArray[np.uint8] | None = None
        """The newest action that came before the session was open."""
        self.outbox: Outbox[dict[str, Any]] = Outbox()
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
        except (Refusal, PlayloomError):
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

    async def refuse(self, refusal: Refusal) -> None:
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
            raise Refusal(408, f"no hello came within {seconds:g} seconds") from None
        if not isinstance(message, str):
            raise Refusal(400, 'the first message is JSON text: {"type": "hello", ...}')
        hello: Hello = parse_any(message.encode("utf-8", "replace"), HELLO, [Hello])
        key = self.studio.settings.key
        header = self.socket.headers.get("authorization", "").removeprefix("Bearer ").strip()
        if not key_fits(hello.key or header, key):
            raise Refusal(401, "the key is missing or wrong; send it as key in hello")
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
            seed=pick_seed(hello.seed),
            who=check_who(hello.who),
            moment=moment,
            form=hello.format,
            progress=self.opening.saw,
        )

    async def _announce(self) -> None:
        """Say how far the opening is, at once and then for as long as it takes."""
        while True:
            await self._say(self.opening.message())
            await asyncio.sleep(_ANNOUNCE)

    def _sit(self, seat: Seat) -> Seat:
        self.outbox = seat.sit()
        self.outbox.put_text(seat.ready())
        if self.early_A is not None:
            seat.session.press(self.early_A)
        return seat

    async def _prompt(self, moment: str | None, image: str | None) -> tuple[Prompt, str | None]:
        if image is None:
            name = pick_moment(moment)
            return (await self.studio.side(lambda: self.studio.moment(name)))[0], name
        if moment is not None:
            raise BadInputError("a dream begins at a moment or at an image; send one of the two")
        picture = await self.studio.side(lambda: from_base64(image, "the image"))
        return await self.studio.prompt([Seen(picture=picture, where="the image")], []), None

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
                raise Refusal(429, f"more than {_MOST_CONTROLS} requests wait to be done; send them slower") from None

    def _press(self, action_A: NDArray[np.uint8]) -> None:
        if self.seat is None:
            self.early_A = action_A
        else:
            self.seat.session.press(action_A)

    async def _obey(self, seat: Seat) -> None:
        while True:
            control = await self.controls.get()
            try:
                await self._do(seat, control)
            except (PlayloomError, Refusal) as error:
                if seat.session.closed:
                    raise
                self.outbox.put_text({"type": "error", "message": refusal_of(error).sentence})
            else:
                seat.changed()

    async def _do(self, seat: Seat, control: Control) -> None:
        session = seat.session
        if isinstance(control, Pause):
            session.pause()
        elif isinstance(control, Resume):
            session.resume()
        elif isinstance(control, StepOnce):
            session.pause()
            session.single_step()
        elif isinstance(control, SetWho):
            session.who = control.value
        elif isinstance(control, SetTemperature):
            how = replace(session.sampling, temperature=control.value)
            await self.studio.wait_for(lambda: setattr(session, "sampling", how))
        else:
            await self._reset(seat, control)

    async def _reset(self, seat: Seat, asked: Reset) -> None:
        prompt, moment = None, seat.moment
        if asked.moment is not None or asked.image is not None:
            prompt, moment = await self._prompt(asked.moment, asked.image)
        await self.studio.wait_for(lambda: seat.session.restart(prompt=prompt, seed=asked.seed))
        seat.moment = moment

    async def _tick(self, seat: Seat) -> None:
        """State once a second."""
        while True:
            await asyncio.sleep(1)
            if seat.outbox is not self.outbox:
                raise Refusal(410, "this session was taken over by another connection")
            if seat.failure is not None:
                raise Refusal(500, seat.failure)
            if self.studio.gate.draining:
                raise Refusal(503, "the server is stopping; come back in a while")
            self.outbox.put_text(seat.state())

    async def _send(self, seat: Seat) -> None:
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
