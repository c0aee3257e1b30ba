"""Ticks at a fixed rate from a fixed start. Owns when a tick is due and what happens to one that was missed.

    clock = Clock(fps=10)
    while (tick := clock.wait()):
        ...

Tick n is due at start + n / fps, computed anew each time, so neither rounding nor a late tick moves a later one.
When work took so long that several ticks are due, the newest of them happens at once and the older ones are skipped
and counted: there is never a queue to catch up with. Used by one thread at a time.

Where time comes from: the machine's monotonic clock, or one that a program moves by hand.

Everything live takes its time from here, so that the same code runs against the wall and, exactly repeatable, in
no time at all.
"""

from __future__ import annotations

import math
import threading
import time
from dataclasses import dataclass
from typing import Protocol

from playloom.errors import BadInputError


class TimeSource(Protocol):
    """A clock that never goes back, and a way to wait on it."""

    def now(self) -> float:
        """Seconds since some fixed moment."""

    def sleep_until(self, when: float) -> None:
        """Return as soon as `now()` is `when` or more; at once if it is already."""


class RealTime:
    """The machine's monotonic clock."""

    def now(self) -> float:
        """Seconds since some fixed moment; setting the machine's date does not move it."""
        return time.perf_counter()

    def sleep_until(self, when: float) -> None:
        """Sleep; never returns early."""
        while (left := when - self.now()) > 0:
            time.sleep(left)


class VirtualTime:
    """Time that passes only when somebody sleeps: for rehearsals, tests and play that need not be in real time.

    >>> virtual = VirtualTime()
    >>> virtual.sleep_until(3600.0)
    >>> virtual.now()
    3600.0
    """

    def __init__(self, now: float = 0.0) -> None:
        self._now = now
        self._lock = threading.Lock()

    def now(self) -> float:
        """Seconds slept so far, over where it began."""
        with self._lock:
            return self._now

    def sleep_until(self, when: float) -> None:
        """Be there at once, exactly; sleeping until a moment that has passed changes nothing."""
        with self._lock:
            self._now = max(self._now, when)

    def spend(self, seconds: float) -> None:
        """Let time pass, as work does that takes so long."""
        with self._lock:
            self._now += seconds


@dataclass(frozen=True, kw_only=True)
class Tick:
    """One tick that happened."""

    number: int
    """Ticks due before it since the clock was made, skipped ones included."""
    due: float
    """When it should have happened, on the clock's time source."""
    next_due: float
    """When the tick after it is due."""
    skipped: int
    """Ticks that were missed right before it."""


class Clock:
    """A clock of a fixed rate that neither drifts nor queues."""

    def __init__(self, fps: float = 10.0, time: TimeSource | None = None) -> None:
        """A clock; its first tick is due when `wait` is first called, or when `restart` says.

        Args:
            fps: ticks a second.
            time: where time comes from; None: the machine's monotonic clock.

        Raises:
            BadInputError: when the rate is not above 0.
        """
        if not (math.isfinite(fps) and fps > 0):
            raise BadInputError(f"the clock's rate is {fps:g} Hz; expected more than 0, for example 10")
        self.fps = fps
        self.time: TimeSource = time or RealTime()
        self.passed = 0
        """Ticks that happened or were skipped; the number of the next one."""
        self.skipped = 0
        """Ticks that were missed, ever."""
        self._start: float | None = None
        self._first = 0

    def restart(self, at: float | None = None) -> None:
        """Go on with the next tick at a new start: nothing between the last tick and then was missed.

        Args:
            at: when the next tick is due; None: now.
        """
        self._start = self.time.now() if at is None else at
        self._first = self.passed

    def due(self, number: int) -> float:
        """When a tick is due: start + n / fps."""
        assert self._start is not None, "the clock has not been started"
        return self._start + (number - self._first) / self.fps

    def wait(self, limit: int | None = None) -> Tick | None:
        """The next tick, as soon as it is due; the newest one if several are.

        Args:
            limit: the number of the first tick that is not wanted any more.

        Returns:
            The tick; None when all ticks below `limit` have passed. Those among them that were missed are counted.
        """
        if self._start is None:
            self.restart()
        number = self._newest_due()
        if limit is not None and number >= limit:
            self.skipped += max(0, limit - self.passed)
            self.passed = max(self.passed, limit)
            return None
        missed = number - self.passed
        self.time.sleep_until(self.due(number))
        self.skipped += missed
        self.passed = number + 1
        return Tick(number=number, due=self.due(number), next_due=self.due(number + 1), skipped=missed)

    def rewind(self, tick: Tick) -> None:
        """Nothing was made of the newest tick, and nothing missed: the next one takes its number."""
        self.passed = tick.number

    def _newest_due(self) -> int:
        """The newest tick that is due, or the next one if none is."""
        now, number = self.time.now(), self.passed
        number = max(number, number + math.floor((now - self.due(number)) * self.fps))
        # The product above is rounded; `due` decides.
        while self.due(number + 1) <= now:
            number += 1
        while number > self.passed and self.due(number) > now:
            number -= 1
        return number
