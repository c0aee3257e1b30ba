"""How many requests dream at once and how many wait; one too many is told so at once, with when to come again."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from playloom.serving.refusals import Refusal, busy

_T = TypeVar("_T")
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
        self._tasks: set[asyncio.Future[Any]] = set()
        self._ended = False

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

    async def within(self, work: Coroutine[Any, Any, _T], seconds: float) -> _T:
        """What some work gives, if that does not take too long.

        Raises:
            Refusal: 504 when it takes longer, 503 when `end` comes first.
        """
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        try:
            return await asyncio.wait_for(task, seconds)
        except asyncio.TimeoutError:
            raise Refusal(504, f"this took longer than {seconds:g} seconds; ask for fewer steps at once") from None
        except asyncio.CancelledError:
            if not self._ended:
                raise
            raise busy("the server stopped before this was done; try again in a while", 10) from None
        finally:
            self._tasks.discard(task)

    def end(self) -> None:
        """Give up what runs; whoever waits for it is told."""
        self.draining = self._ended = True
        for task in self._tasks:
            task.cancel()

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
