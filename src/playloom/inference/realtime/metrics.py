"""Statistics of a live session: counts over its whole life, percentiles over its newest frames."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np

from playloom.inference.realtime.clock import Tick
from playloom.inference.realtime.types import LiveFrame

HISTORY = 6000
"""Frames that percentiles are taken over: ten minutes at 10 frames per second."""


def percentiles(seconds: Iterable[float]) -> dict[str, float | None]:
    """Return the count of durations and their percentiles in milliseconds; None where nothing was measured."""
    values = 1000 * np.fromiter(seconds, np.float64)
    p50, p95, p99 = np.percentile(values, (50, 95, 99)).round(3).tolist() if len(values) else (None, None, None)
    return {"count": len(values), "p50": p50, "p95": p95, "p99": p99}


class Statistics:
    """Counts every frame and keeps the last durations; any thread may call `report`."""

    def __init__(self) -> None:
        self._key_to_frame: deque[float] = deque(maxlen=HISTORY)
        self._latency: deque[float] = deque(maxlen=HISTORY)
        self._jitter: deque[float] = deque(maxlen=HISTORY)
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
            self._latency.append(frame.latency)
            self._jitter.append(began - tick.due)
            if frame.key_to_frame is not None:
                self._key_to_frame.append(frame.key_to_frame)

    def report(self, *, skipped: int, inputs: int, dropped_inputs: int) -> dict[str, Any]:
        """Return the statistics, with the counts of the clock and the input; `docs/play.md` explains each."""
        with self._lock:
            seconds = self._seconds_before + self._seconds
            ticked = self._frames - self._stepped
            return {
                "frames": self._frames,
                "late": self.late,
                "skipped": skipped,
                "stepped": self._stepped,
                "seconds": round(seconds, 3),
                "frames_per_second": round(ticked / seconds, 3) if seconds else 0.0,
                "inputs": inputs,
                "dropped_inputs": dropped_inputs,
                "key_to_frame_ms": percentiles(self._key_to_frame),
                "frame_latency_ms": percentiles(self._latency),
                "jitter_ms": percentiles(self._jitter),
            }
