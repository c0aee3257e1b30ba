"""World models as Gymnasium environments, one at a time or many in a batch; the extra `rl`.

    env = WorldModelEnv(reward=lambda transition: transition.after_HWC.mean())
    frame, info = env.reset(seed=1)
    frame, reward, terminated, truncated, info = env.step(env.action_space.sample())

`import playloom` registers `playloom/Dream-v0` for `gymnasium.make` and `gymnasium.make_vec`.
"""

from playloom.errors import MissingExtraError

try:
    import gymnasium as gymnasium
except ImportError as error:
    raise MissingExtraError.of("gymnasium", "rl") from error

from playloom.envs.core import Transition
from playloom.envs.single import WorldModelEnv
from playloom.envs.vector import WorldModelVectorEnv

ENV_ID = "playloom/Dream-v0"
"""`gymnasium.make` gives a `WorldModelEnv`, `gymnasium.make_vec` a `WorldModelVectorEnv`."""

__all__ = ["ENV_ID", "Transition", "WorldModelEnv", "WorldModelVectorEnv"]
