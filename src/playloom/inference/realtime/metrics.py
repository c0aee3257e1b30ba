"""What a live session did, in figures: counts for ever, spreads over a bounded recent past. Any thread may ask."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from playloom.inference.realtime.clock import Tick
from playloom.inference.realtime.types import LiveFrame

HISTORY = 6000
"""Frames over which spreads are taken: ten minutes at 10 Hz."""


@dataclass(frozen=True, kw_only=True)
class Percentiles:
    """Percentiles of a quantity, in milliseconds; None where nothing was measured."""

    count: int
    """Values they were taken over."""
    p50: float | None
    """The median."""
    p95: float | None
    """95 % were no more than this."""
    p99: float | None
    """99 % were no more than this."""

    @classmethod
    def of(cls, seconds: Iterable[float]) -> Percentiles:
        """The spread of values in seconds."""
        values = np.fromiter(seconds, np.float64)
        if not len(values):
            return cls(count=0, p50=None, p95=None, p99=None)
        p50, p95, p99 = (round(1000 * float(value), 3) for value in np.percentile(values, (50, 95, 99)))
        return cls(count=len(values), p50=p50, p95=p95, p99=p99)


@dataclass(frozen=True, kw_only=True)
class LiveReport:
    """What happened so far."""

    frames: int
    """Frames made, those stepped by hand included."""
    late: int
    """Frames that were in hand only after the next tick was due."""
    skipped: int
    """Ticks at which no frame was begun, because an earlier one was still being made."""
    stepped: int
    """Frames stepped by hand while paused; they have no tick and no part in any time below."""
    seconds: float
    """Time played: every tick's full length, and what late frames took beyond; pauses left out."""
    frames_per_second: float
    """Frames that had a tick, by the time played."""
    presses: int
    """Inputs that came in; repetitions of one that still waited for its frame not counted."""
    replaced: int
    """Inputs of which no frame was made, because a newer one came before the tick."""
    key_to_frame_ms: Percentiles
    """From a press until the first frame made with it was in hand; waiting for the tick counts."""
    frame_cost_ms: Percentiles
    """Dreaming one frame, decoding its pixels included."""
    jitter_ms: Percentiles
    """How long after it was due a tick's work began."""

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for JSON."""
        return asdict(self)


class Statistics:
    """Counts every frame, remembers the last `history` times."""

    def __init__(self, history: int = HISTORY) -> None:
        self._key_to_frame: deque[float] = deque(maxlen=history)
        self._cost: deque[float] = deque(maxlen=history)
        self._jitter: deque[float] = deque(maxlen=history)
        self._frames = self._late = self._stepped = 0
        self._seconds_before = self._seconds = 0.0
        self._start = 0.0
        self._lock = threading.Lock()

    def start(self, at: float) -> None:
        """A stretch of play begins: the first after being opened or paused."""
        with self._lock:
            self._seconds_before += self._seconds
            self._seconds, self._start = 0.0, at

    def add(self, frame: LiveFrame, tick: Tick | None, *, began: float, finished: float) -> None:
        """Count a frame.

        Args:
            frame: what was made.
            tick: its tick; None when it was stepped by hand.
            began: when its dreaming began, on the clock's time source.
            finished: when it was in hand.
        """
        with self._lock:
            self._frames += 1
            if tick is None:
                self._stepped += 1
                return
            self._late += frame.late
            self._seconds = max(finished, tick.next_due) - self._start
            self._cost.append(frame.cost)
            self._jitter.append(began - tick.due)
            if frame.key_to_frame is not None:
                self._key_to_frame.append(frame.key_to_frame)

    def report(self, *, skipped: int, presses: int, replaced: int) -> LiveReport:
        """The figures so far, with the counts that others keep."""
        with self._lock:
            seconds = self._seconds_before + self._seconds
            ticked = self._frames - self._stepped
            return LiveReport(
                frames=self._frames,
                late=self._late,
                skipped=skipped,
                stepped=self._stepped,
                seconds=round(seconds, 3),
                frames_per_second=round(ticked / seconds, 3) if seconds else 0.0,
                presses=presses,
                replaced=replaced,
                key_to_frame_ms=Percentiles.of(self._key_to_frame),
                frame_cost_ms=Percentiles.of(self._cost),
                jitter_ms=Percentiles.of(self._jitter),
            )
