"""Actions of Gymnasium environments as the sixteen controls: names of their parts, and ready mappings.

The parts of an action are the sources of a mapping, see `playloom.data.importing.mapping`:

* `Box` and `MultiBinary`: `action_I` is number I of the flattened action;
* `Discrete`: `action_K` is 1 when the action is K; the words of `get_action_meanings`, such as `up`, are sources too;
* `MultiDiscrete`: `action_I_K` is 1 when number I is K.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.mapping import ControlMapping, control_name, read_mapping
from playloom.errors import ConfigError, did_you_mean

Weights = Mapping[str, Mapping[str, float]]
"""Weight of each source, by control and source."""
READY: Mapping[str, Weights] = {
    "CarRacing Box": {"left_stick_x": {"action_0": 1}, "trigger_RT": {"action_1": 1}, "trigger_LT": {"action_2": 1}},
    "CarRacing Discrete": {
        "left_stick_x": {"action_1": 1, "action_2": -1},
        "trigger_RT": {"action_3": 1},
        "trigger_LT": {"action_4": 1},
    },
    "LunarLander Discrete": {
        "dpad_left": {"action_1": 1},
        "dpad_up": {"action_2": 1},
        "dpad_right": {"action_3": 1},
    },
    "MountainCar Discrete": {"dpad_left": {"action_0": 1}, "dpad_right": {"action_2": 1}},
    "Acrobot Discrete": {"dpad_left": {"action_0": 1}, "dpad_right": {"action_2": 1}},
}
"""Weights by name of the environment (without namespace and version) and class of its action space."""
_WORDS = {"up": "dpad_up", "down": "dpad_down", "left": "dpad_left", "right": "dpad_right", "fire": "button_A"}
_STICKS = ("left_stick_x", "left_stick_y", "right_stick_x", "right_stick_y")
_TRIGGERS = ("trigger_RT", "trigger_LT")
_DPAD = ("dpad_left", "dpad_right", "dpad_up", "dpad_down")
_BUTTONS = ("button_A", "button_B", "button_X", "button_Y", "skill_1", "skill_2")
_PRESSES = (*product((*_DPAD, *_BUTTONS, *_TRIGGERS), (1.0,)), *product(_STICKS, (1.0, -1.0)))


@dataclass(frozen=True)
class ActionEncoder:
    """Encoder of the actions of one environment."""

    kind: str
    """Class of the action space."""
    sources: tuple[tuple[str, ...], ...]
    """Sources of each number of a flattened action, or of each value of a discrete one."""
    mapping: ControlMapping

    def encode(self, actions: Sequence[Any]) -> NDArray[np.uint8]:
        """Encode actions [T] of the environment as action values uint8 [T, 16]."""
        columns = {name: column for column, name in enumerate(self.mapping.sources)}
        input_TC = np.zeros((len(actions), len(columns)), np.float32)
        for step, action in enumerate(actions):
            for name, value in self._parts(action):
                if name in columns:
                    input_TC[step, columns[name]] = value
        return self.mapping.apply(input_TC)

    def _parts(self, action: Any) -> Iterator[tuple[str, float]]:
        numbers = np.asarray(action).reshape(-1).tolist()
        if self.kind == "Discrete":
            yield from ((name, 1.0) for name in self.sources[numbers[0]])
        elif self.kind == "MultiDiscrete":
            yield from ((f"action_{index}_{value}", 1.0) for index, value in enumerate(numbers))
        else:
            yield from ((f"action_{index}", float(value)) for index, value in enumerate(numbers))

    def note(self) -> str:
        """Return the mapping as a sentence."""
        parts = [
            f"{control} = {' + '.join(f'{weight:.3g} {source}' for source, weight in weights.items())}"
            for control, weights in self.mapping.weights.items()
        ]
        pressed = " (triggers are recorded as pressed from 0.5)" if self.kind == "Box" else ""
        return f"actions: {', '.join(parts)}{pressed}"


def action_encoder(name: str, env: Any, path: str | None) -> ActionEncoder:
    """Return the encoder of an environment's actions, by its ID and with the mapping in a TOML file or a ready one.

    ConfigError when the space or the mapping cannot be used.
    """
    kind, space = type(env.action_space).__name__, env.action_space
    if kind == "Discrete":
        if space.start != 0:
            raise ConfigError(
                f"the actions of {name} start at {space.start}; expected a Discrete space that starts at 0"
            )
        meanings = getattr(env.unwrapped, "get_action_meanings", lambda: [""] * int(space.n))()
        sources = tuple((f"action_{number}", *_words(meaning)) for number, meaning in enumerate(meanings))
    elif kind == "MultiDiscrete":
        sources = tuple(
            tuple(f"action_{number}_{value}" for value in range(count)) for number, count in enumerate(space.nvec.flat)
        )
    elif kind in ("Box", "MultiBinary"):
        sources = tuple((f"action_{number}",) for number in range(int(np.prod(space.shape))))
    else:
        raise ConfigError(
            f"the actions of {name} are a {kind} space; expected Discrete, MultiDiscrete, MultiBinary or Box"
        )
    if path is None:
        bare = name.split(":")[-1].split("/")[-1].rsplit("-v", 1)[0]
        mapping = ControlMapping(weights=READY.get(f"{bare} {kind}") or _default(name, kind, space, sources))
    else:
        mapping = read_mapping([path])
    known = {source for group in sources for source in group}
    for source in (source for weights in mapping.weights.values() for source in weights):
        if source not in known:
            raise ConfigError(f"the mapping has a source {source!r} that {name} lacks; {did_you_mean(source, known)}")
    return ActionEncoder(kind, sources, mapping)


def _words(meaning: str) -> list[str]:
    """Sources of a meaning: UPRIGHTFIRE has three, NOOP none, "turn left" one."""
    name = control_name(str(meaning))
    if re.fullmatch(f"({'|'.join(_WORDS)}|noop)+", name):
        return re.findall("|".join(_WORDS), name)
    return [name] if name else []


def _default(name: str, kind: str, space: Any, sources: Sequence[Sequence[str]]) -> Weights:
    """Weights by the kind of space: presses for values, sticks and triggers for numbers."""
    weights: dict[str, dict[str, float]] = {}
    if kind == "Box":
        sticks, triggers = iter(_STICKS), iter(_TRIGGERS)
        for (source,), low, high in zip(sources, space.low.flat, space.high.flat, strict=True):
            largest = float(max(abs(low), abs(high)))
            control = next(triggers, None) if low >= 0 else None
            control = control or next(sticks, None) or _too_many(name, len(sources))
            weights[control] = {source: 1 / largest if np.isfinite(largest) and largest > 0 else 1.0}
        return weights
    words = {word for group in sources for word in group[1:]}
    if kind == "Discrete" and words and words <= set(_WORDS):
        return {_WORDS[word]: {word: 1.0} for word in _WORDS if word in words}
    values = [group[0] for group in sources]
    if kind == "MultiDiscrete":  # value 0 of each number is rest
        values = [source for group in sources for source in group[1:]]
    if len(values) > len(_PRESSES):
        _too_many(name, len(values))
    for source, (control, weight) in zip(values, _PRESSES, strict=False):
        weights.setdefault(control, {})[source] = weight
    return weights


def _too_many(name: str, count: int) -> str:
    raise ConfigError(
        f"{name} has more actions than the controller has controls: got {count}; give a mapping, --actions"
    )
