"""Policies that play the real game: the model and its baselines.

policy = ModelPolicy(engine, prompt, sampling=Sampling(), seed=7)
values_A = policy.act()      # answer to the newest frame
policy.observe(frame_HWC)    # the frame that followed
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, SLOT_SIZES
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt


class Policy:
    """A player of one life; `act` and `observe` alternate."""

    def act(self) -> NDArray[np.uint8]:
        """Return the input after the newest frame: action values, uint8 [16]."""
        raise NotImplementedError

    def observe(self, frame_HWC: NDArray[np.uint8]) -> None:
        """Append the frame that followed, uint8 [H, W, 3], to the context; no-op by default."""

    def close(self) -> None:
        """Release resources at the end of the life; no-op by default."""


class ModelPolicy(Policy):
    """The model as a player, with real frames and its own inputs as context.

    Raises:
        PictureError: when the frames are not of its size.
        ResourceError: when there is no memory for it.
    """

    def __init__(self, engine: Engine, prompt: Prompt, *, sampling: Sampling, seed: int) -> None:
        self._session = engine.open(prompt, sampling=sampling, seed=seed)

    def act(self) -> NDArray[np.uint8]:
        """Sample an action."""
        return self._session.sample_action()

    def observe(self, frame_HWC: NDArray[np.uint8]) -> None:
        """Complete the step with the real frame."""
        self._session.step(frame=frame_HWC)

    def close(self) -> None:
        """Free the session's memory."""
        self._session.close()


class RepeatPolicy(Policy):
    """Repeat the last input of the prompt; rest where the prompt has none."""

    def __init__(self, prompt: Prompt) -> None:
        self._values_A = prompt.actions_TA[-1] if len(prompt.actions_TA) else REST_VALUES

    def act(self) -> NDArray[np.uint8]:
        """Return the repeated action."""
        return self._values_A.copy()


class RandomPolicy(Policy):
    """Draw every control uniformly at every step."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.default_rng((seed, 2))

    def act(self) -> NDArray[np.uint8]:
        """Return a random action."""
        return self._rng.integers(0, SLOT_SIZES).astype(np.uint8)
