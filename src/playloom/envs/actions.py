"""Action spaces: the whole controller, or a table of held inputs.

>>> mapper = make_action_mapper(["rest", "forward", "turn_left=0.625"])
>>> mapper.space
Discrete(3)
>>> mapper.state(1)[1]  # the left stick's y
np.float32(1.0)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import decode_values, encode_named
from playloom.actions.controller import CONTROLS, ControllerState
from playloom.actions.script import parse_script
from playloom.errors import ActionError, ConfigError

Actions: TypeAlias = Mapping[str, ControllerState] | Sequence[str] | None
"""A table of held inputs: names and states, or words of an action script; None: the whole controller."""

_PRESSED = np.array([control.kind != "axis" for control in CONTROLS])


class ActionMapper(Protocol):
    """Mapping from an agent's actions to the controller."""

    @property
    def space(self) -> gym.Space[Any]:
        """Return a new action space of one agent."""

    def values(self, actions: ArrayLike) -> NDArray[np.uint8]:
        """Return action values uint8 [..., 16]; leading dimensions are the caller's.

        Raises:
            ActionError: when one is outside the space.
        """

    def state(self, action: ArrayLike) -> NDArray[np.float32]:
        """Return controller states float32 [..., 16] in the order of `CONTROLS`, as `ArenaEnv` takes them."""


class Controller:
    """Every control at once: float32 [16] in [-1, 1], +y forward and up.

    Sticks fall into their eleven positions, everything else is pressed from 0.5.
    """

    @property
    def space(self) -> gym.Space[Any]:
        """Box(-1, 1, (16,))."""
        return gym.spaces.Box(-1.0, 1.0, (len(CONTROLS),), np.float32)

    def values(self, actions: ArrayLike) -> NDArray[np.uint8]:
        """See `ActionMapper.values`; float [..., 16]."""
        try:
            state = np.array(actions, np.float32)
        except (TypeError, ValueError) as error:
            raise ActionError(f"an action is {len(CONTROLS)} numbers in -1 to 1; got {actions!r}") from error
        if state.shape[-1:] == (len(CONTROLS),):  # another shape is refused below
            state[..., _PRESSED] = state[..., _PRESSED] >= 0.5
        return encode_named(state)

    def state(self, action: ArrayLike) -> NDArray[np.float32]:
        """See `ActionMapper.state`."""
        return decode_values(self.values(action))


class DiscreteActions:
    """Held inputs by number, in the given order.

    Raises:
        ConfigError: when there is none, or it is no table of words or states.
        ActionError: when a word is not understood, or lasts longer than a step.
    """

    def __init__(self, actions: Mapping[str, ControllerState] | Sequence[str]) -> None:
        if not isinstance(actions, Mapping | Sequence) or isinstance(actions, str):
            raise ConfigError(f"actions is {actions!r}; expected a list, as ['rest', 'forward', 'turn_left']")
        if not len(actions):
            raise ConfigError("the table of actions is empty; name at least one, as ['rest', 'forward']")
        self.names: tuple[str, ...] = tuple(actions)
        """What each number holds."""
        rows = map(_of_state, actions.values()) if isinstance(actions, Mapping) else map(_of_words, actions)
        self._values_KA = np.stack(list(rows))

    @property
    def space(self) -> gym.Space[Any]:
        """Discrete(K)."""
        return gym.spaces.Discrete(len(self.names))

    def values(self, actions: ArrayLike) -> NDArray[np.uint8]:
        """See `ActionMapper.values`; whole numbers [...]."""
        numbers = np.asarray(actions)
        last = len(self.names) - 1
        if not np.issubdtype(numbers.dtype, np.integer) or ((numbers < 0) | (numbers > last)).any():
            raise ActionError(f"an action is a whole number 0 to {last} ({', '.join(self.names)}); got {actions!r}")
        return self._values_KA[numbers]

    def state(self, action: ArrayLike) -> NDArray[np.float32]:
        """See `ActionMapper.state`."""
        return decode_values(self.values(action))


def make_action_mapper(actions: Actions) -> ActionMapper:
    """Return a mapper of the whole controller, or of a table; see `Actions`."""
    return Controller() if actions is None else DiscreteActions(actions)


def _of_state(state: ControllerState) -> NDArray[np.uint8]:
    if not isinstance(state, ControllerState):
        raise ConfigError(f"a table with names holds a ControllerState for each; got {state!r}: give words as a list")
    return encode_named([getattr(state, control.name) for control in CONTROLS])


def _of_words(words: str) -> NDArray[np.uint8]:
    if not isinstance(words, str):
        raise ConfigError(f"a list of actions holds words, as 'forward'; got {words!r}: give states by name")
    held_SA = parse_script(words).values_SA
    if len(held_SA) != 1:
        raise ActionError(f"{words!r} lasts {len(held_SA)} steps; an agent chooses anew every step: name what is held")
    return held_SA[0]
