"""Gymnasium environments of generated episodes, single and batched; extra `rl`.

    env = WorldModelEnv(reward_fn=lambda transition: transition.after_HWC.mean())
    frame, info = env.reset(seed=1)
    frame, reward, terminated, truncated, info = env.step(env.action_space.sample())

`import playloom` registers `playloom/Dream-v0` for `gymnasium.make` and `gymnasium.make_vec`.
"""

from playloom.errors import MissingExtraError

try:
    import gymnasium as gymnasium  # before all else, so that its absence is one sentence
except ImportError as error:
    raise MissingExtraError.of("gymnasium", "rl") from error

from playloom.envs.actions import Controller, DiscreteActions, make_action_mapper
from playloom.envs.core import Transition, WorldModelEnv
from playloom.envs.vector import WorldModelVectorEnv

ENV_ID = "playloom/Dream-v0"
"""Id for `gymnasium.make` (`WorldModelEnv`) and `gymnasium.make_vec` (`WorldModelVectorEnv`)."""

__all__ = [
    "ENV_ID",
    "Controller",
    "DiscreteActions",
    "Transition",
    "WorldModelEnv",
    "WorldModelVectorEnv",
    "make_action_mapper",
]
