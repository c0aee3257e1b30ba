"""A lock that is given in the order of asking.

A plain lock may be taken again and again by the thread that just let go of it; a loop that is always late would
then never let anybody else in.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
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
