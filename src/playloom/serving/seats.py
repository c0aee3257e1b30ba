"""Live sessions and the players in front of them. A player may leave and come back; the session waits a while, paused.

Every session has a thread that makes its frames by the clock. It leaves the newest for the player, who takes it when
the network lets them: a slow one loses frames and delays nobody. Knows no socket.
"""

from __future__ import annotations

import asyncio
import threading
import time
from typing import Any

from playloom.actions import CONTROLS
from playloom.engine import Prompt, Sampling
from playloom.live import LiveFrame, LiveSession, Who
from playloom.provenance import Manifest
from playloom.serving.broker import Progress
from playloom.serving.metrics import Metrics
from playloom.serving.names import mint
from playloom.serving.outbox import Outbox
from playloom.serving.pictures import Live, live_picture
from playloom.serving.play_format import pack_frame
from playloom.serving.recent import Recent
from playloom.serving.reel import Reel, Shot
from playloom.serving.refusals import busy, refusal_of
from playloom.serving.studio import Studio


class Seat:
    """One live session, taken or waiting for its player to come back."""

    def __init__(
        self, studio: Studio, metrics: Metrics, session: LiveSession, *, moment: str | None, form: Live
    ) -> None:
        self.token = mint(studio.settings.replica)
        self.studio, self.metrics, self.session = studio, metrics, session
        self.moment, self.form = moment, form
        self.reel = Reel(studio.settings.recording_frames)
        self.recent = Recent(session.prompt, studio.context)
        self._dream = 0  # how often the session had started over when the newest frame was made
        self.outbox: Outbox[dict[str, Any]] | None = None
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

    def sit(self) -> Outbox[dict[str, Any]]:
        """A player comes (back); whoever sat here before gets no more frames."""
        if self.outbox is not None:
            self.outbox.put_text({"type": "error", "message": "this session was taken over by another connection"})
        self.outbox = Outbox()
        if self._paused_by_leaving:
            self.session.resume()
        self._paused_by_leaving = False
        return self.outbox

    def leave(self, outbox: Outbox[dict[str, Any]]) -> None:
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
            "hertz": self.session.hertz,
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
            "who": session.who,
            "temperature": session.sampling.temperature,
            "paused": session.paused,
        }

    def _manifest(self) -> Manifest:
        session = self.session
        mode = "world" if session.who == "person" else "full"
        return self.studio.manifest(session.prompt, session.sampling, session.seed, mode)

    def _run(self) -> None:
        """The session's own thread."""
        try:
            self.session.run(self._show)
        except Exception as error:
            if not self.session.closed:
                self.failure = refusal_of(error).sentence

    def _show(self, frame: LiveFrame) -> None:
        picture = live_picture(frame.frame_HWC, self.form, self._text)
        self.reel.add(Shot(picture, frame.action_A, frame.skipped))
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


class Room:
    """All seats of a server. Used from one event loop."""

    def __init__(self, studio: Studio, metrics: Metrics) -> None:
        self.studio, self.metrics = studio, metrics
        self.seats: dict[str, Seat] = {}
        self.others = 0
        """Sessions of other kinds that count against the same limit."""
        self._opening = 0

    @property
    def playing(self) -> int:
        """Seats with a player in front of them."""
        return sum(seat.outbox is not None for seat in self.seats.values())

    @property
    def taken(self) -> int:
        """Sessions open or being opened."""
        return len(self.seats) + self._opening + self.others

    async def open(
        self,
        prompt: Prompt,
        *,
        sampling: Sampling,
        seed: int,
        who: Who,
        moment: str | None,
        form: Live,
        progress: Progress,
    ) -> Seat:
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
            who=who,
            hertz=self.studio.settings.hertz,
            aligned=True,
        )
        seat = Seat(self.studio, self.metrics, session, moment=moment, form=form)
        self.seats[seat.token] = seat
        return seat

    def check_room(self) -> None:
        """See that there is room for one more session.

        Raises:
            Refusal: 503.
        """
        self.studio.gate.check_open()
        limit = self.studio.settings.sessions
        if self.taken >= limit:
            raise busy(f"all {limit} sessions are taken; try again in a while", 10)

    async def close(self, seat: Seat) -> None:
        """End a session for good."""
        if self.seats.pop(seat.token, None) is not None:
            await self.studio.wait_for(seat.session.close)

    async def sweep(self) -> None:
        """Close what was deserted too long ago, or failed."""
        oldest = time.monotonic() - self.studio.settings.keep_seconds
        for seat in list(self.seats.values()):
            if seat.outbox is None and (seat.left_at < oldest or seat.failure is not None):
                await self.close(seat)
