"""Queue of tasks for one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from typing import Any

OnError = Callable[[Exception], None]


class TaskQueue:
    """A queue of tasks that one thread runs."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[tuple[Callable[[], None], OnError] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._closed = False

    def add(self, task: Callable[[], None], on_error: OnError) -> bool:
        """Add a task; returns False when the queue is closed."""
        with self._lock:
            if not self._closed:
                self._items.put((task, on_error))
            return not self._closed

    def close(self) -> None:
        """Accept no more tasks; queued ones still run."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._items.put(None)

    def run(self, timeout: float | None) -> bool:
        """Run all queued tasks in the calling thread; returns False once the queue is closed and empty.

        Waits `timeout` seconds for the first task; None: until it comes.
        """
        with suppress(queue.Empty):
            while (item := self._items.get(timeout=timeout)) is not None:
                timeout, (task, on_error) = 0.0, item
                try:
                    task()
                except Exception as error:  # report to the caller
                    on_error(error)
            self._items.put(None)  # for the next call
            return False
        return True

    def reject_all(self, error: Exception) -> None:
        """Close the queue and fail all queued tasks."""
        self.close()
        while (item := self._items.get()) is not None:
            item[1](error)


def fail(future: Future[Any], error: Exception) -> None:
    """Set an exception, unless the future is cancelled or done."""
    with suppress(InvalidStateError):
        future.set_exception(error)
