"""One live session: a dream that goes on by the clock, with whatever is held when a tick comes.

    session = LiveSession(dreamer, prompt, seed=7)
    frame = session.step(action_A)                       # pull: waits for the tick, gives its frame

    session.run(on_frame=show, stop=stop.is_set)         # push: in one thread ...
    session.press(action_A); session.pause()             # ... steered from any other

Owns the controller, pausing, starting over, and that one dream is moved by one at a time. The dream is behind two
protocols that `playloom.inference` meets (see `types`).

What a player holds now, and since when it waits to be seen. Owns one rule: the newest input wins.

Presses never queue: one that is replaced before a frame was made of it is gone, and counted. Any thread may press.

Whether play is halted, and how many single steps were asked for meanwhile. Any thread may ask and tell.

A lock that is given in the order of asking.

A plain lock may be taken again and again by the thread that just let go of it; a loop that is always late would
then never let anybody else in.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import REST_VALUES, check_values
from playloom.errors import ActionError, BadInputError
from playloom.inference.realtime.clock import Clock, RealTime, Tick, TimeSource
from playloom.inference.realtime.metrics import HISTORY, LiveReport, Statistics
from playloom.inference.realtime.types import Controller, LiveFrame, SessionFactory, SteppableSession, check_controller
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt


class InputEvent(NamedTuple):
    """What is held when a frame is made."""

    action_A: NDArray[np.uint8]
    """Action values [16]."""
    at: float | None
    """When it was pressed, if no frame has been made of it yet; None for what goes on being held."""

    @property
    def resting(self) -> bool:
        """Whether nothing is pressed."""
        return bool((self.action_A == REST_VALUES).all())


class InputState:
    """The held input of one player."""

    def __init__(self) -> None:
        self.presses = 0
        """How often something was pressed (or let go)."""
        self.replaced = 0
        """Presses of which no frame was made, because a newer one came first."""
        self._held = InputEvent(REST_VALUES.copy(), None)
        self._lock = threading.Lock()

    def press(self, action_A: ArrayLike, at: float) -> None:
        """Hold this from now on; rest lets go.

        A press that repeats the one still waiting for its frame keeps that one's time, so that a controller sent
        sixty times a second does not look quicker than it is.

        Args:
            action_A: action values, integers [16] in slot order.
            at: when the key went down, on the time source of whoever makes the frames.

        Raises:
            ActionError: when these are not sixteen values, each in its range.
        """
        values_A = check_values(action_A)
        if values_A.ndim != 1:
            raise ActionError(f"one action is pressed at a time, 16 numbers; got an array of shape {values_A.shape}")
        with self._lock:
            waiting = self._held.at is not None
            if waiting and bool((self._held.action_A == values_A).all()):
                return
            self.presses += 1
            self.replaced += waiting
            self._held = InputEvent(values_A, at)

    def take(self) -> InputEvent:
        """What is held, for the frame that is made now; it goes on being held, but waits no more."""
        with self._lock:
            held = self._held
            self._held = held._replace(at=None)
            return held

    def discard_timestamp(self) -> None:
        """Forget since when the newest press waits (the time was not the frames' to use); it stays held."""
        with self._lock:
            self._held = self._held._replace(at=None)


_POLL = 0.05  # seconds after which a waiting loop looks around again


class PauseControl:
    """The pause button and the step button beside it."""

    def __init__(self) -> None:
        self._on, self._owed = False, 0
        self._changed = threading.Condition()

    @property
    def on(self) -> bool:
        """Whether play is halted."""
        return self._on

    def halt(self) -> None:
        """Press pause; twice is once."""
        with self._changed:
            self._on = True

    def release(self) -> bool:
        """Let go of pause, forgetting steps not made yet; whether it was on."""
        with self._changed:
            was_on, self._on, self._owed = self._on, False, 0
            self._changed.notify_all()
            return was_on

    def ask_step(self) -> None:
        """Ask for one step.

        Raises:
            BadInputError: when play is not halted.
        """
        with self._changed:
            if not self._on:
                raise BadInputError("only a paused session can be stepped; pause it first")
            self._owed += 1
            self._changed.notify_all()

    def take_step(self) -> bool:
        """Wait a moment for a step to be asked for, or the release; whether a step is to be made now."""
        with self._changed:
            if self._on and not self._owed:
                self._changed.wait(_POLL)
            wanted = self._on and self._owed > 0
            self._owed -= wanted
            return wanted


class FairLock:
    """Something that one thread at a time may move, each in its turn."""

    def __init__(self) -> None:
        self._next, self._mine = threading.Lock(), threading.Lock()

    @contextmanager
    def take(self) -> Iterator[None]:
        """Have it to oneself. Whoever waits longest is next: the others queue behind them, not behind the holder."""
        with self._next:
            self._mine.acquire()
        try:
            yield
        finally:
            self._mine.release()


class LiveSession:
    """A dream played live. Everything but `step` and `run`, which drive it, may be called from any thread."""

    def __init__(
        self,
        dreams: SessionFactory,
        prompt: Prompt,
        *,
        dream: SteppableSession | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        controller: Controller = "person",
        fps: float = 10.0,
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
            controller: source of the actions, see `Controller`.
            fps: frames a second.
            time: where time comes from; None: the machine's monotonic clock.
            aligned: whether ticks fall on whole multiples of 1 / fps of `time`, after a pause too: all such sessions
                tick together, and can be dreamed in one batch.
            history: frames that the report's spreads are taken over.

        Raises:
            BadInputError: when the rate is not above 0 or `controller` is unknown.
        """
        self.time: TimeSource = time or RealTime()
        self._clock, self._aligned = Clock(fps, self.time), aligned
        self._controller: Controller = check_controller(controller)
        self._dreams, self._prompt, self._seed = dreams, prompt, seed
        self._pad, self._statistics = InputState(), Statistics(history)
        self._sequence = self._restarts = 0
        self._closed, self._clock_stale = threading.Event(), True
        self._pause, self._driver, self._turns = PauseControl(), threading.Lock(), FairLock()
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
                    self._clock.rewind(tick)
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
    def controller(self) -> Controller:
        """Source of the actions; may be set at any time, and holds from the next frame on."""
        return self._controller

    @controller.setter
    def controller(self, controller: Controller) -> None:
        self._controller = check_controller(controller)
        self._pad.discard_timestamp()

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
    def fps(self) -> float:
        """Ticks a second."""
        return self._clock.fps

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

    def _choose(self, press: InputEvent) -> NDArray[np.uint8] | None:
        """The action to give, None where the model plays."""
        if self._controller == "model" or (self._controller == "both" and press.resting):
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
            fps = self._clock.fps
            at = math.ceil(self.time.now() * fps) / fps
        self._clock.restart(at)
        self._statistics.start(self._clock.due(self._clock.passed))
        self._pad.discard_timestamp()

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
