"""Batched environment on a world model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeAlias

import gymnasium as gym
import numpy as np
from gymnasium.utils import seeding
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

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
    StepOutcome,
    check_render_mode,
    chosen_prompt,
)
from playloom.envs.prompts import Prompts
from playloom.errors import ActionError, BadInputError, ConfigError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.decode_order import DecodeOrder

Frames: TypeAlias = NDArray[np.uint8]
Seeds: TypeAlias = int | Sequence[int | None] | None
MASK_OPTION = "reset_mask"
"""Option of `reset` that selects the episodes to begin, bool [N]; Gymnasium's own name."""


class WorldModelVectorEnv(VectorEnv[Frames, Any, NDArray[Any]]):
    """N environments that step as one batch, each equal to a `WorldModelEnv` of the same seed.

    Observations, actions, rewards and infos are those of `WorldModelEnv`, batched as Gymnasium does. An episode that
    is over begins anew by itself: with the next step (whose action it ignores, reward 0), with the same step (what
    was seen last is in `info["final_obs"]`), or not at all, see `autoreset_mode`.
    """

    metadata = {  # noqa: RUF012 (Gymnasium's own form)
        "render_modes": list(RENDER_MODES),
        "render_fps": HERTZ,
        "autoreset_mode": AutoresetMode.NEXT_STEP,
    }
    _world: EnvCore | None = None  # Gymnasium closes also what was never whole
    _episodes: tuple[DreamEpisode, ...] = ()
    _moved: dict[int, StepOutcome] | None = None
    """Set while a step is incomplete: sessions have stepped, but not every ended episode has restarted."""

    def __init__(
        self,
        num_envs: int = 1,
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
        autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    ) -> None:
        """Make the environments; call `reset` first.

        Args:
            num_envs: how many.
            model: see `WorldModelEnv`, as for all that is not named here.
            prompts: where episodes begin.
            actions: a table of what can be held.
            reward: of a step.
            ended: whether a step ends its episode.
            max_steps: steps after which an episode is cut off.
            sampling: how tokens are drawn.
            device: where to compute.
            decode_order: `raster`, or the row delay of the decoding order.
            render_mode: `rgb_array`, or None.
            autoreset_mode: `NextStep`, `SameStep` or `Disabled`.

        Raises:
            PlayloomError: when one of these cannot be used.
        """
        if not isinstance(num_envs, int | np.integer) or num_envs < 1:
            raise ConfigError(f"num_envs is {num_envs!r}; expected a whole number from 1")
        self.num_envs = num_envs
        self.render_mode = check_render_mode(render_mode)
        self.autoreset_mode = _mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        task = RewardTask(reward=reward, ended=ended, max_steps=max_steps)
        world = EnvCore(
            model,
            prompts,
            pad=make_action_mapper(actions),
            task=task,
            sampling=sampling,
            device=device,
            decode_order=decode_order,
        )
        self._world = world
        self.single_observation_space, self.single_action_space = world.observation_space, world.pad.space
        self.observation_space: gym.Space[Any] = batch_space(self.single_observation_space, num_envs)
        self.action_space: gym.Space[Any] = batch_space(self.single_action_space, num_envs)
        self._episodes = tuple(DreamEpisode() for _ in range(num_envs))
        self._sources = [seeding.np_random()[0] for _ in range(num_envs)]
        self._last: dict[int, Info] = {}

    @property
    def dreamer(self) -> Engine:
        """The engine."""
        return self._open().dreamer

    @property
    def pad(self) -> ActionMapper:
        """Action mapping: `values` for the engine, `state` for the real arena."""
        return self._open().pad

    def reset(self, *, seed: Seeds = None, options: Info | None = None) -> tuple[Frames, Info]:
        """Begin an episode in every environment.

        Args:
            seed: dream i gets `seed + i`, or its own of a list; None: go on drawing.
            options: `prompt` as in `WorldModelEnv`; `reset_mask`, bool [N]: only these begin anew.

        Raises:
            BadInputError: for seeds or options that do not fit.
            ResourceError: when there is no memory for one of them; the call can be made again.
        """
        world = self._open()
        super().reset(seed=int(seed) if isinstance(seed, int | np.integer) else None)
        seeds, options = _seeds(seed, self.num_envs), dict(options or {})
        mask_N = _mask(options.pop(MASK_OPTION, None), self.num_envs)
        prompt = chosen_prompt(options, len(world.beginnings))
        self._moved, self._last = None, {}
        self._begin(world, np.flatnonzero(mask_N), seeds, prompt)
        frames_NHWC = self._frames()
        infos: Info = {}
        for index in np.flatnonzero(mask_N):
            infos = self._add_info(infos, self._episodes[index].first(), int(index))
        return frames_NHWC, infos

    def step(self, actions: Any) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        """Hold an action in every environment for one step.

        What `reward` or `ended` raise comes through; the dreams have made the step by then.

        Raises:
            ActionError: when an action is outside the space, or there are not as many as dreams; nothing has moved.
            BadInputError: before the first reset or, without autoreset, when an episode is over.
            ResourceError: when there is no memory for it; the same call can be made again.
        """
        world = self._open()
        values_NA = world.pad.values(actions)
        if values_NA.ndim != 2 or len(values_NA) != self.num_envs:
            raise ActionError(f"{self.num_envs} dreams need as many actions; got an array of {np.shape(actions)}")
        if self._moved is None:
            self._begin_overdue(world)
            self._moved = self._advance(world, values_NA)
        if self.autoreset_mode == AutoresetMode.SAME_STEP:
            self._begin_ended(world, self._moved)
        moved, last, self._moved, self._last = self._moved, self._last, None, {}
        return self._results(moved, last)

    def render(self) -> tuple[NDArray[np.uint8] | None, ...] | None:  # type: ignore[override]
        """Return every environment's frame; see `WorldModelEnv.render`."""
        return None if self.render_mode is None else tuple(episode.picture() for episode in self._episodes)

    def close_extras(self, **kwargs: Any) -> None:
        """Free the memory of all sessions."""
        for episode in self._episodes:
            episode.close()
        if self._world is not None:
            self._world.beginnings.close()

    def _begin(self, world: EnvCore, indices: NDArray[np.intp], seeds: list[int | None], prompt: int | None) -> None:
        """Begin episodes; on a failure the next call repeats the same draws."""
        before = [source.bit_generator.state for source in self._sources]
        sources = list(self._sources)
        try:
            for index in indices:
                if seeds[index] is not None:
                    self._sources[index] = seeding.np_random(seeds[index])[0]
                self._episodes[index].begin(world.beginnings, self._sources[index], prompt)
        except BaseException:
            self._sources = sources
            for source, state in zip(sources, before, strict=True):
                source.bit_generator.state = state
            raise

    def _begin_overdue(self, world: EnvCore) -> None:
        """Restart ended episodes; after a failed step, only those not restarted yet."""
        if self.autoreset_mode == AutoresetMode.DISABLED:
            return
        for episode, source in zip(self._episodes, self._sources, strict=True):
            if episode.over:
                episode.begin(world.beginnings, source)

    def _advance(self, world: EnvCore, values_NA: NDArray[np.uint8]) -> dict[int, StepOutcome]:
        running = [index for index, episode in enumerate(self._episodes) if not episode.fresh]
        if not running:
            return {}
        outcomes = world.advance([self._episodes[index] for index in running], values_NA[running])
        return dict(zip(running, outcomes, strict=True))

    def _begin_ended(self, world: EnvCore, moved: dict[int, StepOutcome]) -> None:
        """Restart episodes that this step ended and note their last frame; after a failure only the rest."""
        for index, outcome in moved.items():
            episode = self._episodes[index]
            if episode.over:
                self._last[index] = {"final_obs": episode.frame_HWC.copy(), "final_info": outcome.info}
                episode.begin(world.beginnings, self._sources[index])

    def _results(
        self, moved: dict[int, StepOutcome], last: dict[int, Info]
    ) -> tuple[Frames, NDArray[Any], NDArray[Any], NDArray[Any], Info]:
        rewards_N = np.zeros(self.num_envs, np.float64)
        terminated_N, truncated_N = np.zeros((2, self.num_envs), np.bool_)
        infos: Info = {}
        for index, episode in enumerate(self._episodes):
            info: Info | None = None
            if index in moved:
                rewards_N[index], terminated_N[index], truncated_N[index], info = moved[index]
            if index in last:
                infos, info = self._add_info(infos, last[index], index), None
            infos = self._add_info(infos, episode.first() if info is None else info, index)
        return self._frames(), rewards_N, terminated_N, truncated_N, infos

    def _frames(self) -> Frames:
        return np.stack([episode.frame_HWC for episode in self._episodes])

    def _open(self) -> EnvCore:
        if self.closed or self._world is None:
            raise BadInputError("this environment was closed; make another one")
        return self._world


def _mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError as error:
        known = ", ".join(each.value for each in AutoresetMode)
        raise ConfigError(f"unknown autoreset mode {mode!r}; choose from {known}") from error


def _seeds(seed: Seeds, count: int) -> list[int | None]:
    if seed is None:
        return [None] * count
    if isinstance(seed, int | np.integer):
        return [int(seed) + index for index in range(count)]
    if not isinstance(seed, Iterable) or not all(one is None or isinstance(one, int | np.integer) for one in seed):
        raise BadInputError(f"the seed is {seed!r}; expected a whole number, or one for each of {count} dreams")
    if len(seed) != count:
        raise BadInputError(f"{count} dreams need as many seeds; got {len(seed)}")
    return [None if one is None else int(one) for one in seed]


def _mask(mask: Any, count: int) -> NDArray[np.bool_]:
    if mask is None:
        return np.ones(count, np.bool_)
    mask_N = np.asarray(mask)
    if mask_N.shape != (count,) or mask_N.dtype != np.bool_:
        raise BadInputError(f"{MASK_OPTION} is {mask_N.dtype} of shape {mask_N.shape}; expected bool of ({count},)")
    return mask_N
