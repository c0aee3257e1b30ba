"""One live session: a dream that goes on by the clock, with whatever is held when a tick comes.

    session = LiveSession(dreamer, prompt, seed=7)
    frame = session.step(action_A)                       # pull: waits for the tick, gives its frame

    session.run(on_frame=show, stop=stop.is_set)         # push: in one thread ...
    session.press(action_A); session.pause()             # ... steered from any other

Owns who plays, pausing, starting over, and that one dream is moved by one at a time. What dreams is behind two small
protocols that `playloom.engine` meets (see `contract`); files and sockets are others' business.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.engine import Prompt, Sampling
from playloom.errors import BadInputError
from playloom.live.clock import Clock, Tick
from playloom.live.contract import Dream, Dreams, Who, check_who
from playloom.live.frame import LiveFrame
from playloom.live.pad import Pad, Press
from playloom.live.pause import Pause
from playloom.live.statistics import HISTORY, LiveReport, Statistics
from playloom.live.timing import RealTime, TimeSource
from playloom.live.turns import Turns


class LiveSession:
    """A dream played live. Everything but `step` and `run`, which drive it, may be called from any thread."""

    def __init__(
        self,
        dreams: Dreams,
        prompt: Prompt,
        *,
        dream: Dream | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        who: Who = "person",
        hertz: float = 10.0,
        time: TimeSource | None = None,
        aligned: bool = False,
        history: int = HISTORY,
    ) -> None:
        """Open the dream; its clock starts with the first step.

        Args:
            dreams: opens the dream, now and at every `restart`.
            prompt: where it begins.
            dream: opened already, with this prompt, sampling and seed; None: open it here.
            sampling: how tokens are drawn; None: what `dreams` takes by default.
            seed: same seed, same actions at the same frames: same frames.
            who: who plays, see `Who`.
            hertz: frames a second.
            time: where time comes from; None: the machine's monotonic clock.
            aligned: whether ticks fall on whole multiples of 1 / hertz of `time`, after a pause too: all such sessions
                tick together, and can be dreamed in one batch.
            history: frames that the report's spreads are taken over.

        Raises:
            BadInputError: when the rate is not above 0 or `who` is unknown.
        """
        self.time: TimeSource = time or RealTime()
        self._clock, self._aligned = Clock(hertz, self.time), aligned
        self._who: Who = check_who(who)
        self._dreams, self._prompt, self._seed = dreams, prompt, seed
        self._pad, self._statistics = Pad(), Statistics(history)
        self._sequence = self._restarts = 0
        self._closed, self._clock_stale = threading.Event(), True
        self._pause, self._driver, self._turns = Pause(), threading.Lock(), Turns()
        self._dream = dreams.open(prompt, sampling=sampling, seed=seed) if dream is None else dream
        self._opened = self.time.now()

    def press(self, action_A: ArrayLike, at: float | None = None) -> None:
        """Hold this input from now on; the newest wins. Never waits, not even while a frame is being dreamed.

        Args:
            action_A: action values, integers [16]; `REST_VALUES` lets go.
            at: when the key went down, in seconds of `time`, where that is known better than "now".

        Raises:
            ActionError: when a value is outside its slot's range.
        """
        now = self.time.now()
        self._pad.press(action_A, now if at is None else min(at, now))

    def step(self, action_A: ArrayLike | None = None) -> LiveFrame:
        """The next frame, when it is time: waits for the tick and plays what is held then. While paused: at once.

        Args:
            action_A: pressed first, as by `press`; None: what is held already.

        Raises:
            BadInputError: when the session is closed, or `run` drives it.
        """
        with self._driving():
            if action_A is not None:
                self.press(action_A)
            tick = None if self._pause.on else self._next_tick()
            with self._turns.take():
                self._check_open()
                return self._make(tick)

    def run(
        self,
        on_frame: Callable[[LiveFrame], None],
        stop: Callable[[], bool] = lambda: False,
        *,
        ticks: int | None = None,
        first_tick: float | None = None,
    ) -> None:
        """Tick, take the newest input, dream a frame, hand it out; until told to stop or closed.

        Args:
            on_frame: takes each frame, in this thread: the next tick waits for it, so let it be quick.
            stop: asked before every tick.
            ticks: end after so many ticks, made or missed; None: never.
            first_tick: when the first is due, in seconds of `time`; None: now, or where ticks are `aligned`.

        Raises:
            BadInputError: when the session is closed or driven already. Whatever dreaming raises comes through; the
                report keeps what was done.
        """
        with self._driving():
            limit = None if ticks is None else self._clock.passed + ticks
            self._start_clock(first_tick)
            while not (stop() or self.closed):
                stepped = self._pause.on
                if stepped and not self._pause.take_step():
                    continue
                tick = None if stepped else self._next_tick(limit)
                if tick is None and not stepped:
                    return
                if tick is not None and self._pause.on:
                    self._clock.give_back(tick)
                    continue
                with self._turns.take():
                    if self._closed.is_set():
                        return
                    frame = self._make(tick)
                on_frame(frame)

    def pause(self) -> None:
        """Make no frame until `resume`; one that is being made is finished. No tick counts as missed meanwhile."""
        self._pause.halt()

    def resume(self) -> None:
        """Go on by the clock, from now."""
        if self._pause.on:
            self._clock_stale = True  # before `run` is let go: it would count the pause as missed
        self._pause.release()

    def single_step(self) -> None:
        """While paused: have `run` make one frame with what is held. (Without `run`, call `step`.)

        Raises:
            BadInputError: when the session is not paused.
        """
        self._pause.ask_step()

    def restart(self, *, prompt: Prompt | None = None, seed: int | None = None) -> None:
        """Start over at the prompt; what is held stays held. Waits until the new dream is open.

        The old dream is given up only when the new one is open. Ticks that pass meanwhile are missed, and counted.

        Args:
            prompt: begin somewhere else from now on; None: where this dream began.
            seed: go on with another seed from now on; None: the same again.

        Raises:
            BadInputError: when the session is closed. Whatever opening raises comes through, and nothing changes.
        """
        with self._turns.take():
            self._check_open()
            prompt = self._prompt if prompt is None else prompt
            seed = self._seed if seed is None else seed
            dream = self._dreams.open(prompt, sampling=self._dream.sampling, seed=seed)
            old, self._dream = self._dream, dream
            self._prompt, self._seed = prompt, seed
            self._restarts += 1
            old.close()

    def close(self) -> None:
        """End it: `run` returns after the frame it is at, and the dream's memory is given back. Twice is once."""
        with self._turns.take():
            if not self.closed:
                self._closed.set()
                self._dream.close()

    def report(self) -> LiveReport:
        """The figures so far; kept after a failure and after `close`."""
        pad = self._pad
        return self._statistics.report(skipped=self._clock.skipped, presses=pad.presses, replaced=pad.replaced)

    @property
    def who(self) -> Who:
        """Who plays; may be set at any time, and holds from the next frame on."""
        return self._who

    @who.setter
    def who(self, who: Who) -> None:
        self._who = check_who(who)
        self._pad.stop_waiting()

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn; may be set at any time, and holds from the next frame on."""
        return self._dream.sampling

    @sampling.setter
    def sampling(self, sampling: Sampling) -> None:
        with self._turns.take():
            self._dream.sampling = sampling

    @property
    def seed(self) -> int:
        """The seed of the dream that is being played."""
        return self._seed

    @property
    def prompt(self) -> Prompt:
        """Where the dream that is being played began."""
        return self._prompt

    @property
    def hertz(self) -> float:
        """Ticks a second."""
        return self._clock.hertz

    @property
    def paused(self) -> bool:
        """Whether it waits for `resume`."""
        return self._pause.on

    @property
    def closed(self) -> bool:
        """Whether it has ended."""
        return self._closed.is_set()

    def __enter__(self) -> LiveSession:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _make(self, tick: Tick | None) -> LiveFrame:
        """In one's turn: dream one frame with what is held at this very moment."""
        began = self.time.now()
        press = self._pad.take()
        step = self._dream.step(self._choose(press))
        finished = self.time.now()
        assert step.frame_HWC is not None, "a live dream always has a frame"
        shown = press.at if tick is not None and step.action_given else None
        frame = LiveFrame(
            sequence=self._sequence,
            dream=self._restarts,
            time=finished - self._opened,
            frame_HWC=step.frame_HWC,
            codes_N=step.codes_N,
            action_A=step.action_A,
            action_given=step.action_given,
            cost=finished - began,
            late_by=0.0 if tick is None else max(0.0, finished - tick.next_due),
            skipped=0 if tick is None else tick.skipped,
            key_to_frame=None if shown is None else finished - shown,
        )
        self._sequence += 1
        self._statistics.add(frame, tick, began=began, finished=finished)
        return frame

    def _choose(self, press: Press) -> NDArray[np.uint8] | None:
        """The action to give, None where the model plays."""
        if self._who == "model" or (self._who == "both" and press.resting):
            return None
        return press.action_A

    def _next_tick(self, limit: int | None = None) -> Tick | None:
        if self._clock_stale:
            self._start_clock(None)
        return self._clock.wait(limit)

    def _start_clock(self, at: float | None) -> None:
        """Begin a stretch of play: what was pressed before it did not wait for us."""
        self._clock_stale = False
        if at is None and self._aligned:
            hertz = self._clock.hertz
            at = math.ceil(self.time.now() * hertz) / hertz
        self._clock.restart(at)
        self._statistics.start(self._clock.due(self._clock.passed))
        self._pad.stop_waiting()

    def _check_open(self) -> None:
        if self.closed:
            raise BadInputError("this live session is closed; open another one")

    @contextmanager
    def _driving(self) -> Iterator[None]:
        self._check_open()
        if not self._driver.acquire(blocking=False):
            raise BadInputError("this live session is being run already; press and pause it, but let one drive")
        try:
            yield
        finally:
            self._driver.release()
