"""One dream that goes on for as long as somebody wants it to; a thin handle, the dreamer does the work."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from playloom.engine.requests import DreamStep
from playloom.engine.sampling import Sampling
from playloom.engine.state import DreamState

if TYPE_CHECKING:
    from playloom.engine.dreamer import Dreamer


class PromptStep(NamedTuple):
    """One step of a prompt that a session has still to see."""

    codes_N: Tensor | None
    """The frame's codes; None: seen already, and to be answered."""
    values_A: Tensor | None
    """The action taken after it; None: the last frame, not yet answered."""


class Taken(NamedTuple):
    """The action of a step whose frame is still to come."""

    action_A: NDArray[np.uint8]
    """Action values, uint8 [16]."""
    given: bool
    """Whether it was given, not dreamed."""


class Session:
    """A dream with its own context, sampling and random source. Made by `Dreamer.open` or `Session.fork`."""

    def __init__(
        self,
        dreamer: Dreamer,
        state: DreamState,
        *,
        sampling: Sampling,
        source: torch.Generator,
        pending: deque[PromptStep] | None = None,
        index: int = 0,
    ) -> None:
        self.dreamer, self.state, self.sampling, self.source = dreamer, state, sampling, source
        self.pending: deque[PromptStep] = deque() if pending is None else pending
        self.index = index
        """Number of the next step, from 0."""
        self.closed = False
        self.taken: Taken | None = None
        """Set while a step is half done: the next turn goes on with this action, whatever it brings itself."""
        self.ended = False
        """Whether its last turn had no frame: nothing can follow."""

    @property
    def ready(self) -> bool:
        """Whether the whole prompt has been seen."""
        return not self.pending

    @property
    def bytes(self) -> int:
        """Memory of its cache; a fork that has not moved on shares it with its parent."""
        return 0 if self.closed else self.dreamer.bytes_per_session

    def step(
        self, action_A: NDArray[np.uint8] | None = None, frame: NDArray[np.uint8] | Literal["dream"] | None = "dream"
    ) -> DreamStep:
        """One step alone; see `Turn` for the arguments and `Dreamer.advance` for the errors."""
        return self.dreamer.advance([Turn(self, action_A, frame)])[0]

    def decide(self) -> NDArray[np.uint8]:
        """The action it takes next, before the frame that follows is known; see `Dreamer.decide`."""
        return self.dreamer.decide([self])[0]

    def warm(self) -> bool:
        """See one step of the prompt; returns `ready`. For callers that must not wait for all of it at once."""
        self.dreamer.warm([self])
        return self.ready

    def fork(self, seed: int | None = None) -> Session:
        """A branch that goes on from here on its own; without a seed it would draw what this one draws."""
        return self.dreamer.fork(self, seed)

    def close(self) -> None:
        """Give its memory back; closing twice does nothing."""
        self.dreamer.close(self)


class Turn(NamedTuple):
    """What one session does next."""

    session: Session
    """Whose turn."""
    action_A: NDArray[np.uint8] | None = None
    """The action taken, uint8 [16]; None: it is dreamed."""
    frame: NDArray[np.uint8] | Literal["dream"] | None = "dream"
    """The frame that follows, uint8 [H, W, 3], where it is known; "dream"; or None: none follows, the session ends and
    can only be closed."""
