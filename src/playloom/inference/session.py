"""A session: one dream's state, and the methods to advance, branch and close it. Its engine does the work."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import Schema
from playloom.actions.script import Action, action_values
from playloom.inference.decoder import CacheSlot
from playloom.inference.sampling import Sampling
from playloom.inference.types import StepResult
from playloom.models.folder import ModelDescription


class PromptStep(NamedTuple):
    """One step of a prompt that is not prefilled yet."""

    codes_N: NDArray[np.int64]
    action_A: NDArray[np.uint8] | None  # the action after it; None: the last frame, which the first step answers
    frame_cached: bool = False  # True once only the action is left to prefill


class PendingAction(NamedTuple):
    """The action of a step that has no frame yet."""

    action_A: NDArray[np.uint8]
    given: bool


class _SessionEngine(Protocol):
    """The methods of `Engine` that a session passes on to."""

    model: ModelDescription

    @property
    def bytes_per_session(self) -> int: ...
    def step(self, inputs: Sequence[StepInput]) -> list[StepResult]: ...
    def frames(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]: ...
    def sample_action(self, sessions: Sequence[Session]) -> list[NDArray[np.uint8]]: ...
    def prefill(self, sessions: Sequence[Session]) -> None: ...
    def fork(self, session: Session, seed: int | None) -> Session: ...
    def close(self, session: Session) -> None: ...


@dataclass(kw_only=True, eq=False, repr=False)
class Session:
    """A dream with its own context, sampling and random generator. Made by `Engine.open` or `Session.fork`."""

    engine: _SessionEngine  # runs the session; nothing else changes the fields below
    state: CacheSlot
    sampling: Sampling  # sampling parameters; may be set between steps
    source: Any  # random generator of all its draws, of the engine's backend
    pending: deque[PromptStep] = field(default_factory=deque)  # steps of the prompt that are not prefilled yet
    pending_action: PendingAction | None = None  # set between `sample_action` and the step that has the frame
    index: int = 0
    finished: bool = False  # true after a step without a frame: no step can follow
    closed: bool = False

    @property
    def ready(self) -> bool:
        """True when the whole prompt is prefilled."""
        return not self.pending

    @property
    def bytes(self) -> int:
        """Memory of its cache; a fork shares its parent's until its first step."""
        return 0 if self.closed else self.engine.bytes_per_session

    def __repr__(self) -> str:
        state = "closed" if self.closed else "finished" if self.finished else f"at step {self.index}"
        return f"Session({self.engine.model.config.name}, {state})"

    def step(
        self,
        action: Action | None = None,
        frame: NDArray[np.uint8] | Literal["dream"] | None = "dream",
        *,
        schema: Schema | None = None,
    ) -> StepResult:
        """Advance this session alone by one step; `frame` as in `StepInput`.

        `action` is a name, a mapping such as {"right_stick_x": 1.0}, a `ControllerState`, or 16 numbers in `schema`.
        None: the model chooses it.
        """
        values_A = None if action is None else action_values(action, schema)
        return self.engine.step([StepInput(self, values_A, frame)])[0]

    def sample_action(self) -> NDArray[np.uint8]:
        """Return the session's next action before its frame is known; see `Engine.sample_action`."""
        return self.engine.sample_action([self])[0]

    def prefill(self) -> bool:
        """Prefill one step of the prompt; returns `ready`."""
        self.engine.prefill([self])
        return self.ready

    def fork(self, seed: int | None = None) -> Session:
        """Return a branch that continues on its own; without a seed it draws the same as this session."""
        return self.engine.fork(self, seed)

    def close(self) -> None:
        """Free its memory; closing twice does nothing."""
        self.engine.close(self)


class StepInput(NamedTuple):
    """Input of one session's next step."""

    session: Session
    action_A: NDArray[np.uint8] | None = None
    """The action, uint8 [16]; None: sampled from the model."""
    frame: NDArray[np.uint8] | Literal["dream"] | None = "dream"
    """The frame after it, uint8 [H, W, 3]; "dream": generated; None: no frame, and the session is finished."""
