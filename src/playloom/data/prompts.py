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
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.actions import Schema
from playloom.data.moments import MOMENT_NAMES, find_moment, list_moments, load_moment
from playloom.data.prompt_cut import PromptCut, PromptData, fit_all, shortened
from playloom.data.prompt_pictures import from_folder, from_pictures
from playloom.data.recording import Episode, load_episode
from playloom.errors import BadInputError, RecordingError
from playloom.media.clips import CLIP_NAMES, is_dream_clip, read_clip, read_dream_clip
from playloom.media.dream_folder import CLIP_FILE
from playloom.media.npz import npz_names, read_npz
from playloom.media.pictures import Fit
from playloom.provenance import Manifest

MOMENT_PREFIX = "moment:"
_T = TypeVar("_T", bound=np.generic)
Render = Callable[[Episode], Iterator[NDArray[np.uint8]]]
"""Yields an episode's frames again, from its first; given by whoever knows the game."""


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
    cut = PromptCut(context=context, frame_size=frame_size, fit=fit, at=at, horizon=horizon)
    check_prompt(spec)
    text = str(spec)
    if text.startswith(MOMENT_PREFIX):
        path = find_moment(text.removeprefix(MOMENT_PREFIX))
        return replace(_from_moment(path, cut), name=f"{MOMENT_PREFIX}{path.stem}", source=path)
    path = _existing(Path(spec))
    return replace(_from_path(path, cut, schema, render), name=path.resolve().name, source=path)


def _from_path(path: Path, cut: PromptCut, schema: Schema | Literal["auto"], render: Render | None) -> PromptData:
    if path.is_dir():
        if (path / CLIP_FILE).is_file():
            return _from_dream(path / CLIP_FILE, cut)
        return from_folder(path, cut, schema)
    opening = _first_bytes(path)
    if opening.startswith(b"PK"):
        return _from_npz(path, cut, render)
    if opening.lstrip().startswith(b"{"):
        return _from_episode(path, cut, render)
    return from_pictures([path], cut, None, ())


def check_prompt(spec: str | Path) -> None:
    """Check that a prompt exists, without reading it.

    Raises:
        BadInputError: when it is empty, or there is no such moment, file or folder.
    """
    text = str(spec)
    if text.startswith(MOMENT_PREFIX):
        find_moment(text.removeprefix(MOMENT_PREFIX))
    elif not text.strip():
        raise BadInputError("the prompt is empty; give a picture, a folder of pictures, a recording or moment:NAME")
    else:
        _existing(Path(spec))


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


def _from_npz(path: Path, cut: PromptCut, render: Render | None) -> PromptData:
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


def _from_moment(path: Path, cut: PromptCut) -> PromptData:
    moment = load_moment(path)
    name = f"{MOMENT_PREFIX}{path.stem}"
    return _from_arrays(name, moment.frames_THWC, moment.actions_TA, cut, cut.context - 1)


def _from_dream(path: Path, cut: PromptCut) -> PromptData:
    clip = read_dream_clip(path)
    note = f"{path} is a dream: some of these frames were dreamed, and none is kept as the truth"
    frames = len(clip.frames_THWC)
    cut, short = shortened(cut, frames if cut.at is None or cut.at not in range(frames) else cut.at + 1)
    found = _from_arrays(str(path), clip.frames_THWC, clip.actions_TA, replace(cut, horizon=0), frames - 1)
    kept = None if clip.codes_TN is None else _seen(clip.codes_TN, cut, frames - 1)
    dreamed = None if clip.dreamed_T is None else _seen(clip.dreamed_T, cut, frames - 1)
    return replace(
        found,
        notes=(note, *short, *found.notes),
        codes_TN=kept,
        weights=clip.weights,
        dreamed_T=dreamed,
        kind=_kind_of_dream(path),
    )


def _kind_of_dream(path: Path) -> Literal["real", "given"]:
    """What the first dream began with: its frames that were not dreamed are called so."""
    if "manifest" not in npz_names(path):
        return "real"
    manifest = Manifest.from_json(str(read_npz(path, ("manifest",))["manifest"]))
    return "given" if manifest.prompt_kind == "given" else "real"


def _seen(rows_T: NDArray[_T], cut: PromptCut, default_at: int) -> NDArray[_T]:
    at = default_at if cut.at is None else cut.at
    return rows_T[at + 1 - cut.context : at + 1]


def _from_episode(path: Path, cut: PromptCut, render: Render | None) -> PromptData:
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
    cut: PromptCut,
    default_at: int,
) -> PromptData:
    at = cut.end_of(name, len(frames_THWC), default_at)
    first, stop = at + 1 - cut.context, cut.stop(at, len(frames_THWC))
    fitted_THWC, fit_notes = fit_all([name] * (stop - first), frames_THWC[first:stop], cut)
    return PromptData(
        frames_THWC=fitted_THWC[: cut.context],
        actions_TA=actions_TA[first:at],
        true_next_frames_SHWC=fitted_THWC[cut.context :],
        true_next_actions_SA=actions_TA[at : None if cut.horizon is None else at + cut.horizon],
        notes=fit_notes,
        at=at,
    )
