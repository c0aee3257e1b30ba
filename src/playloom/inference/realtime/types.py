"""What a live session drives, and its controller. The engine meets both protocols; so does a batcher before it.

One frame of a live session, as it is handed to whoever shows it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError, did_you_mean
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt, StepResult

Controller = Literal["person", "model", "both"]
"""`person`: what is held is played, rest included. `model`: its own input is dreamed. `both`: the person plays for as
long as something is pressed, else the model."""


class SteppableSession(Protocol):
    """A dream that goes on step by step: the engine's session, or what stands between it and many users."""

    sampling: Sampling
    """How tokens are drawn from the next step on."""

    def step(self, action_A: NDArray[np.uint8] | None = None) -> StepResult:
        """One step with that action, values uint8 [16], or with a dreamed one; its `frame_HWC` is never None here."""

    def close(self) -> None:
        """Give back what it holds."""


class SessionFactory(Protocol):
    """Opens dreams: a `Engine`, or what stands before one."""

    def open(self, prompt: Prompt, *, sampling: Sampling | None = None, seed: int = 0) -> SteppableSession:
        """A dream that has seen the prompt and is ready to step."""


def check_controller(controller: str) -> Controller:
    """The same, known to be one of `Controller`.

    Raises:
        BadInputError: when it is none of them.
    """
    choices: tuple[Controller, ...] = get_args(Controller)
    for known in choices:
        if controller == known:
            return known
    raise BadInputError(f"unknown controller {controller!r}; {did_you_mean(str(controller), choices)}")


@dataclass(frozen=True, kw_only=True, eq=False)
class LiveFrame:
    """A dreamed frame with what a player needs to know of it. Unmarked: whoever shows or writes it marks a copy."""

    sequence: int
    """Frames of this session before this one; goes on over a reset."""
    dream: int
    """How often the session had been reset when it was made, so that a frame of the old dream is known as such."""
    time: float
    """When it was in hand, in seconds since the session was made."""
    frame_HWC: NDArray[np.uint8]
    """RGB, uint8 [H, W, 3]."""
    codes_N: NDArray[np.int64] | None = None
    """Its codes, int64 [N], where they are known: go on from these, not from the picture."""
    action_A: NDArray[np.uint8]
    """The action that led to it, values uint8 [16]."""
    action_given: bool
    """Whether a person gave that action; else the model dreamed it."""
    cost: float
    """Seconds that dreaming it took."""
    late_by: float
    """Seconds by which it came after the next tick was due; 0 for one in time, or stepped by hand."""
    skipped: int
    """Ticks missed right before it: the frame before was seen so many ticks longer."""
    key_to_frame: float | None
    """Seconds since the press that it is the first to show; None where it shows no new press."""

    @property
    def late(self) -> bool:
        """Whether the next tick was due before it was in hand."""
        return self.late_by > 0
