"""Where time comes from: the machine's monotonic clock, or one that a program moves by hand.

Everything live takes its time from here, so that the same code runs against the wall and, exactly repeatable, in
no time at all.
"""

from __future__ import annotations

import threading
import time
from typing import Protocol


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
