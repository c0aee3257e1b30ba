"""Where a dream begins: whatever the user points at, as frames and the actions between them.

Owns how a prompt is recognised (by what is in it, not by its name), cut and fitted. Knows neither the model
nor the game: the sizes are arguments, and who can render a recording's pictures again is passed in.

    prompt = load_prompt("moment:arena-blue", context=10, frame_size=(180, 300))

===========================  ===========================================================  ================
spec                         what it is                                                   `at` by default
===========================  ===========================================================  ================
a folder of pictures         sorted by name (2 before 10); an `actions.csv` may lie there the last picture
one picture                  a context of one step                                        that picture
`.npz` with images, actions  a clip of the published data set                             context - 1
a dream's folder or its npz  context and dream of an earlier run, without the marks       the last frame
an episode (.npz or .json)   a recording of `playloom record`; needs `render`             context - 1
`moment:NAME`                a bundled moment                                             context - 1
===========================  ===========================================================  ================

`at` counts steps from 0 and names the last frame that is seen; what follows it is kept as the truth.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.actions import REST_VALUES, Schema
from playloom.data.moments import MOMENT_NAMES, find_moment, list_moments, load_moment
from playloom.data.recording import Episode, load_episode
from playloom.errors import ActionError, BadInputError, PictureError, RecordingError
from playloom.media.clips import CLIP_NAMES, is_dream_clip, read_clip, read_dream_clip
from playloom.media.dream_folder import CLIP_FILE
from playloom.media.npz import npz_names
from playloom.media.pictures import Fit, fit_picture, read_picture
from playloom.media.tables import read_actions

MOMENT_PREFIX = "moment:"
ACTIONS_FILE = "actions.csv"
"""The table that may lie in a folder of pictures: one row for every picture but the last, or more."""

_T = TypeVar("_T", bound=np.generic)
Render = Callable[[Episode], Iterator[NDArray[np.uint8]]]
"""Yields an episode's frames again, from its first; given by whoever knows the game."""


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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Cut:
    """Which part of a source is wanted."""

    context: int
    frame_size: tuple[int, int]
    fit: Fit
    at: int | None
    horizon: int | None

    def __post_init__(self) -> None:
        if self.context < 1:
            raise BadInputError(f"the context is {self.context} steps; expected at least 1")
        if self.horizon is not None and self.horizon < 0:
            raise BadInputError(f"the horizon is {self.horizon} steps; expected at least 0")

    def end_of(self, name: str, steps: int, default: int) -> int:
        """The index of the last frame seen, checked against a source of `steps` steps."""
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


def load_prompt(
    spec: str | Path,
    *,
    context: int,
    frame_size: tuple[int, int],
    schema: Schema | Literal["auto"] = "named",
    fit: Fit = "crop",
    at: int | None = None,
    horizon: int | None = None,
    render: Render | None = None,
) -> PromptData:
    """Load a prompt of any of the kinds in the table above.

    Args:
        spec: what the user points at.
        context: how many steps the model shall see. Recordings must have that many; pictures may be fewer.
        frame_size: (H, W) of the model's frames; other sizes are fitted, and that is said.
        schema: of the `actions.csv` in a folder of pictures.
        fit: how pictures of another shape are fitted, see `playloom.media.pictures.Fit`.
        at: the step to dream on from.
        horizon: how many true steps to keep after it; None: all there are.
        render: what gives a recording its pictures back.

    Raises:
        RecordingError: when the source is missing, damaged, of no known kind, or shorter than asked.
        PictureError: when a picture is damaged.
        ActionError: when an actions table does not fit.
    """
    cut = _Cut(context=context, frame_size=frame_size, fit=fit, at=at, horizon=horizon)
    text = str(spec)
    if text.startswith(MOMENT_PREFIX):
        return _from_moment(find_moment(text.removeprefix(MOMENT_PREFIX)), cut)
    if not text.strip():
        raise BadInputError("the prompt is empty; give a picture, a folder of pictures, a recording or moment:NAME")
    path = _existing(Path(spec))
    if path.is_dir():
        if (path / CLIP_FILE).is_file():
            return _from_dream(path / CLIP_FILE, cut)
        return _from_folder(path, cut, schema)
    opening = _first_bytes(path)
    if opening.startswith(b"PK"):
        return _from_npz(path, cut, render)
    if opening.lstrip().startswith(b"{"):
        return _from_episode(path, cut, render)
    return _from_pictures([path], cut, None, ())


def _existing(path: Path) -> Path:
    """The path, also when the ending of an episode was left out."""
    for candidate in (path, path.parent / f"{path.name}.json"):
        if candidate.exists():
            return candidate
    names = list_moments()
    if path.name in names:
        raise RecordingError(f"there is no file {path}; did you mean {MOMENT_PREFIX}{path.name}?")
    moments = f", or a bundled moment: {', '.join(MOMENT_PREFIX + name for name in names)}" if names else ""
    raise RecordingError(f"there is no {path}; give a picture, a folder of pictures, a recording or .npz{moments}")


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}") from error


def _from_npz(path: Path, cut: _Cut, render: Render | None) -> PromptData:
    names = set(npz_names(path))
    if is_dream_clip(path):
        return _from_dream(path, cut)
    if set(CLIP_NAMES) <= names:
        clip = read_clip(path)
        return _from_arrays(str(path), clip.frames_THWC, clip.actions_TA, cut, cut.context - 1)
    if set(MOMENT_NAMES) <= names:
        return _from_moment(path, cut)
    if {"actions", "states"} <= names:
        return _from_episode(path, cut, render)
    raise RecordingError(
        f"{path} holds {', '.join(sorted(names)) or 'nothing'}; expected images and actions (the published "
        "data set), actions and states (a recording), or a dream.npz"
    )


def _from_moment(path: Path, cut: _Cut) -> PromptData:
    moment = load_moment(path)
    name = f"{MOMENT_PREFIX}{path.stem}"
    return _from_arrays(name, moment.frames_THWC, moment.actions_TA, cut, cut.context - 1)


def _from_dream(path: Path, cut: _Cut) -> PromptData:
    clip = read_dream_clip(path)
    note = f"{path} is a dream: some of these frames were dreamed, and none is kept as the truth"
    frames = len(clip.frames_THWC)
    cut, short = _shortened(cut, frames if cut.at is None or cut.at not in range(frames) else cut.at + 1)
    found = _from_arrays(str(path), clip.frames_THWC, clip.actions_TA, replace(cut, horizon=0), frames - 1)
    kept = None if clip.codes_TN is None else _seen(clip.codes_TN, cut, frames - 1)
    dreamed = None if clip.dreamed_T is None else _seen(clip.dreamed_T, cut, frames - 1)
    return replace(found, notes=(note, *short, *found.notes), codes_TN=kept, weights=clip.weights, dreamed_T=dreamed)


def _shortened(cut: _Cut, seen: int) -> tuple[_Cut, list[str]]:
    """A context of what there is, and a note if that is less than was asked for."""
    if seen >= cut.context:
        return cut, []
    note = f"the context is {seen} step{'s' * (seen > 1)} long, not {cut.context}: no more pictures"
    return replace(cut, context=seen), [note]


def _seen(rows_T: NDArray[_T], cut: _Cut, default_at: int) -> NDArray[_T]:
    at = default_at if cut.at is None else cut.at
    return rows_T[at + 1 - cut.context : at + 1]


def _from_episode(path: Path, cut: _Cut, render: Render | None) -> PromptData:
    episode = load_episode(path)
    if render is None:
        raise BadInputError(
            f"{path} is a recording without pictures; they are rendered again by the game, which is not at "
            "hand: give a picture, an .npz with images, or a bundled moment"
        )
    steps = len(episode.actions_TA)
    at = cut.end_of(str(path), steps, cut.context - 1)
    stop = cut.stop(at, steps)
    frames = list(itertools.islice(render(episode), stop))
    if len(frames) < stop:
        raise RecordingError(f"{path}: the game gave back {len(frames)} of {stop} frames; record it again")
    return _from_arrays(str(path), np.stack(frames), episode.actions_TA, cut, cut.context - 1)


def _from_arrays(
    name: str,
    frames_THWC: NDArray[np.uint8],
    actions_TA: NDArray[np.uint8],
    cut: _Cut,
    default_at: int,
) -> PromptData:
    at = cut.end_of(name, len(frames_THWC), default_at)
    first, stop = at + 1 - cut.context, cut.stop(at, len(frames_THWC))
    fitted_THWC, fit_notes = _fit_all([name] * (stop - first), frames_THWC[first:stop], cut)
    return PromptData(
        frames_THWC=fitted_THWC[: cut.context],
        actions_TA=actions_TA[first:at],
        true_next_frames_SHWC=fitted_THWC[cut.context :],
        true_next_actions_SA=actions_TA[at : None if cut.horizon is None else at + cut.horizon],
        notes=fit_notes,
    )


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


def _from_folder(folder: Path, cut: _Cut, schema: Schema | Literal["auto"]) -> PromptData:
    pictures = pictures_in(folder)
    if not (folder / ACTIONS_FILE).is_file():
        return _from_pictures(pictures, cut, None, ())
    table = read_actions(folder / ACTIONS_FILE, schema)
    if len(table.values_TA) < len(pictures) - 1:
        raise ActionError(
            f"{folder / ACTIONS_FILE} has {len(table.values_TA)} rows for {len(pictures)} pictures; expected "
            f"at least {len(pictures) - 1}: one for every picture but the last"
        )
    return _from_pictures(pictures, cut, table.values_TA, table.notes)


def _from_pictures(
    paths: Sequence[Path], cut: _Cut, actions_TA: NDArray[np.uint8] | None, notes: tuple[str, ...]
) -> PromptData:
    """Pictures are few and may be any: a context shorter than asked is fine, and so are unknown actions."""
    at = len(paths) - 1 if cut.at is None else cut.at
    if not 0 <= at < len(paths):
        raise RecordingError(
            f"there are {len(paths)} pictures; the last one seen can be 0 to {len(paths) - 1}, got {at}"
        )
    first, stop = max(0, at + 1 - cut.context), cut.stop(at, len(paths))
    seen = at + 1 - first
    said = [*notes, *_shortened(cut, seen)[1]]
    if actions_TA is None and seen > 1:
        said.append(f"there is no {ACTIONS_FILE} beside the pictures: the actions between them are taken as rest")
    known_TA = np.tile(REST_VALUES, (at, 1)) if actions_TA is None else actions_TA
    pictures = [read_picture(path) for path in paths[first:stop]]
    names = [path.name for path in paths[first:stop]]
    said += _grouped(_picture_notes(names, [picture.notes for picture in pictures]))
    if any(picture.manifest for picture in pictures):
        said.append(
            "some pictures were dreamed by playloom and bring their mark with them; to go on without it, "
            f"point at the dream's {CLIP_FILE}"
        )
    fitted_THWC, fit_notes = _fit_all(names, [picture.frame_HWC for picture in pictures], cut)
    return PromptData(
        frames_THWC=fitted_THWC[:seen],
        dreamed_T=np.array([picture.manifest is not None for picture in pictures[:seen]]),
        actions_TA=known_TA[first:at],
        true_next_frames_SHWC=fitted_THWC[seen:],
        true_next_actions_SA=known_TA[at : None if cut.horizon is None else at + cut.horizon],
        notes=(*said, *fit_notes),
    )


def _fit_all(
    names: Sequence[str], frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], cut: _Cut
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    fitted, notes = [], []
    for name, frame_HWC in zip(names, frames, strict=True):
        frame, note = fit_picture(frame_HWC, cut.frame_size, cut.fit)
        fitted.append(frame)
        if note:
            hint = " (--fit letterbox keeps all of it)" if "cropped" in note else ""
            notes.append((name, note + hint))
    return np.stack(fitted), tuple(_grouped(notes))


def _picture_notes(names: Sequence[str], notes: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    return [(name, note) for name, several in zip(names, notes, strict=True) for note in several]


def _grouped(notes: Sequence[tuple[str, str]]) -> list[str]:
    """One sentence for each thing that was done, however many pictures it was done to."""
    groups: dict[str, dict[str, None]] = {}
    for name, note in notes:
        groups.setdefault(note, {})[name] = None
    return [
        f"{next(iter(names))}{f' and {len(names) - 1} more' if len(names) > 1 else ''}: {note}"
        for note, names in groups.items()
    ]


def _natural(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that puts `2.png` before `10.png`."""
    parts = re.findall(r"\d+|\D+", path.name.lower())
    return [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts]
