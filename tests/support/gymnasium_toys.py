"""A small Gymnasium environment for the recorder: a bright column that the actions move."""

import os

import gymnasium
import numpy as np


class Slide(gymnasium.Env):
    """Action 0 moves left and 1 right, by one column a step; it ends at the sixth column, and after 12 steps."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012
    observation_space = gymnasium.spaces.Box(-6, 6, (1,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, render_mode=None, raises=(), dies=()):
        self.render_mode, self.raises, self.dies = render_mode, raises, dies

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seed, self.place, self.step_count = seed, 0, 0
        return self._observation(), {}

    def step(self, action):
        self.place += 1 if action else -1
        self.step_count += 1
        if self.step_count > 5 and self.seed in self.raises:
            raise RuntimeError(f"no more of seed {self.seed}")
        if self.step_count > 5 and self.seed in self.dies:
            os._exit(3)
        ended = abs(self.place) >= 6, self.step_count >= 12
        return self._observation(), 1.0 if action else 0.0, *ended, {"place": self.place, "name": "column"}

    def render(self):
        frame = np.zeros((8, 16, 3), np.uint8)
        frame[:, 8 + self.place] = 255
        return frame

    def _observation(self):
        return np.array([self.place], np.float32)


def forward_then_random(observation, rng):
    """Right at the start, then right with three chances of four."""
    return 1 if observation[0] <= 0 else int(rng.random() < 0.75)


gymnasium.register("playloom-toys/Slide-v0", entry_point=Slide)
