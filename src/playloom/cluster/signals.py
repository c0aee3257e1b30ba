"""How the command is told to end: the first signal begins the end, the next is it. Before it serves, the first is."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType


class Ending:
    """What signals leave behind; lives in the main thread."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        """Set by the first signal once `serving`."""
        self.serving = False
        """Whether there is something to end in good order."""

    def listen(self) -> None:
        """Take the signals, and take them back from whoever took them meanwhile."""
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._hear)

    def no_later_than(self, seconds: float) -> None:
        """Whatever hangs then, the process ends."""
        last = threading.Timer(seconds, os._exit, (1,))
        last.daemon = True
        last.start()

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if not self.serving or self.asked.is_set():
            raise SystemExit(0)
        self.asked.set()
