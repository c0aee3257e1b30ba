"""Types of live play: the controller, and the frames of a live session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError, did_you_mean

Controller = Literal["person", "model", "both"]
"""Source of the actions. `person`: the input, rest included. `model`: sampled. `both`: the input while something is
pressed, else sampled."""


def check_controller(controller: str) -> Controller:
    """Return a valid controller, or raise a `BadInputError`."""
    if controller not in get_args(Controller):
        raise BadInputError(f"unknown controller {controller!r}; {did_you_mean(controller, get_args(Controller))}")
    return cast(Controller, controller)


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveFrame:
    """One generated frame of a live session. Not watermarked: mark a copy where it leaves the program."""

    sequence: int
    """Frames of this session before this one, over restarts."""
    restarts: int
    """Restarts of the session before it."""
    time: float
    """When it was ready, in seconds since the session was opened."""
    frame_HWC: NDArray[np.uint8]
    """RGB, uint8 [H, W, 3]."""
    codes_N: NDArray[np.int64] | None = None
    """Its codes, int64 [N], where they are known: continue from these, not from the pixels."""
    action_A: NDArray[np.uint8]
    """The action that led to it, values uint8 [16]."""
    action_given: bool
    """True when the player gave the action; False when the model sampled it."""
    latency: float
    """Seconds that generating it took."""
    late_by: float
    """Seconds between the next tick and this frame; 0 for a frame in time or a single step."""
    skipped: int
    """Ticks skipped right before it: the frame before was on the screen so many ticks longer."""
    key_to_frame: float | None
    """Seconds since the input that it is the first to show; None where it shows no new input."""

    @property
    def late(self) -> bool:
        """True when the next tick was due before it was ready."""
        return self.late_by > 0
