"""Dreams as Gymnasium environments, one at a time or many in a batch; the extra `rl`.

    env = DreamEnv(reward=lambda transition: transition.after_HWC.mean())
    frame, info = env.reset(seed=1)
    frame, reward, terminated, truncated, info = env.step(env.action_space.sample())

Knows no game: what an agent is given is a model, prompts, and what the user makes of a step.
"""

from playloom.errors import MissingExtraError

try:
    import gymnasium as gymnasium  # before all else, so that its absence is one sentence
except ImportError as error:
    raise MissingExtraError.of("gymnasium", "rl") from error

from playloom.env.controls import ActionTable, Controller, pad_of
from playloom.env.registration import ENV_ID, register
from playloom.env.single import DreamEnv
from playloom.env.transition import Transition
from playloom.env.vector import DreamVectorEnv

__all__ = ["ENV_ID", "ActionTable", "Controller", "DreamEnv", "DreamVectorEnv", "Transition", "pad_of"]

register()
