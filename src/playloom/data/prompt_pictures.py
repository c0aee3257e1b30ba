"""Prompts from pictures: one, or a folder of them in natural order, with a table of the inputs between if there is one.

Owns the order and what is said of the pictures. They may be few and of any size.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.actions import REST_VALUES, Schema
from playloom.data.prompt_cut import PromptCut, PromptData, fit_all, grouped, shortened
from playloom.errors import ActionError, PictureError, RecordingError
from playloom.media.dream_folder import CLIP_FILE
from playloom.media.pictures import read_picture
from playloom.media.tables import read_actions

ACTIONS_FILE = "actions.csv"
"""The table that may lie in a folder of pictures: one row for every picture but the last, or more."""


def pictures_in(folder: Path) -> list[Path]:
    """The pictures in a folder in natural order: `2.png` before `10.png`.

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


def from_folder(folder: Path, cut: PromptCut, schema: Schema | Literal["auto"]) -> PromptData:
    """The prompt of a folder of pictures.

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
    paths: Sequence[Path], cut: PromptCut, actions_TA: NDArray[np.uint8] | None, notes: tuple[str, ...]
) -> PromptData:
    """The prompt of some pictures: a context shorter than asked is fine, and so are unknown actions.

    Raises:
        PictureError: when one is damaged.
        RecordingError: when the last step asked for is none of them.
    """
    at = len(paths) - 1 if cut.at is None else cut.at
    if not 0 <= at < len(paths):
        raise RecordingError(
            f"there are {len(paths)} pictures; the last one seen can be 0 to {len(paths) - 1}, got {at}"
        )
    first, stop = max(0, at + 1 - cut.context), cut.stop(at, len(paths))
    seen = at + 1 - first
    said = [*notes, *shortened(cut, seen)[1]]
    if actions_TA is None and seen > 1:
        said.append(f"there is no {ACTIONS_FILE} beside the pictures: the actions between them are taken as rest")
    known_TA = np.tile(REST_VALUES, (at, 1)) if actions_TA is None else actions_TA
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
        actions_TA=known_TA[first:at],
        true_next_frames_SHWC=fitted_THWC[seen:],
        true_next_actions_SA=known_TA[at : None if cut.horizon is None else at + cut.horizon],
        notes=(*said, *fit_notes),
        at=at,
        kind="given",
    )


def _picture_notes(names: Sequence[str], notes: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(name, note) for name, several in zip(names, notes, strict=True) for note in several]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that puts `2.png` before `10.png`."""
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
