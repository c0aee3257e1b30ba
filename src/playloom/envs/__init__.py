"""Gymnasium environments of generated episodes, single and batched; extra `rl`.

env = WorldModelEnv(reward=lambda transition: transition.after_HWC.mean())
frame, info = env.reset(seed=1)
frame, reward, terminated, truncated, info = env.step(env.action_space.sample())
"""

from __future__ import annotations

import gymnasium as gym

ENV_ID = "playloom/Dream-v0"
"""Id for `gymnasium.make` (`WorldModelEnv`) and `gymnasium.make_vec` (`WorldModelVectorEnv`)."""


def register() -> None:
    """Register the environments; idempotent."""
    if ENV_ID not in gym.registry:
        gym.register(
            ENV_ID,
            entry_point="playloom.envs.single:DreamEnv",
            vector_entry_point="playloom.envs.vector:DreamVectorEnv",
        )
