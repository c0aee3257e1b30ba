"""Single environment on a world model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS
from playloom.envs.actions import ActionMapper, Actions, make_action_mapper
from playloom.envs.core import (
    HERTZ,
    RENDER_MODES,
    AnyModel,
    DreamEpisode,
    Ended,
    EnvCore,
    Info,
    Reward,
    RewardTask,
    check_render_mode,
    chosen_prompt,
)
from playloom.envs.prompts import Prompts
from playloom.errors import ActionError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Session
from playloom.models.decode_order import DecodeOrder


class WorldModelEnv(gym.Env[NDArray[np.uint8], Any]):
    """A Gymnasium environment whose frames a world model generates; a step is 0.1 s.

    Observation: uint8 [H, W, 3] RGB, never marked; the first of an episode is the prompt's last frame. Action: the
    whole controller, float32 [16] in [-1, 1], as `playloom.games.arena.env.ArenaEnv` takes it, or the number of an
    entry
    of `actions`. Reward and end are the user's: 0 and never, unless `reward` and `ended` say otherwise.

    `info` of a reset: `prompt` (its number), `dream_seed`, `codes` (of the frame, int64 [N]); of a step: `actions`
    (values uint8 [16]), `codes`.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": HERTZ}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        model: AnyModel = None,
        prompts: Prompts = None,
        *,
        actions: Actions = None,
        reward: Reward | None = None,
        ended: Ended | None = None,
        max_steps: int | None = 600,
        sampling: Sampling | None = None,
        device: str = "auto",
        decode_order: DecodeOrder | None = None,
        render_mode: str | None = "rgb_array",
    ) -> None:
        """Make the environment; call `reset` first.

        Args:
            model: a bundled model's name, a folder, or a dreamer that other environments may share; None: the first
                bundled model.
            prompts: where episodes begin: names, paths, prompts or frame stores; None: every bundled moment.
            actions: a table of what can be held, which makes the actions its numbers; None: the whole controller.
            reward: of a step; None: 0.
            ended: whether a step ends its episode; None: none does.
            max_steps: steps after which an episode is cut off; None: never.
            sampling: how tokens are drawn; None: as the model's card recommends.
            device: where to compute, for a model that is loaded here.
            decode_order: `raster`, or the row delay of the decoding order; None: the model card's, else raster.
            render_mode: `rgb_array`, or None.

        Raises:
            PlayloomError: when one of these cannot be used.
        """
        self.render_mode = check_render_mode(render_mode)
        task = RewardTask(reward=reward, ended=ended, max_steps=max_steps)
        self._world = EnvCore(
            model,
            prompts,
            pad=make_action_mapper(actions),
            task=task,
            sampling=sampling,
            device=device,
            decode_order=decode_order,
        )
        self.observation_space = self._world.observation_space
        self.action_space = self._world.pad.space
        self._episode = DreamEpisode()

    @property
    def dreamer(self) -> Engine:
        """The engine; steps many sessions at once."""
        return self._world.dreamer

    @property
    def pad(self) -> ActionMapper:
        """Action mapping: `values` for the engine, `state` for the real arena."""
        return self._world.pad

    @property
    def session(self) -> Session:
        """The current session. Fork it to look ahead; do not step it.

        Raises:
            BadInputError: when there is none, or the episode is over.
        """
        return self._episode.running()

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[NDArray[np.uint8], Info]:
        """Begin an episode: same seed, same prompt, same frames.

        Args:
            seed: of this and all later episodes; None: go on drawing.
            options: `{"prompt": 3}` begins at that one instead of a drawn one.

        Raises:
            ResourceError: when there is no memory for it.
        """
        super().reset(seed=seed)
        beginnings = self._world.beginnings
        self._episode.begin(beginnings, self.np_random, chosen_prompt(options, len(beginnings)))
        return self._episode.frame_HWC.copy(), self._episode.first()

    def step(self, action: Any) -> tuple[NDArray[np.uint8], float, bool, bool, Info]:
        """Hold an action for one step.

        What `reward` or `ended` raise comes through; the dream has made the step by then.

        Raises:
            ActionError: when the action is outside the space.
            BadInputError: before the first reset, or when the episode is over.
            ResourceError: when there is no memory for it; the same call can be made again.
        """
        self._episode.running()
        values_A = self._world.pad.values(action)
        if values_A.shape != (ACTION_SLOTS,):
            raise ActionError(f"one dream takes one action; got an array of shape {np.shape(action)}")
        (outcome,) = self._world.advance([self._episode], values_A[None])
        return self._episode.frame_HWC.copy(), *outcome

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current frame, uint8 [H, W, 3], watermarked if generated. None before the first reset."""
        return None if self.render_mode is None else self._episode.picture()

    def close(self) -> None:
        """Free the memory of all sessions; a reset begins anew."""
        self._episode.close()
        self._world.beginnings.close()
