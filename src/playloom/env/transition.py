"""What happened in one step, and what the user makes of it: reward, and whether the episode is over.

A world model knows pictures and inputs; it knows no reward, and none is made up here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from playloom.errors import ConfigError


@dataclass(frozen=True, kw_only=True, eq=False)
class Transition:
    """One step of a dream. Its arrays cannot be written to: copy what is to be changed."""

    before_HWC: NDArray[np.uint8]
    """The frame that the agent saw, uint8 [H, W, 3], RGB, unmarked."""
    action_A: NDArray[np.uint8]
    """The action taken, values uint8 [16] in slot order; `playloom.actions.decode_values` gives the controls."""
    after_HWC: NDArray[np.uint8]
    """The frame that followed, uint8 [H, W, 3]."""
    step: int
    """Number of the step in its episode, from 0."""


Reward: TypeAlias = Callable[[Transition], float]
Ended: TypeAlias = Callable[[Transition], bool]


@dataclass(frozen=True, kw_only=True)
class Task:
    """What makes a dream an episode.

    Raises:
        ConfigError: when an episode would have no step, or a function is none.
    """

    reward: Reward | None = None
    """Of a step; None: 0."""
    ended: Ended | None = None
    """Whether the episode has come to its end; None: never."""
    max_steps: int | None = 600
    """Steps after which an episode is cut off; None: it goes on for as long as it is stepped."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and not (isinstance(self.max_steps, int | np.integer) and self.max_steps >= 1):
            raise ConfigError(f"max_steps is {self.max_steps!r}; expected a whole number from 1, or None for no end")
        for name, function in (("reward", self.reward), ("ended", self.ended)):
            if function is not None and not callable(function):
                raise ConfigError(f"{name} is {function!r}; expected a function of a Transition, or None")

    def truncates(self, steps: int) -> bool:
        """Whether an episode of so many steps is cut off."""
        return self.max_steps is not None and steps >= self.max_steps

    def judge(self, transition: Transition) -> tuple[float, bool]:
        """Reward, and whether the episode ended. What the user's functions raise comes through."""
        reward = 0.0 if self.reward is None else float(self.reward(transition))
        return reward, self.ended is not None and bool(self.ended(transition))
