"""When to ask again: which answers pass by themselves, and how long to wait for it.

Owns the waiting times. Knows nothing of connections; the one who sleeps is the caller.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

from playloom.errors import BadInputError

PASSING = frozenset({408, 425, 429})
"""Refusals that pass by themselves; so do all from 500 on."""


@dataclass(frozen=True, kw_only=True)
class Retries:
    """How often and how patiently one request is sent again."""

    times: int = 4
    """How often again after the first time, 0 or more."""
    first_wait: float = 0.5
    """Seconds before the first repetition; doubled each time."""
    longest_wait: float = 30.0
    """Seconds beyond which the doubling stops."""
    longest_asked: float = 300.0
    """Seconds an endpoint may ask us to wait; one that asks for more is taken at its word, and given up."""

    def __post_init__(self) -> None:
        if self.times < 0:
            raise BadInputError(f"retries is {self.times}; expected 0 or more")

    def wait(self, failures: int, asked: float | None, source: random.Random) -> float:
        """Seconds to wait after so many failures (from 1).

        Half of the doubled time is drawn, so that clients that failed together do not come back together.
        What the endpoint asked for is never undercut.
        """
        doubled = min(self.longest_wait, self.first_wait * 2 ** min(failures - 1, 30))
        drawn = doubled * source.uniform(0.5, 1)
        return drawn if asked is None else max(asked + doubled * source.uniform(0, 0.1), drawn)


def passes(status: int) -> bool:
    """Whether a refusal with this status may pass by itself."""
    return status in PASSING or 500 <= status < 600


def asked_wait(header: str | None, now: datetime | None = None) -> float | None:
    """The seconds a `Retry-After` header asks for: a number, or a date from now; None when it says neither."""
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            moment = parsedate_to_datetime(header)
        except ValueError:
            return None
        moment = moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)
        seconds = (moment - (now or datetime.now(timezone.utc))).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None
