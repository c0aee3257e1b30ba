"""Live play: one session stepped by a clock, each frame with the newest input; see `docs/play.md`.

The server steps the sessions of all players in its scheduler, with the same `LiveState`.
"""

from __future__ import annotations

import threading
import time as machine_time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from numpy.typing import ArrayLike

from playloom.errors import BadInputError
from playloom.inference.realtime.clock import RealTime
from playloom.inference.realtime.state import LiveState
from playloom.inference.realtime.types import Controller, LiveFrame, SessionFactory
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt

_POLL = 0.005  # seconds between looks at a paused session


class LiveSession(LiveState):
    """A live session of one engine. One thread calls `step` or `run`; the rest may be called from any thread."""

    def __init__(
        self,
        engine: SessionFactory,
        prompt: Prompt,
        *,
        sampling: Sampling | None = None,
        seed: int = 0,
        controller: Controller = "person",
        fps: float = 10.0,
        time: RealTime | None = None,
    ) -> None:
        """Open the session; the same seed and actions give the same frames. For the rest see `LiveState`."""
        super().__init__(controller=controller, fps=fps, time=time)
        self.prompt, self.seed = prompt, seed
        self.closed = False
        self._engine, self._session = engine, engine.open(prompt, sampling=sampling, seed=seed)
        self._queue, self._moving = threading.Lock(), threading.Lock()

    def step(self, action_A: ArrayLike | None = None) -> LiveFrame:
        """Wait for the tick and return its frame; None keeps the input. While paused: return a single step at once."""
        if action_A is not None:
            self.set_input(action_A)
        due = None if self.paused else self.next_due()
        if due is not None:
            self.time.sleep_until(due)
        with self._turn():
            self._check_open()
            step = self.begin(stepped=True)
            assert step is not None, "there is no limit, and a pause is no obstacle"
            return self.finish(step, self._session.step(step.action_A))

    def run(
        self,
        on_frame: Callable[[LiveFrame], None],
        stop: Callable[[], bool] = lambda: False,
        *,
        ticks: int | None = None,
        first_tick: float | None = None,
    ) -> None:
        """Make a frame at every tick, until closed, `stop()` is true or so many `ticks` have passed.

        `on_frame` runs in this thread, and the next tick waits for it. `first_tick` is in seconds of `time`; None: now.
        """
        self._check_open()
        limit = None if ticks is None else self._clock.passed + ticks
        self.start_clock(first_tick)
        while not (stop() or self.closed) and (limit is None or self._clock.passed < limit):
            due = self.next_due()
            if due is None:
                machine_time.sleep(_POLL)
                continue
            self.time.sleep_until(due)
            with self._turn():
                step = None if self.closed else self.begin(limit)
                frame = None if step is None else self.finish(step, self._session.step(step.action_A))
            if frame is not None:
                on_frame(frame)

    def restart(self, *, prompt: Prompt | None = None, seed: int | None = None) -> None:
        """Restart at the prompt (None: the same again) and wait until the new session is open; the input stays set.

        Ticks that pass meanwhile are skipped and counted. If the new session cannot be opened, nothing changes.
        """
        with self._turn():
            self._check_open()
            prompt = self.prompt if prompt is None else prompt
            seed = self.seed if seed is None else seed
            session = self._engine.open(prompt, sampling=self._session.sampling, seed=seed)
            old, self._session = self._session, session
            self.prompt, self.seed = prompt, seed
            self.restarts += 1
            old.close()

    def close(self) -> None:
        """End the session and free its memory; `run` returns after the current frame."""
        with self._turn():
            if not self.closed:
                self.closed = True
                self._session.close()

    @property
    def sampling(self) -> Sampling:
        """Sampling parameters from the next frame on."""
        return self._session.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        self._session.sampling = sampling

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise BadInputError("this live session is closed; open another one")

    @contextmanager
    def _turn(self) -> Iterator[None]:
        """Hold the session, first come, first served: a loop that is always late would keep a plain lock."""
        with self._queue:
            self._moving.acquire()
        try:
            yield
        finally:
            self._moving.release()
