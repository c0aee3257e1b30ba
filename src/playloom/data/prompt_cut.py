"""Which part of a prompt's source is wanted, and what comes of it: frames of one size and the actions between them.

Owns the bounds and how frames are fitted. Knows nothing of files; `prompts` recognises and reads them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError, RecordingError
from playloom.media.pictures import Fit, fit_picture


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptData:
    """A prompt, ready for a model."""

    frames_THWC: NDArray[np.uint8]
    """The frames seen, RGB [T, H, W, 3] in the wanted size."""
    actions_TA: NDArray[np.uint8]
    """The actions between them, values [T - 1, 16]: the last frame is still unanswered."""
    true_next_frames_SHWC: NDArray[np.uint8]
    """What really followed, [S, H, W, 3]; S is 0 when nothing is known."""
    true_next_actions_SA: NDArray[np.uint8]
    """What was really done from the last frame on, [S', 16]; its first row answers the last frame seen."""
    notes: tuple[str, ...]
    """What was chosen or changed, as sentences."""
    codes_TN: NDArray[np.int64] | None = None
    """Codes of the frames seen, [T, N], where a dream kept them."""
    weights: str | None = None
    """Fingerprint of the weights that the codes belong to."""
    dreamed_T: NDArray[np.bool_] | None = None
    """Which of the frames seen were dreamed, [T]; None: none."""
    at: int = 0
    """The last step seen, from 0, in its source."""
    kind: Literal["real", "given"] = "real"
    """Where frames that were not dreamed come from: recorded in the game, or pictures of the user's own."""
    name: str = ""
    """The source in short: `moment:NAME`, or a file's or folder's name."""
    source: Path | None = None
    """Its file or folder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptCut:
    """Which part of a source is wanted.

    Raises:
        BadInputError: when context or horizon is no such number.
    """

    context: int
    """Frames seen."""
    frame_size: tuple[int, int]
    """Height and width of the model's frames."""
    fit: Fit
    """How pictures of another shape are fitted."""
    at: int | None
    """The last step seen, from 0; None: what is usual for the source."""
    horizon: int | None
    """True steps to keep after it; None: all there are."""

    def __post_init__(self) -> None:
        if self.context < 1:
            raise BadInputError(f"the context is {self.context} steps; expected at least 1")
        if self.horizon is not None and self.horizon < 0:
            raise BadInputError(f"the horizon is {self.horizon} steps; expected at least 0")

    def end_of(self, name: str, steps: int, default: int) -> int:
        """The index of the last frame seen, checked against a source of `steps` steps.

        Raises:
            RecordingError: when the source is too short for it.
        """
        at = default if self.at is None else self.at
        if steps < self.context:
            raise RecordingError(
                f"{name} has {steps} steps; a context of {self.context} needs at least as many: ask for a "
                f"shorter context (--context {max(1, steps)}) or give a longer recording"
            )
        if not self.context - 1 <= at < steps:
            raise RecordingError(
                f"{name} has {steps} steps; with a context of {self.context} the last step seen can be "
                f"{self.context - 1} to {steps - 1}, got {at}"
            )
        return at

    def stop(self, at: int, steps: int) -> int:
        """One past the last frame that is needed."""
        return steps if self.horizon is None else min(steps, at + 1 + self.horizon)


def shortened(cut: PromptCut, seen: int) -> tuple[PromptCut, list[str]]:
    """A context of what there is, and a note if that is less than was asked for."""
    if seen >= cut.context:
        return cut, []
    note = f"the context is {seen} step{'s' * (seen > 1)} long, not {cut.context}: no more pictures"
    return replace(cut, context=seen), [note]


def fit_all(
    names: Sequence[str], frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], cut: PromptCut
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Frames [T, H, W, 3] of the wanted size, and what was done to make them so, as sentences."""
    fitted, notes = [], []
    for name, frame_HWC in zip(names, frames, strict=True):
        frame, note = fit_picture(frame_HWC, cut.frame_size, cut.fit)
        fitted.append(frame)
        if note:
            hint = " (--fit letterbox keeps all of it)" if "cropped" in note else ""
            notes.append((name, note + hint))
    return np.stack(fitted), tuple(grouped(notes))


def grouped(notes: Sequence[tuple[str, str]]) -> list[str]:
    """One sentence for each thing that was done, however many pictures it was done to."""
    groups: dict[str, dict[str, None]] = {}
    for name, note in notes:
        groups.setdefault(note, {})[name] = None
    return [
        f"{next(iter(names))}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in groups.items()
    ]
