"""One dream as an episode: where it is, and whether it is over. Single and batched environments step the same.

What happened in one step, and what the user makes of it: reward, and whether the episode is over.

A world model knows pictures and inputs; it knows no reward, and none is made up here.

What all episodes of one environment share (model, prompts, pad, task), and a step of many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from playloom.envs.actions import ActionMapper
from playloom.envs.prompts import Beginnings, Prompts, sources_of
from playloom.errors import BadInputError, ConfigError
from playloom.inference.engine import Engine, Session, StepInput
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import StepResult
from playloom.models.decode_order import DecodeOrder
from playloom.provenance import stamp


@dataclass(frozen=True, kw_only=True, eq=False)
class Transition:
    """One step of a dream. Its arrays cannot be written to: copy what is to be changed."""

    before_HWC: NDArray[np.uint8]
    """The frame that the agent saw, uint8 [H, W, 3], RGB, unmarked."""
    action_A: NDArray[np.uint8]
    """The action taken, values uint8 [16] in slot order; `playloom.actions.codec.decode_values` gives the controls."""
    after_HWC: NDArray[np.uint8]
    """The frame that followed, uint8 [H, W, 3]."""
    step: int
    """Number of the step in its episode, from 0."""


Reward: TypeAlias = Callable[[Transition], float]
Ended: TypeAlias = Callable[[Transition], bool]


@dataclass(frozen=True, kw_only=True)
class RewardTask:
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


Info = dict[str, Any]
PROMPT_OPTION = "prompt"
"""The option of `reset` that chooses the prompt by its number."""


class DreamEpisode:
    """A place for one dream after another. Not begun: `frame_HWC` raises."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.steps = 0
        """Steps made in this episode."""
        self.over = False
        """Ended or cut off: it takes no step before it has begun anew."""
        self.fresh = False
        """Begun anew, and its first frame is still to be handed out."""
        self._frame_HWC: NDArray[np.uint8] | None = None
        self._generated = False
        self._first: Info = {}

    @property
    def frame_HWC(self) -> NDArray[np.uint8]:
        """What is seen now, uint8 [H, W, 3], unmarked and not to be written to.

        Raises:
            BadInputError: before the first episode.
        """
        if self._frame_HWC is None:
            raise BadInputError("this environment has not begun; call reset() before step()")
        return self._frame_HWC

    def running(self) -> Session:
        """The dream that can be stepped.

        Raises:
            BadInputError: when there is none, or the episode is over.
        """
        if self.session is None:
            raise BadInputError("this environment has not begun; call reset() before step()")
        if self.over:
            raise BadInputError(f"this episode is over after {self.steps} steps; call reset() to begin another")
        return self.session

    def begin(self, beginnings: Beginnings, source: np.random.Generator, prompt: int | None = None) -> None:
        """Begin anew, with draws from `source`; where that fails, the source and the old episode stay as they were.

        Args:
            beginnings: the prompts.
            source: decides the prompt and the dream's seed.
            prompt: that prompt instead of a drawn one.

        Raises:
            ResourceError: when there is no memory for another dream.
        """
        before = source.bit_generator.state
        drawn, seed = int(source.integers(len(beginnings))), int(source.integers(2**31))
        index = drawn if prompt is None else prompt
        try:
            session, found = beginnings.begin(index, seed)
        except BaseException:
            source.bit_generator.state = before
            raise
        self.close()
        self.session, self.steps, self.over, self.fresh = session, 0, False, True
        self._show(found.frame_HWC, found.dreamed)
        self._first = {"prompt": index, "dream_seed": seed, "codes": found.codes_N}

    def first(self) -> Info:
        """Hand out what is said at the beginning: number of the prompt, the dream's seed, the frame's codes."""
        self.fresh = False
        return {**self._first, "codes": self._first["codes"].copy()}

    def move(self, step: StepResult) -> Transition:
        """Take in a step that the dream has made."""
        assert step.frame_HWC is not None, "a dreamed turn has a frame"
        before_HWC = self.frame_HWC
        action_A = step.action_A.copy()
        action_A.flags.writeable = False
        self._show(step.frame_HWC, generated=True)
        self.steps += 1
        return Transition(before_HWC=before_HWC, action_A=action_A, after_HWC=self.frame_HWC, step=self.steps - 1)

    def picture(self) -> NDArray[np.uint8] | None:
        """For people: a copy of what is seen, marked if it was dreamed; None before the first episode."""
        if self._frame_HWC is None:
            return None
        return stamp(self._frame_HWC) if self._generated else self._frame_HWC.copy()

    def close(self) -> None:
        """Give the dream's memory back."""
        if self.session is not None:
            self.session.close()
        self.session, self._frame_HWC = None, None

    def _show(self, frame_HWC: NDArray[np.uint8], generated: bool) -> None:
        self._frame_HWC = frame_HWC.copy()
        self._frame_HWC.flags.writeable = False
        self._generated = generated


def chosen_prompt(options: Info | None, prompts: int) -> int | None:
    """The prompt that the options of a `reset` choose.

    Raises:
        BadInputError: for a number there is not, or an option that is none.
    """
    options = options or {}
    unknown = sorted(set(options) - {PROMPT_OPTION})
    if unknown:
        raise BadInputError(f"unknown reset option {unknown[0]!r}; there is only {PROMPT_OPTION!r}")
    index = options.get(PROMPT_OPTION)
    if index is None:
        return None
    if not isinstance(index, int | np.integer) or not 0 <= index < prompts:
        raise BadInputError(f"the prompt is {index!r}; expected a whole number 0 to {prompts - 1}")
    return int(index)


AnyModel: TypeAlias = str | Path | Engine | None
"""A bundled model's name, a folder, or a dreamer that may have other users; None: the first bundled model."""
RENDER_MODES = ("rgb_array",)
HERTZ = 10
"""Steps a second of the play that models learn from."""


class StepOutcome(NamedTuple):
    """What a step of one episode gives beside the frame."""

    reward: float
    terminated: bool
    truncated: bool
    info: Info


class World:
    """Dreams as episodes.

    Raises:
        PlayloomError: when the model or a prompt cannot be used.
    """

    def __init__(
        self,
        model: AnyModel,
        prompts: Prompts,
        *,
        pad: ActionMapper,
        task: RewardTask,
        sampling: Sampling | None,
        device: str,
        decode_order: DecodeOrder | None,
    ) -> None:
        self.dreamer = _dreamer(model, device, decode_order)
        loaded = self.dreamer.model
        self.pad, self.task = pad, task
        self.beginnings = Beginnings(
            self.dreamer, sources_of(prompts, loaded), sampling or Sampling.from_card(loaded.card)
        )

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Frames: Box(0, 255, (H, W, 3), uint8)."""
        sizes = self.dreamer.model.config.tokenizer
        return gym.spaces.Box(0, 255, (sizes.frame_height, sizes.frame_width, 3), np.uint8)

    def advance(self, episodes: Sequence[DreamEpisode], values_NA: NDArray[np.uint8]) -> list[StepOutcome]:
        """One step of every episode, as one batch.

        When the dream fails, no episode has moved and the call can be made again. When one of the user's functions
        raises, every dream has made its step and goes on from there; that step's rewards are lost.

        Raises:
            BadInputError: for an episode that cannot be stepped.
            ResourceError: when there is no memory for it.
        """
        turns = [StepInput(episode.running(), values_A) for episode, values_A in zip(episodes, values_NA, strict=True)]
        steps = self.dreamer.advance(turns)
        moves = [episode.move(step) for episode, step in zip(episodes, steps, strict=True)]
        for episode in episodes:
            episode.over = self.task.truncates(episode.steps)
        outcomes = []
        for episode, step, move in zip(episodes, steps, moves, strict=True):
            reward, terminated = self.task.judge(move)
            truncated, episode.over = episode.over, episode.over or terminated
            info = {"actions": step.action_A.copy(), "codes": step.codes_N}
            outcomes.append(StepOutcome(reward, terminated, truncated, info))
        return outcomes


def check_render_mode(render_mode: str | None) -> str | None:
    """The same, known to be possible.

    Raises:
        ConfigError: when it is not.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ConfigError(f"unknown render mode {render_mode!r}; there is rgb_array, or None")
    return render_mode


def _dreamer(model: AnyModel, device: str, decode_order: DecodeOrder | None) -> Engine:
    if not isinstance(model, str | Path | Engine | None):
        raise ConfigError(f"the model is of {type(model).__name__}; expected a name, a folder, or a Dreamer of it")
    if not isinstance(model, Engine):
        return open_engine(None if model is None else str(model), device=device, decode_order=decode_order)
    if device != "auto" or decode_order is not None:
        raise ConfigError(
            "device and decode_order are set on the engine: pass them to open_engine, or pass a model's name"
        )
    return model
