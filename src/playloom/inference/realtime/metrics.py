"""Statistics of a live session: counts over its whole life, percentiles over its newest frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from playloom.inference.realtime.clock import Tick
from playloom.inference.realtime.types import LiveFrame

HISTORY = 6000
"""Frames that percentiles are taken over: ten minutes at 10 frames per second."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Percentiles of `count` durations in milliseconds; None where nothing was measured."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Percentiles:
        """Compute them from seconds."""
        values = np.fromiter(seconds, np.float64)
        if not len(values):
            return cls(count=0, p50=None, p95=None, p99=None)
        p50, p95, p99 = (round(1000 * float(value), 3) for value in np.percentile(values, (50, 95, 99)))
        return cls(count=len(values), p50=p50, p95=p95, p99=p99)


@dataclass(frozen=True, kw_only=True)
class LiveReport:
    """Statistics of a live session so far."""

    frames: int
    """Generated frames, single steps included."""
    late: int
    """Frames that were ready only after the next tick."""
    skipped: int
    """Ticks at which no frame was started, because an earlier one was in progress."""
    stepped: int
    """Single steps; they have no tick and count in no time below."""
    seconds: float
    """Time played: the full length of every tick, and the delay of late frames; pauses excluded."""
    frames_per_second: float
    """Frames with a tick, by the time played."""
    inputs: int
    """Inputs received; repetitions of one that waits for its frame do not count."""
    dropped_inputs: int
    """Inputs without a frame, because a newer one came before the tick."""
    key_to_frame_ms: Percentiles
    """From an input until the first frame made with it is ready; includes the wait for the tick."""
    frame_latency_ms: Percentiles
    """Generating one frame, decoding its pixels included."""
    jitter_ms: Percentiles
    """Delay between a tick and the start of its work."""


class Statistics:
    """Counts every frame and keeps the last `history` durations; any thread may call `report`."""

    def __init__(self, history: int = HISTORY) -> None:
        self._key_to_frame: deque[float] = deque(maxlen=history)
        self.latency: deque[float] = deque(maxlen=history)
        self._jitter: deque[float] = deque(maxlen=history)
        self._frames = self.late = self._stepped = 0
        self._seconds_before = self._seconds = 0.0
        self._start = 0.0
        self._lock = threading.Lock()

    def start(self, at: float) -> None:
        """Begin a stretch of play: the first one, or the next after a pause."""
        with self._lock:
            self._seconds_before += self._seconds
            self._seconds, self._start = 0.0, at

    def add(self, frame: LiveFrame, tick: Tick | None, *, began: float, finished: float) -> None:
        """Count a frame; its tick is None for a single step, the times are of the clock's time source."""
        with self._lock:
            self._frames += 1
            if tick is None:
                self._stepped += 1
                return
            self.late += frame.late
            self._seconds = max(finished, tick.next_due) - self._start
            self.latency.append(frame.latency)
            self._jitter.append(began - tick.due)
            if frame.key_to_frame is not None:
                self._key_to_frame.append(frame.key_to_frame)

    def report(self, *, skipped: int, inputs: int, dropped_inputs: int) -> LiveReport:
        """Return the statistics, with the counts of the clock and the input."""
        with self._lock:
            seconds = self._seconds_before + self._seconds
            ticked = self._frames - self._stepped
            return LiveReport(
                frames=self._frames,
                late=self.late,
                skipped=skipped,
                stepped=self._stepped,
                seconds=round(seconds, 3),
                frames_per_second=round(ticked / seconds, 3) if seconds else 0.0,
                inputs=inputs,
                dropped_inputs=dropped_inputs,
                key_to_frame_ms=Percentiles.of(self._key_to_frame),
                frame_latency_ms=Percentiles.of(self.latency),
                jitter_ms=Percentiles.of(self._jitter),
            )
