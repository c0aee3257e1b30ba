"""Batched environment on a world model."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from playloom.envs.core import AnyModel, BaseWorldModelEnv, DreamEpisode, Info
from playloom.envs.prompts import Prompts
from playloom.errors import ActionError, BadInputError, ConfigError

Observations: TypeAlias = NDArray[Any]
Seeds: TypeAlias = int | Sequence[int | None] | None
MASK_OPTION = "reset_mask"  # option of `reset` that selects the episodes to begin, bool [N]; Gymnasium's own name


class WorldModelVectorEnv(BaseWorldModelEnv, VectorEnv[Observations, Any, NDArray[Any]]):
    """N environments that step as one batch, each equal to a `WorldModelEnv` of the same seed.

    Observations, actions, rewards and infos are those of `WorldModelEnv`, batched as Gymnasium does. `autoreset_mode`
    decides when the next episode begins: with the next step (which ignores its action and has reward 0), with the same
    step (the last frame is in `info["final_obs"]`), or only with `reset`.
    """

    metadata = BaseWorldModelEnv.metadata | {"autoreset_mode": AutoresetMode.NEXT_STEP}

    def __init__(
        self,
        num_envs: int = 1,
        model: AnyModel = None,
        prompts: Prompts = None,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
        **options: Any,
    ) -> None:
        """Make the environments; call `reset` first. The other arguments are those of `WorldModelEnv`.

        `autoreset_mode` is `NextStep`, `SameStep` or `Disabled`.
        """
        if not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs!r}: expected a whole number from 1")
        self.num_envs = num_envs
        try:
            self.autoreset_mode = AutoresetMode(autoreset_mode)
        except ValueError as error:
            known = ", ".join(each.value for each in AutoresetMode)
            raise ConfigError(f"unknown autoreset mode {autoreset_mode!r}: expected {known}") from error
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        super().__init__(model, prompts, **options)
        self.single_observation_space, self.single_action_space = self.observation_space, self.action_space
        self.observation_space: gym.Space[Any] = batch_space(self.single_observation_space, num_envs)
        self.action_space: gym.Space[Any] = batch_space(self.single_action_space, num_envs)
        self._episodes = tuple(DreamEpisode() for _ in range(num_envs))
        self._rngs = [seeding.np_random()[0] for _ in range(num_envs)]

    def reset(self, *, seed: Seeds = None, options: Info | None = None) -> tuple[Observations, Info]:
        """Begin an episode in every environment.

        Args:
            seed: environment i gets `seed + i`, or its own of a list; None: continue drawing.
            options: `prompt` as in `WorldModelEnv`; `reset_mask`, bool [N]: only these begin anew.
        """
        self._check_open()
        super().reset(seed=int(seed) if isinstance(seed, int | np.integer) else None)
        seeds, options = _seeds(seed, self.num_envs), dict(options or {})
        indices = np.flatnonzero(_mask(options.pop(MASK_OPTION, None), self.num_envs))
        prompt = self._prompt_option(options)
        for index in indices:
            if seeds[index] is not None:
                self._rngs[index] = seeding.np_random(seeds[index])[0]
            self._episodes[index].begin(self._initial_states, self._rngs[index], prompt)
        observations = self._observations()
        infos: Info = {}
        for index in indices:
            infos = self._add_info(infos, self._episodes[index].reset_info(), int(index))
        return observations, infos

    def step(self, actions: Any) -> tuple[Observations, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Hold an action in every environment for one step; see `WorldModelEnv.step`."""
        self._check_open()
        values_NA = self.action_mapper.values(actions)
        if values_NA.ndim != 2 or len(values_NA) != self.num_envs:
            raise ActionError(f"the actions have shape {np.shape(actions)}: expected {self.num_envs} actions")
        if self.autoreset_mode != AutoresetMode.DISABLED:
            self._begin_next()
        rewards_N = np.zeros(self.num_envs, np.float64)
        terminated_N, truncated_N = np.zeros((2, self.num_envs), np.bool_)
        found: dict[int, Info] = {}
        infos: Info = {}
        running = [index for index, episode in enumerate(self._episodes) if not episode.just_reset]
        if running:
            outcomes = self._advance([self._episodes[index] for index in running], values_NA[running])
            for index, outcome in zip(running, outcomes, strict=True):
                rewards_N[index], terminated_N[index], truncated_N[index], found[index] = outcome
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            for index in running:
                if self._episodes[index].done:
                    last = {"final_obs": self._observe(self._episodes[index]), "final_info": found[index]}
                    infos = self._add_info(infos, last, index)
            self._begin_next()
        for index, episode in enumerate(self._episodes):
            infos = self._add_info(infos, episode.reset_info() if episode.just_reset else found[index], index)
        return self._observations(), rewards_N, terminated_N, truncated_N, infos

    def render(self) -> tuple[NDArray[np.uint8] | None, ...] | None:  # type: ignore[override]
        """Return every environment's frame; see `WorldModelEnv.render`."""
        return None if self.render_mode is None else tuple(episode.picture() for episode in self._episodes)

    def _begin_next(self) -> None:
        for episode, rng in zip(self._episodes, self._rngs, strict=True):
            if episode.done:
                episode.begin(self._initial_states, rng)

    def _observations(self) -> Observations:
        return np.stack([self._observe(episode) for episode in self._episodes])

    def _check_open(self) -> None:
        if self.closed:
            raise BadInputError("the environment was closed: make another one")


def _seeds(seed: Seeds, count: int) -> list[int | None]:
    if seed is None or isinstance(seed, int | np.integer):
        return [None if seed is None else int(seed) + index for index in range(count)]
    if not isinstance(seed, Collection) or not all(one is None or isinstance(one, int | np.integer) for one in seed):
        raise BadInputError(f"seed is {seed!r}: expected a whole number, or one for each of {count} environments")
    if len(seed) != count:
        raise BadInputError(f"got {len(seed)} seeds: expected {count}")
    return [None if one is None else int(one) for one in seed]


def _mask(mask: Any, count: int) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(count, np.bool_)
    mask_N = np.asarray(mask)
    if mask_N.shape != (count,) or mask_N.dtype != np.bool_:
        raise BadInputError(f"{MASK_OPTION} is {mask_N.dtype} {list(mask_N.shape)}: expected bool [{count}]")
    return mask_N
