"""Values that go into and come out of an engine: prompts, requests and steps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.errors import BadInputError
from playloom.inference.sampling import Sampling
from playloom.models.heads import StepPrediction
from playloom.models.sequence import StepLayout

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

    def action(self, index: int) -> NDArray[np.uint8] | None:
        """Return the given action of a step; None: sampled."""
        if self.mode == "policy" or self.actions_SA is None or index >= len(self.actions_SA):
            return None
        return self.actions_SA[index]

    def frame(self, index: int) -> NDArray[np.uint8] | Literal["dream"] | None:
        """Return the frame of a step's `StepInput`: "dream" or, in policy mode, the given frame if known."""
        if self.mode != "policy":
            return "dream"
        if self.frames_SHWC is None or index >= len(self.frames_SHWC):
            return None
        return self.frames_SHWC[index]


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


def check_codes(codes_TN: NDArray[np.int64], layout: StepLayout) -> NDArray[np.int64]:
    """Return codes as int64 [T, N] after a check of their range: one out of range crashes CUDA."""
    codebook, slots = layout.vocab.codebook_size, layout.image_slots
    if codes_TN.ndim != 2 or codes_TN.shape[1] != slots or not np.issubdtype(codes_TN.dtype, np.integer):
        raise BadInputError(
            f"codes are of another model: got {codes_TN.dtype} {list(codes_TN.shape)}, expected integers [T, {slots}]"
        )
    if codes_TN.size and not 0 <= codes_TN.min() <= codes_TN.max() < codebook:
        raise BadInputError(
            f"codes are of another model: got {codes_TN.min()} to {codes_TN.max()}, expected 0 to {codebook - 1}"
        )
    return codes_TN.astype(np.int64)
