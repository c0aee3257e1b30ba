"""Dreams as Gymnasium environments, one at a time or many in a batch; the extra `rl`.

    env = WorldModelEnv(reward=lambda transition: transition.after_HWC.mean())
    frame, info = env.reset(seed=1)
    frame, reward, terminated, truncated, info = env.step(env.action_space.sample())

Knows no game: what an agent is given is a model, prompts, and what the user makes of a step.
"""

from playloom.errors import MissingExtraError

try:
    import gymnasium as gym  # before the modules below, so that its absence is one sentence
except ImportError as error:
    raise MissingExtraError.of("gymnasium", "rl") from error

from playloom.envs.actions import Controller, DiscreteActions
from playloom.envs.core import Transition
from playloom.envs.single import WorldModelEnv
from playloom.envs.vector import WorldModelVectorEnv

__all__ = ["ENV_ID", "Controller", "DiscreteActions", "Transition", "WorldModelEnv", "WorldModelVectorEnv"]

ENV_ID = "playloom/Dream-v0"
"""`gymnasium.make` gives a `WorldModelEnv`, `gymnasium.make_vec` a `WorldModelVectorEnv`."""


def register() -> None:
    """Make the name known; again does nothing."""
    if ENV_ID not in gym.registry:
        gym.register(
            ENV_ID,
            entry_point="playloom.envs.single:WorldModelEnv",
            vector_entry_point="playloom.envs.vector:WorldModelVectorEnv",
        )


register()
