"""Who holds the controller: the model, or one of the baselines beside it.

Owns how each chooses its next input from what it has seen. Knows nothing of the game, of files or of figures.

    hand = ModelHand(dreamer, prompt, sampling=Sampling(), seed=7)
    values_A = hand.press()     # its answer to the newest frame
    hand.see(frame_HWC)         # the frame that really followed
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
    """Presses, then sees what followed; in turns, for one game."""

    def press(self) -> NDArray[np.uint8]:
        """The input after the newest frame: action values, uint8 [16]."""

    def see(self, frame_HWC: NDArray[np.uint8]) -> None:
        """The frame that followed, uint8 [H, W, 3]."""

    def close(self) -> None:
        """The game is over."""


class ModelPolicy:
    """The model as a player: its context holds real frames and the inputs it gave itself.

    Raises:
        PictureError: when the frames are not of its size.
        ResourceError: when there is no memory for it.
    """

    def __init__(self, dreamer: Engine, prompt: Prompt, *, sampling: Sampling, seed: int) -> None:
        self._session = dreamer.open(prompt, sampling=sampling, seed=seed)

    def press(self) -> NDArray[np.uint8]:
        """What it would press now, drawn as its sampling says."""
        return self._session.sample_action()

    def see(self, frame_HWC: NDArray[np.uint8]) -> None:
        """The real frame goes into its context; the step is complete."""
        self._session.step(frame=frame_HWC)

    def close(self) -> None:
        """Give its memory back."""
        self._session.close()


class RepeatPolicy:
    """Holds the last input of the prompt for ever; rest where the prompt has none."""

    def __init__(self, prompt: Prompt) -> None:
        self._held_A = prompt.actions_TA[-1] if len(prompt.actions_TA) else REST_VALUES

    def press(self) -> NDArray[np.uint8]:
        """The same as ever."""
        return self._held_A.copy()

    def see(self, frame_HWC: NDArray[np.uint8]) -> None:
        """It does not look."""

    def close(self) -> None:
        """Nothing to give back."""


class RandomPolicy:
    """Draws every control anew in every step, all its positions equally likely."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.default_rng((seed, 2))

    def press(self) -> NDArray[np.uint8]:
        """Another input."""
        return self._source.integers(0, SLOT_SIZES).astype(np.uint8)

    def see(self, frame_HWC: NDArray[np.uint8]) -> None:
        """It does not look."""

    def close(self) -> None:
        """Nothing to give back."""
