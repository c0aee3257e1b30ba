"""Work that other threads leave for one thread; closing it lets in no more and loses none."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

Work = Callable[[], None]
"""Something to do in the owning thread."""
Refuse = Callable[[Exception], None]
"""Told what the work raised."""


class Inbox:
    """A queue that one thread empties."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Work, Refuse] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def put(self, work: Work, refuse: Refuse) -> bool:
        """Leave work; False when the inbox is closed and it was not taken."""
        with self._lock:
            if self._closed:
                return False
            self._items.put((work, refuse))
            return True

    def close(self) -> None:
        """Take no more; what is in it is still done."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._items.put(None)

    def take(self, *, wait: bool) -> bool:
        """Do everything that lies here, in the thread that calls; False once it is closed and empty.

        Args:
            wait: for something to come, when nothing lies here.
        """
        while True:
            try:
                item = self._items.get(block=wait)
            except queue.Empty:
                return True
            if not self._do(item):
                return False
            wait = False

    def take_until(self, enough: Callable[[], bool], seconds: float) -> None:
        """Do what comes, in the thread that calls, until it is enough or the time is over or the inbox closed."""
        end = time.monotonic() + seconds
        while not enough():
            try:
                item = self._items.get(timeout=max(0.0, end - time.monotonic()))
            except queue.Empty:
                return
            if not self._do(item):
                return

    def refuse_all(self, error: Exception) -> None:
        """Take no more, and do nothing of what lies here: who left it is told why."""
        self.close()
        while (item := self._items.get()) is not None:
            item[1](error)

    def _do(self, item: tuple[Work, Refuse] | None) -> bool:
        """One thing that lay here; False where it is the end."""
        if item is None:
            self._items.put(None)  # for the next call
            return False
        work, refuse = item
        try:
            work()
        except Exception as error:  # the asker's trouble, not the owner's
            refuse(error)
        return True
