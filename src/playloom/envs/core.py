"""Shared step logic of the environments: episodes, rewards, batched steps.

A world model predicts no reward; the user supplies it.
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
from playloom.envs.prompts import InitialStates, Prompts, sources_of
from playloom.errors import BadInputError, ConfigError
from playloom.inference.engine import Engine
from playloom.inference.generate import open_engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Session, StepInput
from playloom.inference.types import StepResult
from playloom.models.decode_order import DecodeOrder
from playloom.provenance import stamp


@dataclass(frozen=True, kw_only=True, eq=False)
class Transition:
    """One step of an episode. Its arrays are read-only."""

    before_HWC: NDArray[np.uint8]
    """Frame before the step, uint8 [H, W, 3], RGB, without watermark."""
    action_A: NDArray[np.uint8]
    """Action values uint8 [16] in slot order; `playloom.actions.codec.decode_values` gives the controls."""
    after_HWC: NDArray[np.uint8]
    """Frame after the step, uint8 [H, W, 3]."""
    step: int
    """Number of the step in its episode, from 0."""


Reward: TypeAlias = Callable[[Transition], float]
Ended: TypeAlias = Callable[[Transition], bool]


@dataclass(frozen=True, kw_only=True)
class RewardTask:
    """Reward and end of an episode.

    Raises:
        ConfigError: when an episode would have no step, or a function is none.
    """

    reward: Reward | None = None
    """Reward function; None: 0."""
    ended: Ended | None = None
    """Termination function; None: never."""
    max_steps: int | None = 600
    """Steps until truncation; None: never."""

    def __post_init__(self) -> None:
        if self.max_steps is not None and not (isinstance(self.max_steps, int | np.integer) and self.max_steps >= 1):
            raise ConfigError(f"max_steps is {self.max_steps!r}; expected a whole number from 1, or None for no end")
        for name, function in (("reward", self.reward), ("ended", self.ended)):
            if function is not None and not callable(function):
                raise ConfigError(f"{name} is {function!r}; expected a function of a Transition, or None")

    def truncates(self, steps: int) -> bool:
        """Return True if an episode of so many steps is truncated."""
        return self.max_steps is not None and steps >= self.max_steps

    def judge(self, transition: Transition) -> tuple[float, bool]:
        """Return reward and termination. Errors of the user's functions propagate."""
        reward = 0.0 if self.reward is None else float(self.reward(transition))
        return reward, self.ended is not None and bool(self.ended(transition))


Info = dict[str, Any]
PROMPT_OPTION = "prompt"
"""Option of `reset` that chooses the prompt by its number."""


class DreamEpisode:
    """Slot for one episode after another. Before the first one `frame_HWC` raises."""

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
        """Current frame, uint8 [H, W, 3], without watermark, read-only.

        Raises:
            BadInputError: before the first episode.
        """
        if self._frame_HWC is None:
            raise BadInputError("this environment has not begun; call reset() before step()")
        return self._frame_HWC

    def running(self) -> Session:
        """The session to step.

        Raises:
            BadInputError: when there is none, or the episode is over.
        """
        if self.session is None:
            raise BadInputError("this environment has not begun; call reset() before step()")
        if self.over:
            raise BadInputError(f"this episode is over after {self.steps} steps; call reset() to begin another")
        return self.session

    def begin(self, beginnings: InitialStates, source: np.random.Generator, prompt: int | None = None) -> None:
        """Begin an episode, with draws from `source`; on failure the source and the old episode are unchanged.

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
        """Return the reset info: number of the prompt, session seed, codes of the frame."""
        self.fresh = False
        return {**self._first, "codes": self._first["codes"].copy()}

    def move(self, step: StepResult) -> Transition:
        """Record a step of the session."""
        assert step.frame_HWC is not None, "a dreamed turn has a frame"
        before_HWC = self.frame_HWC
        action_A = step.action_A.copy()
        action_A.flags.writeable = False
        self._show(step.frame_HWC, generated=True)
        self.steps += 1
        return Transition(before_HWC=before_HWC, action_A=action_A, after_HWC=self.frame_HWC, step=self.steps - 1)

    def picture(self) -> NDArray[np.uint8] | None:
        """Return a copy of the frame, watermarked if it was generated; None before the first episode."""
        if self._frame_HWC is None:
            return None
        return stamp(self._frame_HWC) if self._generated else self._frame_HWC.copy()

    def close(self) -> None:
        """Free the session's memory."""
        if self.session is not None:
            self.session.close()
        self.session, self._frame_HWC = None, None

    def _show(self, frame_HWC: NDArray[np.uint8], generated: bool) -> None:
        self._frame_HWC = frame_HWC.copy()
        self._frame_HWC.flags.writeable = False
        self._generated = generated


def chosen_prompt(options: Info | None, prompts: int) -> int | None:
    """Return the prompt chosen by the options of a `reset`.

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
"""A bundled model's name, a folder, or an engine that may have other users; None: the first bundled model."""
RENDER_MODES = ("rgb_array",)
HERTZ = 10
"""Steps per second of the play that models learn from."""


class StepOutcome(NamedTuple):
    """Result of a step of one episode, beside the frame."""

    reward: float
    terminated: bool
    truncated: bool
    info: Info


class EnvCore:
    """Model, prompts, action mapper and task shared by all episodes of an environment.

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
        self.beginnings = InitialStates(
            self.dreamer, sources_of(prompts, loaded), sampling or Sampling.from_card(loaded.card)
        )

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Frames: Box(0, 255, (H, W, 3), uint8)."""
        sizes = self.dreamer.model.config.tokenizer
        return gym.spaces.Box(0, 255, (sizes.frame_height, sizes.frame_width, 3), np.uint8)

    def advance(self, episodes: Sequence[DreamEpisode], values_NA: NDArray[np.uint8]) -> list[StepOutcome]:
        """Step all episodes as one batch.

        When the dream fails, no episode has moved and the call can be made again. When one of the user's functions
        raises, every dream has made its step and goes on from there; that step's rewards are lost.

        Raises:
            BadInputError: for an episode that cannot be stepped.
            ResourceError: when there is no memory for it.
        """
        turns = [StepInput(episode.running(), values_A) for episode, values_A in zip(episodes, values_NA, strict=True)]
        steps = self.dreamer.step(turns)
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
    """Check and return the render mode.

    Raises:
        ConfigError: when it is not.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ConfigError(f"unknown render mode {render_mode!r}; there is rgb_array, or None")
    return render_mode


def _dreamer(model: AnyModel, device: str, decode_order: DecodeOrder | None) -> Engine:
    if not isinstance(model, str | Path | Engine | None):
        raise ConfigError(f"the model is of {type(model).__name__}; expected a name, a folder, or an Engine")
    if not isinstance(model, Engine):
        return open_engine(None if model is None else str(model), device=device, decode_order=decode_order)
    if device != "auto" or decode_order is not None:
        raise ConfigError(
            "device and decode_order are set on the engine: pass them to open_engine, or pass a model's name"
        )
    return model
