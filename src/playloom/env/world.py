"""What all episodes of one environment share (model, prompts, pad, task), and a step of many of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from playloom.engine import Dreamer, Sampling, Turn
from playloom.engine.opening import open_dreamer
from playloom.env.beginnings import Beginnings
from playloom.env.controls import Pad
from playloom.env.episode import Episode, Info
from playloom.env.prompts import Prompts, sources_of
from playloom.env.transition import Task
from playloom.errors import ConfigError

AnyModel: TypeAlias = str | Path | Dreamer | None
"""A bundled model's name, a folder, or a dreamer that may have other users; None: the first bundled model."""
RENDER_MODES = ("rgb_array",)
HERTZ = 10
"""Steps a second of the play that models learn from."""


class Outcome(NamedTuple):
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
        pad: Pad,
        task: Task,
        sampling: Sampling | None,
        device: str,
        lag: int | None,
    ) -> None:
        self.dreamer = _dreamer(model, device, lag)
        loaded = self.dreamer.model
        self.pad, self.task = pad, task
        self.beginnings = Beginnings(
            self.dreamer, sources_of(prompts, loaded), sampling or Sampling.of_card(loaded.card)
        )

    @property
    def observation_space(self) -> gym.Space[Any]:
        """Frames: Box(0, 255, (H, W, 3), uint8)."""
        sizes = self.dreamer.model.config.tokenizer
        return gym.spaces.Box(0, 255, (sizes.frame_height, sizes.frame_width, 3), np.uint8)

    def advance(self, episodes: Sequence[Episode], values_NA: NDArray[np.uint8]) -> list[Outcome]:
        """One step of every episode, as one batch.

        When the dream fails, no episode has moved and the call can be made again. When one of the user's functions
        raises, every dream has made its step and goes on from there; that step's rewards are lost.

        Raises:
            BadInputError: for an episode that cannot be stepped.
            ResourceError: when there is no memory for it.
        """
        turns = [Turn(episode.running(), values_A) for episode, values_A in zip(episodes, values_NA, strict=True)]
        steps = self.dreamer.advance(turns)
        moves = [episode.move(step) for episode, step in zip(episodes, steps, strict=True)]
        for episode in episodes:
            episode.over = self.task.truncates(episode.steps)
        outcomes = []
        for episode, step, move in zip(episodes, steps, moves, strict=True):
            reward, terminated = self.task.judge(move)
            truncated, episode.over = episode.over, episode.over or terminated
            info = {"actions": step.action_A.copy(), "codes": step.codes_N}
            outcomes.append(Outcome(reward, terminated, truncated, info))
        return outcomes


def check_render_mode(render_mode: str | None) -> str | None:
    """The same, known to be possible.

    Raises:
        ConfigError: when it is not.
    """
    if render_mode is not None and render_mode not in RENDER_MODES:
        raise ConfigError(f"unknown render mode {render_mode!r}; there is rgb_array, or None")
    return render_mode


def _dreamer(model: AnyModel, device: str, lag: int | None) -> Dreamer:
    if not isinstance(model, str | Path | Dreamer | None):
        raise ConfigError(f"the model is of {type(model).__name__}; expected a name, a folder, or a Dreamer of it")
    if not isinstance(model, Dreamer):
        return open_dreamer(None if model is None else str(model), device=device, lag=lag)
    if device != "auto" or lag is not None:
        raise ConfigError("device and lag are the dreamer's own; give them to the Dreamer, or name a model instead")
    return model
