"""A `WorldModelVectorEnv` as a vector environment of stable-baselines3 2.x, which has an interface of its own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode
from numpy.typing import NDArray

from playloom.envs.core import Info
from playloom.envs.vector import WorldModelVectorEnv
from playloom.errors import BadInputError, ConfigError, MissingExtraError

try:
    from stable_baselines3.common.vec_env import VecEnv
except ImportError as error:
    raise MissingExtraError("stable_baselines3 is not installed; get it with: pip install stable-baselines3") from error


class StableBaselines3VecEnv(VecEnv):  # type: ignore[misc]  # the package is optional, so mypy skips it
    """A batch of environments for the algorithms of stable-baselines3.

    An episode's end is in its last `info`: `terminal_observation` and `TimeLimit.truncated`. The environments have no
    attributes of their own: `get_attr` gives those of the batch, `set_attr` and `env_method` raise a BadInputError.
    """

    def __init__(self, envs: WorldModelVectorEnv) -> None:
        """Take over environments with `autoreset_mode="SameStep"`; a ConfigError for another mode."""
        if envs.autoreset_mode != AutoresetMode.SAME_STEP:
            raise ConfigError(f"autoreset_mode is {envs.autoreset_mode.value}: expected SameStep for stable-baselines3")
        self.envs = envs
        super().__init__(envs.num_envs, envs.single_observation_space, envs.single_action_space)

    def reset(self) -> NDArray[Any]:
        """Begin an episode in every environment, with the seeds and options set before."""
        options = self._options[0]
        if any(each != options for each in self._options):
            raise BadInputError("the options of the environments differ: a batch is reset with one set of options")
        observations, infos = self.envs.reset(seed=self._seeds, options=options)
        self.reset_infos = [_one(infos, index) for index in range(self.num_envs)]
        self._reset_seeds()
        self._reset_options()
        return observations

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keep the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[NDArray[Any], NDArray[np.float32], NDArray[np.bool_], list[Info]]:
        """Step; returns observations, rewards, ends and infos."""
        observations, rewards_N, terminated_N, truncated_N, infos = self.envs.step(self._actions)
        found = [_one(infos, index) for index in range(self.num_envs)]
        done_N = terminated_N | truncated_N
        for index in np.flatnonzero(done_N):
            last = found[index].pop("final_info") | {"terminal_observation": found[index].pop("final_obs")}
            self.reset_infos[index], found[index] = found[index], last
        for info, truncated in zip(found, truncated_N & ~terminated_N, strict=True):
            info["TimeLimit.truncated"] = bool(truncated)
        return observations, rewards_N.astype(np.float32), done_N, found

    def close(self) -> None:
        """Free the memory of all sessions."""
        self.envs.close()

    def get_images(self) -> Sequence[NDArray[np.uint8] | None]:
        """Return every environment's frame; see `WorldModelEnv.render`."""
        return self.envs.render() or [None] * self.num_envs

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return an attribute of the batch, once for each environment."""
        return [getattr(self.envs, attr_name) for _ in self._get_indices(indices)]

    def set_attr(self, attr_name: str, *args: Any, **kwargs: Any) -> Any:
        """Raise a BadInputError."""
        raise BadInputError(f"{attr_name} belongs to no single environment: set or call it on the WorldModelVectorEnv")

    env_method = set_attr

    def env_is_wrapped(self, wrapper_class: type, indices: Any = None) -> list[bool]:
        """Return False for each environment."""
        return [False for _ in self._get_indices(indices)]


def _one(infos: Info, index: int) -> Info:
    """Return one environment's part of Gymnasium's batched infos."""
    found = {name: infos[name] for name in infos if f"_{name}" in infos and infos[f"_{name}"][index]}
    return {name: _one(one, index) if isinstance(one, dict) else one[index] for name, one in found.items()}
