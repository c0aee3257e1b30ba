"""State of live play: the latest input, clock, controller, pause and statistics of one session, and its frames."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import REST_VALUES, check_values
from playloom.errors import ActionError, BadInputError, did_you_mean
from playloom.inference.realtime.clock import Clock, RealTime, Tick
from playloom.inference.session import StepResult

HISTORY = 6000  # frames that percentiles are taken over: ten minutes at 10 frames per second

Controller = Literal["person", "model", "both"]
"""Source of the actions. `person`: the input, rest included. `model`: sampled. `both`: the input while something is
pressed, else sampled."""


def check_controller(controller: str) -> Controller:
    """Return a valid controller, or raise a `BadInputError`."""
    if controller not in get_args(Controller):
        raise BadInputError(f"unknown controller {controller!r}; {did_you_mean(controller, get_args(Controller))}")
    return cast(Controller, controller)


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveFrame:
    """One generated frame of a live session. Not watermarked: mark a copy where it leaves the program."""

    sequence: int
    """Frames of this session before this one, over restarts."""
    restarts: int
    """Restarts of the session before it."""
    time: float
    """When it was ready, in seconds since the session was opened."""
    frame_HWC: NDArray[np.uint8]
    """RGB, uint8 [H, W, 3]."""
    codes_N: NDArray[np.int64] | None = None
    """Its codes, int64 [N], where they are known: continue from these, not from the pixels."""
    action_A: NDArray[np.uint8]
    """The action that led to it, values uint8 [16]."""
    action_given: bool
    """True when the player gave the action; False when the model sampled it."""
    latency: float
    """Seconds that generating it took."""
    late_by: float
    """Seconds between the next tick and this frame; 0 for a frame in time or a single step."""
    skipped: int
    """Ticks skipped right before it: the frame before was on the screen so many ticks longer."""
    key_to_frame: float | None
    """Seconds since the input that it is the first to show; None where it shows no new input."""

    @property
    def late(self) -> bool:
        """True when the next tick was due before it was ready."""
        return self.late_by > 0


def percentiles(seconds: Iterable[float]) -> dict[str, float | None]:
    """Return the count of durations and their percentiles in milliseconds; None where nothing was measured."""
    values = 1000 * np.fromiter(seconds, np.float64)
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).round(3).tolist() if len(values) else (None, None, None)
    return {"count": len(values), "p50": p50, "p95": p95, "p99": p99}


class InputEvent(NamedTuple):
    """The input of a frame."""

    action_A: NDArray[np.uint8]
    at: float | None  # when it arrived; None once a step has read it


class LiveStep(NamedTuple):
    """A step that has begun."""

    action_A: NDArray[np.uint8] | None  # None: the model samples it
    tick: Tick | None  # None: a single step
    input_at: float | None  # when the input arrived that its frame is the first to show
    began: float
    restarts: int


class LiveState:
    """Clock, input, controller, pause and statistics of one live session. Only the newest input counts; none queues.

    Any thread may call its methods, except `next_due`, `begin` and `finish`: those are the driver's, which runs the
    step between `begin` and `finish`. It may begin the next one before it finishes a step.
    """

    def __init__(
        self,
        *,
        controller: Controller = "person",
        fps: float = 10.0,
        time: RealTime | None = None,
        aligned: bool = False,
    ) -> None:
        """Create the state; the clock starts with the first frame.

        `aligned` puts ticks at whole multiples of 1 / fps, after a pause too, so that sessions share batches.
        """
        self.time = time or RealTime()
        self.fps, self.paused = fps, False
        self._clock, self._aligned = Clock(fps, self.time), aligned
        self._controller: Controller = check_controller(controller)
        self._input, self._input_lock = InputEvent(REST_VALUES.copy(), None), threading.Lock()
        self._inputs = self._dropped_inputs = 0  # dropped: without a frame, because a newer one came first
        self._key_to_frame, self._latency, self._jitter = (deque[float](maxlen=HISTORY) for _ in range(3))
        self._frames = self._stepped = 0
        self.late = 0  # frames so far that were ready only after the next tick
        self.restarts = 0  # of the session; each frame carries their number
        self._seconds = self._played_until = 0.0  # time of play without pauses, and its end on the clock
        self._steps, self._clock_stale = 0, True
        self._lock = threading.Lock()
        self._opened = self.time.now()

    def set_input(self, action_A: ArrayLike, at: float | None = None) -> None:
        """Set the input, integers [16]; `at` is when it happened, in seconds of `time`, if earlier than now.

        An input equal to the one that waits for its frame keeps that one's time, so that a controller that sends sixty
        times per second does not look faster than it is.
        """
        now, values_A = self.time.now(), check_values(action_A)
        if values_A.ndim != 1:
            raise ActionError(f"an input is one action of 16 numbers; got an array of shape {values_A.shape}")
        with self._input_lock:
            waiting = self._input.at is not None
            if waiting and bool((self._input.action_A == values_A).all()):
                return
            self._inputs += 1
            self._dropped_inputs += waiting
            self._input = InputEvent(values_A, now if at is None else min(at, now))

    def _read_input(self) -> InputEvent:
        """Return the input, which stays set, and mark it as read."""
        with self._input_lock:
            latest = self._input
            self._input = latest._replace(at=None)
            return latest

    def pause(self) -> None:
        """Make no frame until `resume`; one in progress is finished. Ticks meanwhile do not count as skipped."""
        self.paused = True

    def resume(self) -> None:
        """Continue by the clock, from now."""
        with self._lock:
            self._clock_stale |= self.paused  # before the driver may see that the pause is over
            self.paused, self._steps = False, 0

    def single_step(self) -> None:
        """Let the driver make one frame with the current input; raise a `BadInputError` unless paused."""
        with self._lock:
            if not self.paused:
                raise BadInputError("only a paused session can be stepped; pause it first")
            self._steps += 1

    def report(self) -> dict[str, Any]:
        """Return the statistics so far, by name; `docs/play.md` explains each."""
        with self._lock:
            ticked, seconds = self._frames - self._stepped, self._seconds
            return {
                "frames": self._frames,
                "late": self.late,
                "skipped": self._clock.skipped,
                "stepped": self._stepped,
                "seconds": round(seconds, 3),
                "frames_per_second": round(ticked / seconds, 3) if seconds else 0.0,
                "inputs": self._inputs,
                "dropped_inputs": self._dropped_inputs,
                "key_to_frame_ms": percentiles(self._key_to_frame),
                "frame_latency_ms": percentiles(self._latency),
                "jitter_ms": percentiles(self._jitter),
            }

    @property
    def skipped(self) -> int:
        """Ticks skipped so far."""
        return self._clock.skipped

    @property
    def controller(self) -> Controller:
        """Source of the actions from the next frame on."""
        return self._controller

    @controller.setter
    def controller(self, controller: Controller) -> None:
        self._controller = check_controller(controller)
        self._read_input()  # the wait of an input until now is not the frames' fault

    def start_clock(self, at: float | None = None) -> None:
        """Start a stretch of play whose first tick is due at `at` (None: now, or at the next aligned tick)."""
        self._clock_stale = False
        if at is None and self._aligned:
            at = math.ceil(self.time.now() * self.fps) / self.fps
        self._clock.restart(at)
        self._played_until = self._clock.due(self._clock.passed)
        self._read_input()  # nor is a pause

    def next_due(self) -> float | None:
        """Return when the next frame is due, in seconds of `time`; None while paused without a single step."""
        if self.paused:
            return self.time.now() if self._steps else None
        if self._clock_stale:
            self.start_clock()
        return self._clock.due(self._clock.passed)

    def begin(self, limit: int | None = None, *, stepped: bool = False) -> LiveStep | None:
        """Begin the next step with its tick and the newest input; None while paused, or above `limit` ticks.

        While paused, a step begins if `single_step` has requested it, or if it is `stepped`.
        """
        tick = None
        if self.paused:
            with self._lock:
                requested = self.paused and self._steps > 0 and not stepped
                self._steps -= requested
            if not (stepped or requested):
                return None
        else:
            if self._clock_stale:  # resumed since the driver looked
                self.start_clock()
            if (tick := self._clock.tick(limit)) is None:
                return None
        latest = self._read_input()
        resting = bool((latest.action_A == REST_VALUES).all())
        sampled = self._controller == "model" or (self._controller == "both" and resting)
        input_at = None if tick is None or sampled else latest.at
        return LiveStep(None if sampled else latest.action_A, tick, input_at, self.time.now(), self.restarts)

    def finish(self, step: LiveStep, result: StepResult) -> LiveFrame:
        """Count the finished step and return its frame."""
        finished, tick = self.time.now(), step.tick
        assert result.frame_HWC is not None, "a step of a live session has a frame"
        frame = LiveFrame(
            sequence=self._frames,
            restarts=step.restarts,
            time=finished - self._opened,
            frame_HWC=result.frame_HWC,
            codes_N=result.codes_N,
            action_A=result.action_A,
            action_given=result.action_given,
            latency=finished - step.began,
            late_by=0.0 if tick is None else max(0.0, finished - tick.next_due),
            skipped=0 if tick is None else tick.skipped,
            key_to_frame=None if step.input_at is None else finished - step.input_at,
        )
        with self._lock:
            self._frames += 1
            if tick is None:
                self._stepped += 1
                return frame
            self.late += frame.late
            until = max(finished, tick.next_due)
            self._seconds, self._played_until = self._seconds + until - self._played_until, until
            self._latency.append(frame.latency)
            self._jitter.append(step.began - tick.due)
            if frame.key_to_frame is not None:
                self._key_to_frame.append(frame.key_to_frame)
        return frame
