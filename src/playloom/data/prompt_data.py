"""Context of a prompt with its recorded future, the requested part of a source, and prompts made of pictures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
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

ACTIONS_FILE = "actions.csv"
"""Optional table in a folder of pictures: one row per picture but the last, or more."""


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptData:
    """Context and recorded future for a model."""

    frames_THWC: NDArray[np.uint8]
    """Context frames, RGB [T, H, W, 3] in the requested size."""
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
    """Requested part and size of a source; BadInputError when context or horizon is out of range."""

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
            raise BadInputError(f"the context is out of range: got {self.context} steps, expected at least 1")
        if self.horizon is not None and self.horizon < 0:
            raise BadInputError(f"the horizon is out of range: got {self.horizon} steps, expected at least 0")

    def rows(self, name: str, steps: int, default: int, *, least: int) -> tuple[int, int, int]:
        """Return the first needed row of a source, its last context row, and one past the last needed row.

        `default` stands for a missing `start_step`. Down to `least` frames, a source that begins later gives a shorter
        context.
        """
        at = default if self.start_step is None else self.start_step
        if steps < least:
            raise RecordingError(
                f"{name} has {steps} steps; a context of {self.context} needs at least as many: request a shorter "
                f"context (--context {max(1, steps)}) or give a longer recording"
            )
        if not least - 1 <= at < steps:
            raise RecordingError(
                f"{name} has {steps} steps; with a context of {least} or more the last context step can be "
                f"{least - 1} to {steps - 1}, got {at}"
            )
        return max(0, at + 1 - self.context), at, steps if self.horizon is None else min(steps, at + 1 + self.horizon)

    def prompt(
        self,
        names: Sequence[str],
        frames: Iterable[NDArray[np.uint8]],
        actions_TA: NDArray[np.uint8],
        first: int,
        at: int,
    ) -> PromptData:
        """Resize the needed frames, of which row `first` is the first, and divide them after row `at`."""
        seen, notes, fitted = at + 1 - first, [], []
        for name, frame_HWC in zip(names, frames, strict=True):
            fitted_HWC, note = fit_picture(frame_HWC, self.frame_size, self.resize)
            fitted.append(fitted_HWC)
            if note:
                notes.append((name, note + (" (--resize letterbox keeps all of it)" if "cropped" in note else "")))
        short = f"the context is {seen} step{'s' * (seen > 1)} long, not {self.context}: no more pictures"
        fitted_THWC = np.stack(fitted)
        return PromptData(
            frames_THWC=fitted_THWC[:seen],
            actions_TA=actions_TA[first:at],
            true_next_frames_SHWC=fitted_THWC[seen:],
            true_next_actions_SA=actions_TA[at : None if self.horizon is None else at + self.horizon],
            notes=(*([short] if seen < self.context else []), *_grouped(notes)),
            start_step=at,
        )


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder in natural order: `2.png` before `10.png`; PictureError when there is none."""
    endings = Image.registered_extensions()
    pictures = [p for p in folder.iterdir() if p.suffix.lower() in endings and not p.name.startswith(".")]
    if not pictures:
        episodes = any(path.with_suffix(".npz").is_file() for path in folder.glob("*.json"))
        hint = "it looks like a folder of recordings: name one of them" if episodes else "expected PNG or JPEG files"
        raise PictureError(f"there is no picture in {folder}; {hint}")
    return sorted(pictures, key=_natural)


def from_folder(folder: Path, spec: PromptSpec, schema: Schema | Literal["auto"]) -> PromptData:
    """Make the prompt of a folder of pictures, with its `actions.csv` if there is one."""
    pictures, table = pictures_in(folder), folder / ACTIONS_FILE
    if not table.is_file():
        return from_pictures(pictures, spec)
    values_SA, notes = read_actions(table, schema)
    if len(values_SA) < len(pictures) - 1:
        raise ActionError(
            f"{table} has {len(values_SA)} rows for {len(pictures)} pictures; expected at least {len(pictures) - 1}: "
            "one for every picture but the last"
        )
    prompt = from_pictures(pictures, spec, values_SA)
    return replace(prompt, notes=(*notes, *prompt.notes))


def from_pictures(paths: Sequence[Path], spec: PromptSpec, actions_TA: NDArray[np.uint8] | None = None) -> PromptData:
    """Make the prompt of some pictures; there may be fewer of them than the context, and no actions."""
    first, at, stop = spec.rows(str(paths[0].parent), len(paths), len(paths) - 1, least=1)
    names, pictures = [path.name for path in paths[first:stop]], [read_picture(path) for path in paths[first:stop]]
    known_TA = np.tile(REST_VALUES, (at, 1)) if actions_TA is None else actions_TA
    prompt = spec.prompt(names, (picture.frame_HWC for picture in pictures), known_TA, first, at)
    notes = _grouped((name, note) for name, picture in zip(names, pictures, strict=True) for note in picture.notes)
    if actions_TA is None and at > first:
        notes.append(f"there is no {ACTIONS_FILE} for these pictures: the actions between them are rest")
    if any(picture.manifest for picture in pictures):
        notes.append(
            f"some pictures were generated by playloom and show its watermark; to avoid it, give the clip's {CLIP_FILE}"
        )
    dreamed_T = np.array([picture.manifest is not None for picture in pictures[: at + 1 - first]])
    return replace(prompt, dreamed_T=dreamed_T, kind="given", notes=(*notes, *prompt.notes))


def _grouped(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Merge equal notes of several pictures into one sentence each."""
    groups: dict[str, dict[str, None]] = {}
    for name, note in notes:
        groups.setdefault(note, {})[name] = None
    return [
        f"{next(iter(names))}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in groups.items()
    ]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
