"""Whether play is halted, and how many single steps were asked for meanwhile. Any thread may ask and tell."""

from __future__ import annotations

import threading

from playloom.errors import BadInputError

_POLL = 0.05  # seconds after which a waiting loop looks around again


class Pause:
    """The pause button and the step button beside it."""

    def __init__(self) -> None:
        self._on, self._owed = False, 0
        self._changed = threading.Condition()

    @property
    def on(self) -> bool:
        """Whether play is halted."""
        return self._on

    def halt(self) -> None:
        """Press pause; twice is once."""
        with self._changed:
            self._on = True

    def release(self) -> bool:
        """Let go of pause, forgetting steps not made yet; whether it was on."""
        with self._changed:
            was_on, self._on, self._owed = self._on, False, 0
            self._changed.notify_all()
            return was_on

    def ask_step(self) -> None:
        """Ask for one step.

        Raises:
            BadInputError: when play is not halted.
        """
        with self._changed:
            if not self._on:
                raise BadInputError("only a paused session can be stepped; pause it first")
            self._owed += 1
            self._changed.notify_all()

    def take_step(self) -> bool:
        """Wait a moment for a step to be asked for, or the release; whether a step is to be made now."""
        with self._changed:
            if self._on and not self._owed:
                self._changed.wait(_POLL)
            wanted = self._on and self._owed > 0
            self._owed -= wanted
            return wanted
