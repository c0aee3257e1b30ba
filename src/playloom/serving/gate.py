"""How many requests dream at once and how many wait; one too many is told so at once, with when to come again."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playloom.serving.refusals import Refusal, busy

_WEIGHT = 0.2  # of the newest request in the running mean of how long one takes


class Gate:
    """First come, first served. Used from one event loop."""

    def __init__(self, slots: int, queue: int) -> None:
        self.slots, self.queue = slots, queue
        self.running = self.waiting = 0
        self.draining = False
        """Whether the server is stopping and takes no new work."""
        self._free = asyncio.Semaphore(slots)
        self._seconds = 1.0

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Have a turn, after those who came before.

        Raises:
            Refusal: 503 at once, when as many wait as may, or the server is stopping.
        """
        self.check_open()
        if self._free.locked() and self.waiting >= self.queue:
            raise busy(f"{self.waiting} requests are waiting already; try again in a while", self.seconds_until_free)
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        began = time.monotonic()
        try:
            yield
        finally:
            self.running -= 1
            self._seconds += _WEIGHT * (time.monotonic() - began - self._seconds)
            self._free.release()

    def check_open(self) -> None:
        """Refuse new work while the server is stopping.

        Raises:
            Refusal: 503.
        """
        if self.draining:
            raise _stopping()

    @property
    def seconds_until_free(self) -> int:
        """A guess at when another request has a chance."""
        return min(60, math.ceil(self._seconds * max(1, self.waiting) / self.slots))


def _stopping() -> Refusal:
    return busy("the server is stopping and takes no new work; try again in a while", 10)
