"""What a live session drives, and who plays. The engine meets both protocols; so does a batcher before it."""

from __future__ import annotations

from typing import Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.engine import DreamStep, Prompt, Sampling
from playloom.errors import BadInputError, nearest

Who = Literal["person", "model", "both"]
"""`person`: what is held is played, rest included. `model`: its own input is dreamed. `both`: the person plays for as
long as something is pressed, else the model."""


class Dream(Protocol):
    """A dream that goes on step by step: the engine's session, or what stands between it and many users."""

    sampling: Sampling
    """How tokens are drawn from the next step on."""

    def step(self, action_A: NDArray[np.uint8] | None = None) -> DreamStep:
        """One step with that action, values uint8 [16], or with a dreamed one; its `frame_HWC` is never None here."""

    def close(self) -> None:
        """Give back what it holds."""


class Dreams(Protocol):
    """Opens dreams: a `Dreamer`, or what stands before one."""

    def open(self, prompt: Prompt, *, sampling: Sampling | None = None, seed: int = 0) -> Dream:
        """A dream that has seen the prompt and is ready to step."""


def check_who(who: str) -> Who:
    """The same, known to be one of `Who`.

    Raises:
        BadInputError: when it is none of them.
    """
    choices: tuple[Who, ...] = get_args(Who)
    for known in choices:
        if who == known:
            return known
    raise BadInputError(f"unknown player {who!r}; {nearest(str(who), choices)}")
