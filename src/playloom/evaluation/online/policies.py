"""Policies that play the real game: the model and its baselines.

policy = ModelPolicy(engine, prompt, sampling=Sampling(), seed=7)
values_A = policy.act()      # answer to the newest frame
policy.observe(frame_HWC)    # the frame that followed
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, SLOT_SIZES
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt


class Policy(Protocol):
    """A player of one game; `act` and `observe` alternate."""

    def act(self) -> NDArray[np.uint8]:
        """Return the input after the newest frame: action values, uint8 [16]."""

    def observe(self, frame_HWC: NDArray[np.uint8]) -> None:
        """PolicyFactory in the frame that followed, uint8 [H, W, 3]."""

    def close(self) -> None:
        """Release resources at the end of the game."""


class ModelPolicy:
    """The model as a player, with real frames and its own inputs as context.

    Raises:
        PictureError: when the frames are not of its size.
        ResourceError: when there is no memory for it.
    """

    def __init__(self, dreamer: Engine, prompt: Prompt, *, sampling: Sampling, seed: int) -> None:
        self._session = dreamer.open(prompt, sampling=sampling, seed=seed)

    def act(self) -> NDArray[np.uint8]:
        """Sample an action."""
        return self._session.sample_action()

    def observe(self, frame_HWC: NDArray[np.uint8]) -> None:
        """Append the real frame to the context and complete the step."""
        self._session.step(frame=frame_HWC)

    def close(self) -> None:
        """Free the session's memory."""
        self._session.close()


class RepeatPolicy:
    """Repeat the last input of the prompt; rest where the prompt has none."""

    def __init__(self, prompt: Prompt) -> None:
        self._held_A = prompt.actions_TA[-1] if len(prompt.actions_TA) else REST_VALUES

    def act(self) -> NDArray[np.uint8]:
        """Return the repeated action."""
        return self._held_A.copy()

    def observe(self, frame_HWC: NDArray[np.uint8]) -> None:
        """No-op."""

    def close(self) -> None:
        """No-op."""


class RandomPolicy:
    """Draw every control uniformly at every step."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.default_rng((seed, 2))

    def act(self) -> NDArray[np.uint8]:
        """Return a random action."""
        return self._source.integers(0, SLOT_SIZES).astype(np.uint8)

    def observe(self, frame_HWC: NDArray[np.uint8]) -> None:
        """No-op."""

    def close(self) -> None:
        """No-op."""
