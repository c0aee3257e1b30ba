"""A session: one dream's state, and the methods to advance, branch and close it. Its engine does the work.

Here too: the prompts, requests and steps that go into an engine and come out of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import Schema, check_values
from playloom.actions.script import Action, action_values
from playloom.errors import BadInputError
from playloom.inference.decoder import CacheSlot
from playloom.inference.sampling import Sampling
from playloom.models.folder import ModelDescription
from playloom.models.heads import StepPrediction

Mode = Literal["world", "policy", "full"]
"""`world`: actions given, frames dreamed. `policy`: frames given, actions dreamed. `full`: both dreamed."""
ActionSource = Literal["player", "model"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Prompt:
    """Real steps to continue from: frames, and the actions between them."""

    frames_THWC: NDArray[np.uint8]
    """Frames, uint8 [T, H, W, 3], RGB."""
    actions_TA: NDArray[np.uint8]
    """Action values, uint8 [T - 1, 16]: the action after every frame but the last."""
    codes_TN: NDArray[np.int64] | None = None
    """The frames' codes if they are known, as those of generated frames are; None: encode the frames."""

    def __post_init__(self) -> None:
        frames, actions = len(self.frames_THWC), len(self.actions_TA)
        if frames < 1 or actions != frames - 1:
            raise BadInputError(f"prompt has {actions} actions for {frames} frames: expected {max(frames - 1, 0)}")
        if self.codes_TN is not None and len(self.codes_TN) != frames:
            raise BadInputError(f"prompt has {frames} frames but codes for {len(self.codes_TN)}")
        check_values(np.asarray(self.actions_TA).reshape(actions, -1) if actions else np.zeros((0, 16)))

    def last(self, steps: int) -> Prompt:
        """Return the last `steps` frames and the actions between them."""
        codes = None if self.codes_TN is None else self.codes_TN[-steps:]
        actions = self.actions_TA[len(self.actions_TA) - min(steps, len(self.frames_THWC)) + 1 :]
        return Prompt(frames_THWC=self.frames_THWC[-steps:], actions_TA=actions, codes_TN=codes)


@dataclass(frozen=True, kw_only=True, eq=False)
class GenerationRequest:
    """One dream."""

    prompt: Prompt
    mode: Mode = "world"
    steps: int = 10
    actions_SA: NDArray[np.uint8] | None = None
    """`world`: the action of every step, uint8 [steps, 16]. `full`: forced actions of the first steps, if any."""
    frames_SHWC: NDArray[np.uint8] | None = None
    """`policy`: the true frames after the prompt, at least steps - 1 of them."""
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    """Seed of all draws: same request and seed, same tokens."""

    def __post_init__(self) -> None:
        if self.mode not in ("world", "policy", "full"):
            raise BadInputError(f"unknown mode {self.mode!r}: expected world, policy or full")
        if self.steps < 1:
            raise BadInputError(f"steps is {self.steps}: expected 1 or more")
        actions = 0 if self.actions_SA is None else len(check_values(self.actions_SA))
        if self.mode == "world" and actions < self.steps:
            raise BadInputError(f"world mode got {actions} actions: expected one for each of {self.steps} steps")
        frames = 0 if self.frames_SHWC is None else len(self.frames_SHWC)
        if self.mode == "policy" and frames < self.steps - 1:
            raise BadInputError(f"policy mode got {frames} frames after the prompt: expected {self.steps - 1} or more")

    def step(self, index: int) -> tuple[NDArray[np.uint8] | None, NDArray[np.uint8] | Literal["dream"] | None]:
        """Return the action and the frame of a step's `StepInput`."""
        given = self.frames_SHWC if self.mode == "policy" else self.actions_SA
        known = given[index] if given is not None and index < len(given) else None
        return (None, known) if self.mode == "policy" else (known, "dream")


@dataclass(frozen=True, eq=False)
class StepResult:
    """One step of a dream: the action, and the frame after it."""

    index: int
    action_A: NDArray[np.uint8]
    """Action values, uint8 [16]."""
    action_given: bool
    """True if the action was given, False if the model sampled it."""
    frame_HWC: NDArray[np.uint8] | None
    """The frame after the action, uint8 [H, W, 3]; None after the last action of policy mode."""
    codes_N: NDArray[np.int64] | None
    """The frame's codes. Continue from these: encoding the frame again may give others."""
    entropy: float | None = None
    """Mean entropy in nats of the distributions of the codes; None: not asked for, or not generated."""
    prediction: StepPrediction | None = None
    """Predicted consequences of the action; None: the model has no heads, or the frame was not generated."""


class PromptStep(NamedTuple):
    """One step of a prompt that is not prefilled yet."""

    action_A: NDArray[np.uint8] | None  # None: the first frame, which no action led to
    codes_N: NDArray[np.int64]


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
