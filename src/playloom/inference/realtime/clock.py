"""Clock of a fixed rate, and the time sources that it runs on.

Tick n is due at start + n / fps, computed anew each time, so neither rounding nor a late tick moves a later one. When
several ticks are due, the newest happens at once; older ones are skipped and counted.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from playloom.errors import BadInputError


class RealTime:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Return seconds."""
        return time.perf_counter()

    def sleep_until(self, when: float) -> None:
        """Never return early."""
        while (left := when - self.now()) > 0:
            time.sleep(left)


class VirtualTime(RealTime):
    """Time that passes only by sleeping: for tests, and for play that need not be in real time."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        """Return seconds."""
        return self._now

    def sleep_until(self, when: float) -> None:
        """Set the time."""
        self._now = max(self._now, when)


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One tick that happened; times are those of the clock's time source."""

    number: int  # ticks due before it, skipped ones included
    due: float
    next_due: float
    skipped: int  # right before it


class Clock:
    """Clock of a fixed rate that neither drifts nor queues; `restart` starts it."""

    def __init__(self, fps: float = 10.0, time: RealTime | None = None) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise BadInputError(f"the clock's rate is {fps:g} Hz; expected more than 0, for example 10")
        self.fps = fps
        self.time = time or RealTime()
        self.passed = 0  # ticks that happened or were skipped; the number of the next one
        self.skipped = 0
        self._start: float | None = None
        self._first = 0

    def restart(self, at: float | None = None) -> None:
        """Make the next tick due at `at` (None: now); ticks before it do not count as skipped."""
        self._start = self.time.now() if at is None else at
        self._first = self.passed

    def due(self, number: int) -> float:
        """Return when a tick is due: start + n / fps."""
        assert self._start is not None, "restart comes first"
        return self._start + (number - self._first) / self.fps

    def tick(self, limit: int | None = None) -> Tick | None:
        """Take the newest tick that is due, or the next one; None when all ticks below number `limit` have passed."""
        now, number = self.time.now(), self.passed
        number = max(number, number + math.floor((now - self.due(number)) * self.fps))
        # The product above is rounded; `due` decides.
        while self.due(number + 1) <= now:
            number += 1
        while number > self.passed and self.due(number) > now:
            number -= 1
        if limit is not None and number >= limit:
            self.skipped += max(0, limit - self.passed)
            self.passed = max(self.passed, limit)
            return None
        skipped = number - self.passed
        self.skipped += skipped
        self.passed = number + 1
        return Tick(number=number, due=self.due(number), next_due=self.due(number + 1), skipped=skipped)
