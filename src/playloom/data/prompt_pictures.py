"""Requested part of a prompt's source, the resulting frames and actions, and prompts from pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.actions.codec import REST_VALUES, Schema
from playloom.errors import ActionError, BadInputError, PictureError, RecordingError
from playloom.media.action_table import read_actions
from playloom.media.images import ResizeMode, fit_picture, read_picture
from playloom.media.output_folder import CLIP_FILE


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptData:
    """Context and recorded future for a model."""

    frames_THWC: NDArray[np.uint8]
    """Context frames, RGB [T, H, W, 3] in the wanted size."""
    actions_TA: NDArray[np.uint8]
    """Action values [T - 1, 16] between them; the last frame has no action yet."""
    true_next_frames_SHWC: NDArray[np.uint8]
    """Recorded frames that follow, [S, H, W, 3]; S is 0 when none are known."""
    true_next_actions_SA: NDArray[np.uint8]
    """Recorded actions from the last context frame on, [S', 16]."""
    notes: tuple[str, ...]
    """Sentences about choices and changes."""
    codes_TN: NDArray[np.int64] | None = None
    """Codes of the context, [T, N], where the source has them."""
    weights: str | None = None
    """Fingerprint of the weights of the codes."""
    dreamed_T: NDArray[np.bool_] | None = None
    """True for generated context frames, [T]; None: all are real."""
    start_step: int = 0
    """Last context step in the source, from 0."""
    kind: Literal["real", "given"] = "real"
    """Origin of frames that were not generated: the game, or your own pictures."""
    name: str = ""
    """Short name: a bundled prompt's name, or a file's or folder's."""
    source: Path | None = None
    """File or folder."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptSpec:
    """Requested part and size of a source.

    Raises:
        BadInputError: when context or horizon is no such number.
    """

    context: int
    """Number of context frames."""
    frame_size: tuple[int, int]
    """Height and width of the model's frames."""
    resize: ResizeMode
    """Resize mode of pictures of another shape."""
    start_step: int | None
    """Last context step, from 0; None: the source's default."""
    horizon: int | None
    """Recorded steps to keep after it; None: all."""

    def __post_init__(self) -> None:
        if self.context < 1:
            raise BadInputError(f"the context is {self.context} steps; expected at least 1")
        if self.horizon is not None and self.horizon < 0:
            raise BadInputError(f"the horizon is {self.horizon} steps; expected at least 0")

    def end_of(self, name: str, steps: int, default: int) -> int:
        """Return the index of the last context frame, checked against a source of `steps` steps.

        Raises:
            RecordingError: when the source is too short for it.
        """
        last = default if self.start_step is None else self.start_step
        if steps < self.context:
            raise RecordingError(
                f"{name} has {steps} steps; a context of {self.context} needs at least as many: ask for a "
                f"shorter context (--context {max(1, steps)}) or give a longer recording"
            )
        if not self.context - 1 <= last < steps:
            raise RecordingError(
                f"{name} has {steps} steps; with a context of {self.context} the last step seen can be "
                f"{self.context - 1} to {steps - 1}, got {last}"
            )
        return last

    def stop(self, last: int, steps: int) -> int:
        """Return one past the last frame needed."""
        return steps if self.horizon is None else min(steps, last + 1 + self.horizon)


def clamp_context(cut: PromptSpec, seen: int) -> tuple[PromptSpec, list[str]]:
    """Return the available context, with a note if it is shorter than requested."""
    if seen >= cut.context:
        return cut, []
    note = f"the context is {seen} step{'s' * (seen > 1)} long, not {cut.context}: no more pictures"
    return replace(cut, context=seen), [note]


def fit_all(
    names: Sequence[str], frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], cut: PromptSpec
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Resize frames [T, H, W, 3], with a sentence for each change."""
    fitted, notes = [], []
    for name, frame_HWC in zip(names, frames, strict=True):
        frame, note = fit_picture(frame_HWC, cut.frame_size, cut.resize)
        fitted.append(frame)
        if note:
            hint = " (--resize letterbox keeps all of it)" if "cropped" in note else ""
            notes.append((name, note + hint))
    return np.stack(fitted), tuple(grouped(notes))


def grouped(notes: Sequence[tuple[str, str]]) -> list[str]:
    """Merge equal notes of several pictures into one sentence each."""
    groups: dict[str, dict[str, None]] = {}
    for name, note in notes:
        groups.setdefault(note, {})[name] = None
    return [
        f"{next(iter(names))}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in groups.items()
    ]


ACTIONS_FILE = "actions.csv"
"""Optional table in a folder of pictures: one row per picture but the last, or more."""


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder in natural order: `2.png` before `10.png`.

    Raises:
        PictureError: when there is none.
    """
    endings = Image.registered_extensions()
    pictures = sorted(
        (p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".")),
        key=_natural,
    )
    if not pictures:
        episodes = any(path.with_suffix(".npz").is_file() for path in folder.glob("*.json"))
        hint = "it looks like a folder of recordings: name one of them" if episodes else "expected PNG or JPEG files"
        raise PictureError(f"there is no picture in {folder}; {hint}")
    return pictures


def from_folder(folder: Path, cut: PromptSpec, schema: Schema | Literal["auto"]) -> PromptData:
    """Make the prompt of a folder of pictures.

    Raises:
        PictureError: when there is none, or one is damaged.
        ActionError: when the table of inputs does not fit.
    """
    pictures = pictures_in(folder)
    if not (folder / ACTIONS_FILE).is_file():
        return from_pictures(pictures, cut, None, ())
    table = read_actions(folder / ACTIONS_FILE, schema)
    if len(table.values_TA) < len(pictures) - 1:
        raise ActionError(
            f"{folder / ACTIONS_FILE} has {len(table.values_TA)} rows for {len(pictures)} pictures; expected "
            f"at least {len(pictures) - 1}: one for every picture but the last"
        )
    return from_pictures(pictures, cut, table.values_TA, table.notes)


def from_pictures(
    paths: Sequence[Path], cut: PromptSpec, actions_TA: NDArray[np.uint8] | None, notes: tuple[str, ...]
) -> PromptData:
    """Make the prompt of some pictures; fewer pictures than the context and unknown actions are fine.

    Raises:
        PictureError: when one is damaged.
        RecordingError: when the last step asked for is none of them.
    """
    last = len(paths) - 1 if cut.start_step is None else cut.start_step
    if not 0 <= last < len(paths):
        raise RecordingError(
            f"there are {len(paths)} pictures; the last one seen can be 0 to {len(paths) - 1}, got {last}"
        )
    first, stop = max(0, last + 1 - cut.context), cut.stop(last, len(paths))
    seen = last + 1 - first
    said = [*notes, *clamp_context(cut, seen)[1]]
    if actions_TA is None and seen > 1:
        said.append(f"there is no {ACTIONS_FILE} beside the pictures: the actions between them are taken as rest")
    known_TA = np.tile(REST_VALUES, (last, 1)) if actions_TA is None else actions_TA
    pictures = [read_picture(path) for path in paths[first:stop]]
    names = [path.name for path in paths[first:stop]]
    said += grouped(_picture_notes(names, [picture.notes for picture in pictures]))
    if any(picture.manifest for picture in pictures):
        said.append(
            "some pictures were dreamed by playloom and bring their mark with them; to go on without it, "
            f"point at the dream's {CLIP_FILE}"
        )
    fitted_THWC, fit_notes = fit_all(names, [picture.frame_HWC for picture in pictures], cut)
    return PromptData(
        frames_THWC=fitted_THWC[:seen],
        dreamed_T=np.array([picture.manifest is not None for picture in pictures[:seen]]),
        actions_TA=known_TA[first:last],
        true_next_frames_SHWC=fitted_THWC[seen:],
        true_next_actions_SA=known_TA[last : None if cut.horizon is None else last + cut.horizon],
        notes=(*said, *fit_notes),
        start_step=last,
        kind="given",
    )


def _picture_notes(names: Sequence[str], notes: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(name, note) for name, several in zip(names, notes, strict=True) for note in several]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
