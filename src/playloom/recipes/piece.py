"""The time a process has before it must stop cleanly. Knows no stages.

>>> Piece(None).left
inf
"""

from __future__ import annotations

import math
import time

from playloom.errors import ConfigError

_MARGIN = 0.03
"""Part of a piece kept for the last checkpoint and the way out."""


class PieceOver(Exception):
    """Raised inside a stage when the piece's time is over; what was done so far lies on the disk."""


class Piece:
    """A stop watch that says when to stop."""

    def __init__(self, minutes: float | None) -> None:
        """Start it now; None: no limit.

        Raises:
            ConfigError: when it is no time.
        """
        if minutes is not None and not 0 < minutes < math.inf:
            raise ConfigError(f"a piece is {minutes} minutes; expected more than 0")
        self._seconds = math.inf if minutes is None else 60 * minutes * (1 - _MARGIN)
        self._started = time.monotonic()
        self.fresh = True
        """Whether no stage has worked in this piece yet."""

    @property
    def left(self) -> float:
        """Seconds left; below 0 when it is over."""
        return self._seconds - (time.monotonic() - self._started)

    @property
    def loop_minutes(self) -> float | None:
        """What a training loop gets as `piece_minutes`.

        Raises:
            PieceOver: when nothing is left.
        """
        self.check()
        return None if math.isinf(self._seconds) else self.left / 60

    def check(self) -> None:
        """Raises PieceOver when the time is over."""
        if self.left <= 0:
            raise PieceOver

    def need(self, minutes: float) -> None:
        """Raises PieceOver when less is left than an uninterruptible stage takes; a fresh piece lets it begin."""
        if not self.fresh and self.left < 60 * minutes:
            raise PieceOver
