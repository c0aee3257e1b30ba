"""The dream under a name that `gymnasium.make` knows.

Gymnasium looks for no plug-ins: a name is known once somebody has imported what registers it. Importing `playloom.env`
does, and so does `gymnasium.make("playloom.env:playloom/Dream-v0")`.
"""

from __future__ import annotations

import gymnasium as gym

ENV_ID = "playloom/Dream-v0"
"""`gymnasium.make` gives a `DreamEnv`, `gymnasium.make_vec` a `DreamVectorEnv`."""


def register() -> None:
    """Make the name known; again does nothing."""
    if ENV_ID not in gym.registry:
        gym.register(
            ENV_ID,
            entry_point="playloom.env.single:DreamEnv",
            vector_entry_point="playloom.env.vector:DreamVectorEnv",
        )
