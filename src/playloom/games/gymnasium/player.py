"""Player of Gymnasium environments: one episode of frames, actions and outcomes, in a process of its own.

Row t of an episode has frame t, numbers of `info` that came with it, the action from then on, and what the step of that
action returned: `reward`, `terminated`, `truncated`. The last frame of an episode has a row of its own, with controls
at rest and no outcome (NaN).

The parts of an action are the sources of a mapping, see `playloom.data.importing.mapping`:

* `Box` and `MultiBinary`: `action_I` is number I of the flattened action;
* `Discrete`: `action_K` is 1 when the action is K; the words of `get_action_meanings`, such as `up`, are sources too;
* `MultiDiscrete`: `action_I_K` is 1 when number I is K.
"""

from __future__ import annotations

import contextlib
import copy
import importlib
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.actions.script import STEPS_PER_SECOND
from playloom.data.dataset import OUTCOMES
from playloom.data.importing.mapping import ControlMapping, control_name, read_mapping
from playloom.errors import ConfigError, GameError, PlayloomError, did_you_mean
from playloom.media.images import ResizeMode, fit_picture

NO_OUTCOME = (np.nan,) * len(OUTCOMES)  # outcomes of an episode's last row
_PROBE_STEPS = 5
Policy = Callable[[Any, np.random.Generator], Any]
"""Returns an action for an observation; called once a recorded step."""
Weights = Mapping[str, Mapping[str, float]]
"""Weight of each source, by control and source."""
READY: Mapping[str, Weights] = {
    "CarRacing Box": {"left_stick_x": {"action_0": 1}, "trigger_RT": {"action_1": 1}, "trigger_LT": {"action_2": 1}},
    "CarRacing Discrete": {
        "left_stick_x": {"action_1": 1, "action_2": -1},
        "trigger_RT": {"action_3": 1},
        "trigger_LT": {"action_4": 1},
    },
    "LunarLander Discrete": {"dpad_left": {"action_1": 1}, "dpad_up": {"action_2": 1}, "dpad_right": {"action_3": 1}},
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

    space: Any  # action space of the environment
    sources: tuple[tuple[str, ...], ...]  # of each number of an action that `gymnasium.spaces.flatten` gives
    mapping: ControlMapping

    def encode(self, actions: Sequence[Any]) -> NDArray[np.uint8]:
        """Encode actions [T] of the environment as action values uint8 [T, 16]."""
        from gymnasium.spaces import flatten

        columns = {name: column for column, name in enumerate(self.mapping.sources)}
        input_TC = np.zeros((len(actions), len(columns)), np.float32)
        flat_NT = np.stack([np.asarray(flatten(self.space, action)) for action in actions], axis=1)
        for names, number_T in zip(self.sources, flat_NT, strict=False):
            for column in (columns[name] for name in names if name in columns):
                input_TC[:, column] += number_T
        return self.mapping.apply(input_TC)

    def note(self) -> str:
        """Return the mapping as a sentence."""
        parts = [
            f"{control} = {' + '.join(f'{weight:.3g} {source}' for source, weight in weights.items())}"
            for control, weights in self.mapping.weights.items()
        ]
        pressed = " (triggers are recorded as pressed from 0.5)" if type(self.space).__name__ == "Box" else ""
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
        counts = enumerate(space.nvec.flat)
        sources = tuple((f"action_{number}_{value}",) for number, count in counts for value in range(count))
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
    return ActionEncoder(space, sources, mapping)


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
        values = [source for source in values if not source.endswith("_0")]
    if len(values) > len(_PRESSES):
        _too_many(name, len(values))
    for source, (control, weight) in zip(values, _PRESSES, strict=False):
        weights.setdefault(control, {})[source] = weight
    return weights


def _too_many(name: str, count: int) -> str:
    raise ConfigError(
        f"{name} has more actions than the controller has controls: got {count}; give a mapping, --actions"
    )


@dataclass(frozen=True, kw_only=True)
class GymnasiumRecording:
    """Settings of a recording."""

    env: str
    """ID of the environment, or `module:ID`."""
    frame_size: tuple[int, int]
    """Height and width of the frames."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of `gymnasium.make`."""
    policy: str = "random"
    """`random`, or `module:function` of a `Policy`."""
    actions: str | None = None
    """TOML file with the mapping of actions; None: a ready one, see `READY`."""
    info: tuple[str, ...] | None = None
    """Numbers of `info` to record; None: those that the first steps have."""
    resize: ResizeMode = "crop"
    """Resize mode of frames of another shape."""
    frame_skip: int | None = None
    """Environment steps a recorded step; None: by the environment's `render_fps`."""
    steps: int = 600
    """Longest episode in frames, 2 or more."""
    seed: int = 0
    """Seed of the first episode; the next ones count up."""

    def __post_init__(self) -> None:
        if self.steps < 2 or self.seed < 0 or (self.frame_skip is not None and self.frame_skip < 1):
            raise ConfigError(
                f"steps must be 2 or more, seed 0 or more and frame_skip 1 or more: got steps={self.steps}, "
                f"seed={self.seed}, frame_skip={self.frame_skip}"
            )


class EnvironmentFacts(NamedTuple):
    """Facts about an environment that all its episodes share."""

    frame_skip: int  # environment steps a frame
    info: tuple[str, ...]  # names of the recorded numbers of `info`
    encoder: ActionEncoder
    notes: tuple[str, ...]  # sentences about the rate, the actions and the pictures


class PlayedEpisode(NamedTuple):
    """Frames, action values and state rows of one episode."""

    frames_THWC: NDArray[np.uint8]
    actions_TA: NDArray[np.uint8]
    states_TS: NDArray[np.float32]

    def rows(self, rows: slice) -> PlayedEpisode:
        """Return a part of the episode."""
        return PlayedEpisode(self.frames_THWC[rows], self.actions_TA[rows], self.states_TS[rows])


def enter_process() -> None:
    """Prepare a child process for environments; call it first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends its players
    quiet = {"PYGAME_HIDE_SUPPORT_PROMPT": "1", "SDL_VIDEODRIVER": "dummy", "SDL_AUDIODRIVER": "dummy"}
    for name, value in {**quiet, "OMP_NUM_THREADS": "1"}.items():
        os.environ.setdefault(name, value)


def _make(recording: GymnasiumRecording) -> Any:
    import gymnasium

    try:
        return gymnasium.make(recording.env, render_mode="rgb_array", disable_env_checker=True, **recording.options)
    except Exception as error:
        raise ConfigError(f"the environment {recording.env} cannot be made: {_sentence(error)}") from error


def _load_policy(recording: GymnasiumRecording, env: Any) -> Policy:
    if recording.policy == "random":
        return lambda observation, rng: env.action_space.sample()
    module, _, name = recording.policy.partition(":")
    try:
        policy: Policy = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ConfigError(
            f"the policy {recording.policy!r} cannot be loaded ({_sentence(error)}); expected random or module:function"
        ) from error
    return policy


def examine(recording: GymnasiumRecording) -> EnvironmentFacts:
    """Play a few steps of the environment for its facts; ConfigError or GameError when it cannot be recorded."""
    env = _make(recording)
    try:
        encoder = action_encoder(recording.env, env, recording.actions)
        _load_policy(recording, env)
        try:
            env.reset(seed=recording.seed)
            env.action_space.seed(recording.seed)
            infos = []
            for _ in range(_PROBE_STEPS):
                *_, terminated, truncated, info = env.step(env.action_space.sample())
                infos.append({name for name, value in info.items() if _number(value) is not None} - set(OUTCOMES))
                if terminated or truncated:
                    break
            frame_HWC = env.render()
        except Exception as error:
            raise GameError(f"the environment {recording.env} failed in its first steps: {_sentence(error)}") from error
        if not (isinstance(frame_HWC, np.ndarray) and frame_HWC.dtype == np.uint8 and frame_HWC.shape[2:] == (3,)):
            raise ConfigError(f"the environment {recording.env} renders no RGB picture; expected uint8 [H, W, 3]")
        fitted = fit_picture(frame_HWC, recording.frame_size, recording.resize)[1]
        skip, rate = _frame_skip(recording, env)
        notes = (rate, encoder.note(), *([f"pictures: {fitted}"] if fitted else []))
        every = sorted(set.intersection(*infos))
        for name in recording.info or ():
            if name not in every:
                raise ConfigError(f"info of {recording.env} has no number {name!r}; {did_you_mean(name, every)}")
        return EnvironmentFacts(skip, tuple(every if recording.info is None else recording.info), encoder, notes)
    finally:
        env.close()


def _frame_skip(recording: GymnasiumRecording, env: Any) -> tuple[int, str]:
    rate = env.metadata.get("render_fps")
    frames = getattr(env.unwrapped, "_frameskip", None)  # Atari names 30; it shows 60 pictures a second
    if isinstance(frames, int) and hasattr(env.unwrapped, "ale"):
        rate = 60 / frames
    skip = recording.frame_skip or max(1, round((rate or STEPS_PER_SECOND) / STEPS_PER_SECOND))
    count = "an environment step" if skip == 1 else f"{skip} environment steps"
    steps = f"rate: a frame is {count} with one action, rewards added"
    if not rate:
        return skip, f"{steps}; the environment has no render_fps, so 0.1 s a frame is a guess"
    return skip, f"{steps}: {skip / rate:.3g} s of play, shown as {1 / STEPS_PER_SECOND:g} s"


def play(recording: GymnasiumRecording, facts: EnvironmentFacts, number: int) -> PlayedEpisode | str:
    """Play the episode of a number; return the reason when the environment or the policy raises."""
    env = _make(recording)
    try:
        return _play_episode(recording, facts, env, recording.seed + number)
    except PlayloomError:
        raise
    except Exception as error:
        return _sentence(error)
    finally:
        with contextlib.suppress(Exception):
            env.close()


def _play_episode(recording: GymnasiumRecording, facts: EnvironmentFacts, env: Any, seed: int) -> PlayedEpisode:
    policy, rng = _load_policy(recording, env), np.random.default_rng(seed)
    env.action_space.seed(seed)
    observation, info = env.reset(seed=seed)
    frames, actions, outcomes, numbers = [], [], [], []
    ended = False
    while True:
        frames.append(np.array(fit_picture(env.render(), recording.frame_size, recording.resize, area=True)[0]))
        numbers.append([_number(info.get(name)) for name in facts.info])
        if ended:
            break
        action = policy(observation, rng)
        actions.append(copy.copy(action))  # a policy may use its array again, as an environment may
        reward = 0.0
        for _ in range(facts.frame_skip):
            observation, gained, terminated, truncated, info = env.step(action)
            reward += float(gained)
            if terminated or truncated:
                break
        truncated = truncated or (len(frames) == recording.steps - 1 and not terminated)
        outcomes.append([reward, float(terminated), float(truncated)])
        ended = terminated or truncated
    numbers_TS = np.array(numbers, np.float32)
    for column_T in numbers_TS.T:  # a missing number becomes the one before, at the start the first; 0 without any
        known = np.flatnonzero(~np.isnan(column_T))
        before = np.searchsorted(known, np.arange(len(column_T)), side="right") - 1
        column_T[:] = column_T[known[before.clip(0)]] if len(known) else 0
    states_TS = np.concatenate([[*outcomes, NO_OUTCOME], numbers_TS], axis=1)
    actions_TA = np.concatenate([facts.encoder.encode(actions), REST_VALUES[None]])
    return PlayedEpisode(np.stack(frames), actions_TA, states_TS.astype(np.float32))


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float | np.number | np.bool_) else None


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
