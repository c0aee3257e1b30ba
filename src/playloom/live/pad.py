"""What a player holds now, and since when it waits to be seen. Owns one rule: the newest input wins.

Presses never queue: one that is replaced before a frame was made of it is gone, and counted. Any thread may press.
"""

from __future__ import annotations

import threading
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions import REST_VALUES
from playloom.actions.codec import check_values
from playloom.errors import ActionError


class Press(NamedTuple):
    """What is held when a frame is made."""

    action_A: NDArray[np.uint8]
    """Action values [16]."""
    at: float | None
    """When it was pressed, if no frame has been made of it yet; None for what goes on being held."""

    @property
    def resting(self) -> bool:
        """Whether nothing is pressed."""
        return bool((self.action_A == REST_VALUES).all())


class Pad:
    """The held input of one player."""

    def __init__(self) -> None:
        self.presses = 0
        """How often something was pressed (or let go)."""
        self.replaced = 0
        """Presses of which no frame was made, because a newer one came first."""
        self._held = Press(REST_VALUES.copy(), None)
        self._lock = threading.Lock()

    def press(self, action_A: ArrayLike, at: float) -> None:
        """Hold this from now on; rest lets go.

        A press that repeats the one still waiting for its frame keeps that one's time, so that a controller sent
        sixty times a second does not look quicker than it is.

        Args:
            action_A: action values, integers [16] in slot order.
            at: when the key went down, on the time source of whoever makes the frames.

        Raises:
            ActionError: when these are not sixteen values, each in its range.
        """
        values_A = check_values(action_A)
        if values_A.ndim != 1:
            raise ActionError(f"one action is pressed at a time, 16 numbers; got an array of shape {values_A.shape}")
        with self._lock:
            waiting = self._held.at is not None
            if waiting and bool((self._held.action_A == values_A).all()):
                return
            self.presses += 1
            self.replaced += waiting
            self._held = Press(values_A, at)

    def take(self) -> Press:
        """What is held, for the frame that is made now; it goes on being held, but waits no more."""
        with self._lock:
            held = self._held
            self._held = held._replace(at=None)
            return held

    def stop_waiting(self) -> None:
        """Forget since when the newest press waits (the time was not the frames' to use); it stays held."""
        with self._lock:
            self._held = self._held._replace(at=None)
