"""Action spaces: the whole controller, or a table of held inputs.

>>> mapper = make_action_mapper(["rest", "forward", "turn_left=0.625"])
>>> mapper.space
Discrete(3)
>>> mapper.state(1)[1]  # the left stick's y
np.float32(1.0)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import decode_values, encode_vector
from playloom.actions.controller import CONTROLS, ControllerState
from playloom.actions.script import action_values
from playloom.errors import ActionError, ConfigError

Actions: TypeAlias = Mapping[str, ControllerState] | Sequence[str] | None
"""A table of held inputs: names and states, or action scripts; None: the whole controller."""

_PRESSED = np.array([control.kind != "axis" for control in CONTROLS])


class ActionMapper(ABC):
    """Mapping from an agent's actions to the controller."""

    space: gym.Space[Any]
    """Action space of one agent: Box(-1, 1, (16,)), or Discrete(K) for a table."""

    @abstractmethod
    def values(self, actions: ArrayLike) -> NDArray[np.uint8]:
        """Return action values uint8 [..., 16]; raises an ActionError for an action outside the space."""

    def state(self, action: ArrayLike) -> NDArray[np.float32]:
        """Return controller states float32 [..., 16] in the order of `CONTROLS`, as `ArenaEnv` takes them."""
        return decode_values(self.values(action))


class Controller(ActionMapper):
    """Every control at once: float32 [16] in [-1, 1], +y forward and up.

    Sticks are rounded to eleven positions; any other control is pressed from 0.5.
    """

    def __init__(self) -> None:
        self.space = gym.spaces.Box(-1.0, 1.0, (len(CONTROLS),), np.float32)

    def values(self, actions: ArrayLike) -> NDArray[np.uint8]:
        """See `ActionMapper.values`; float [..., 16]."""
        try:
            state = np.array(actions, np.float32)
        except (TypeError, ValueError) as error:
            raise ActionError(f"the action is {actions!r:.60}: expected {len(CONTROLS)} numbers in -1 to 1") from error
        # encode_vector refuses other shapes, and sticks out of range.
        if state.shape[-1:] == (len(CONTROLS),) and not (np.abs(state[..., _PRESSED]) <= 1).all():  # NaN included
            raise ActionError(f"the action is {actions!r:.60}: expected {len(CONTROLS)} numbers in -1 to 1")
        return encode_vector(state)


class DiscreteActions(ActionMapper):
    """Held inputs by number, in the given order."""

    def __init__(self, actions: Mapping[str, ControllerState] | Sequence[str]) -> None:
        if not isinstance(actions, Mapping | Sequence) or isinstance(actions, str):
            raise ConfigError(f"actions is {actions!r:.60}: expected a list, as ['rest', 'forward', 'turn_left']")
        if not len(actions):
            raise ConfigError("actions is empty: expected at least one, as ['rest', 'forward']")
        self.names: tuple[str, ...] = tuple(map(str, actions))
        """Name of each number."""
        held = actions.values() if isinstance(actions, Mapping) else actions
        self._values_KA = np.stack([action_values(one) for one in held])
        self.space = gym.spaces.Discrete(len(self.names))

    def values(self, actions: ArrayLike) -> NDArray[np.uint8]:
        """See `ActionMapper.values`; whole numbers [...]."""
        try:
            numbers = np.asarray(actions)
        except ValueError:  # lists of different lengths
            numbers = np.asarray(actions, object)
        last = len(self.names) - 1
        if not np.issubdtype(numbers.dtype, np.integer) or ((numbers < 0) | (numbers > last)).any():
            raise ActionError(f"the action is {actions!r:.60}: expected 0 to {last} ({', '.join(self.names)})")
        return self._values_KA[numbers]


def make_action_mapper(actions: Actions) -> ActionMapper:
    """Return a mapper of the whole controller, or of a table; see `Actions`."""
    return Controller() if actions is None else DiscreteActions(actions)
