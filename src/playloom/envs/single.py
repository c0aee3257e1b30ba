"""Single environment on a world model."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS
from playloom.envs.core import FPS, RENDER_MODES, BaseWorldModelEnv, Info
from playloom.errors import ActionError
from playloom.inference.session import Session


class WorldModelEnv(BaseWorldModelEnv, gym.Env[NDArray[Any], Any]):
    """A Gymnasium environment whose frames a world model generates; a step is 0.1 s.

    Observation: uint8 [H, W, 3] RGB, without watermark, or the frame's codes, int64 [N]; the first of an episode is the
    prompt's last frame. Action: the whole controller, float32 [16] in [-1, 1], as of
    `playloom.games.arena.env.ArenaEnv`, or the number of an entry of `actions`.

    `info` of resets and steps: `prompt` (its number), `dream_seed`, `codes` (of the frame, int64 [N]), `actions`
    (values uint8 [16]; rest after a reset) and `entropy` (see `StepResult.entropy`; 0.0 after a reset, whose frame is
    given). With heads also `termination`, the predicted probability, and `states`, a dict of predicted scalars; both
    NaN after a reset. Methods raise an ActionError for an action outside the space, and a BadInputError before the
    first reset, after an episode's end and for other options.
    """

    metadata = {"render_modes": list(RENDER_MODES), "render_fps": FPS}  # noqa: RUF012 (Gymnasium's own form)

    @property
    def session(self) -> Session:
        """The current session. Fork it to look ahead; do not step it."""
        return self._episodes[0].running()

    def reset(self, *, seed: int | None = None, options: Info | None = None) -> tuple[NDArray[Any], Info]:
        """Begin an episode: same seed, same prompt, same frames.

        Args:
            seed: of this and all later episodes; None: continue drawing.
            options: `{"prompt": 3}` begins at that prompt instead of a drawn one.
        """
        super().reset(seed=seed)
        (episode,) = self._episodes
        self._begin(episode, self.np_random, self._prompt_option(options))
        return self._observe(episode), episode.reset_info()

    def step(self, action: Any) -> tuple[NDArray[Any], float, bool, bool, Info]:
        """Hold an action for one step. Errors of `reward_fn` and `terminated_fn` propagate after the step is made."""
        (episode,) = self._episodes
        values_A = self.action_mapper.values(action)
        if values_A.shape != (ACTION_SLOTS,):
            raise ActionError(f"the actions have shape {np.shape(action)}: expected one action")
        (outcome,) = self._advance([episode], values_A[None])
        return self._observe(episode), *outcome

    def render(self) -> NDArray[np.uint8] | None:
        """Return the current frame, uint8 [H, W, 3], watermarked if generated. None before the first reset."""
        return None if self.render_mode is None else self._episodes[0].picture()

    def close(self) -> None:
        """Free the memory of all sessions; a reset begins anew."""
        self._free()
