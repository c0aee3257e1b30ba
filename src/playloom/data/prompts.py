"""Prompts from any source: context frames and the actions between them; bundled prompts.

    prompt = load_prompt("plaza-explorer", context=10, frame_size=(180, 300))

===========================  ===========================================================  ================
spec                         content                                                      default
===========================  ===========================================================  ================
a folder of pictures         sorted by name (2 before 10), with an optional `actions.csv` the last picture
one picture                  a context of one step                                        that picture
`.npz` with images, actions  a clip of the published data set                             context - 1
a clip's folder or its npz   context and frames of an earlier run, without watermarks     the last frame
an episode (.npz or .json)   a recording of `playloom record`; needs `render`             context - 1
`NAME` or `bundled:NAME`     a bundled prompt                                             context - 1
===========================  ===========================================================  ================

A file or folder wins over a bundled prompt of the same name; `bundled:NAME` always names the bundled one.

The kind is recognised by content, not by name. `start_step` counts steps from 0 and names the last frame of the
context; later frames are kept as the truth. A bundled prompt is `NAME.npz` (arrays `frames` [T, H, W, 3] uint8 and
`actions` [T, 16] uint8, LZMA) beside `NAME.json` (its origin).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import Schema, check_values
from playloom.data.prompt_pictures import PromptData as PromptData
from playloom.data.prompt_pictures import (
    PromptSpec,
    clamp_context,
    fit_all,
    from_folder,
    from_pictures,
)
from playloom.data.recording import Episode, load_episode
from playloom.errors import BadInputError, RecordingError, did_you_mean
from playloom.json_io import read_json, write_json
from playloom.media.clips import CLIP_NAMES, is_dream_clip, npz_names, read_clip, read_dream_clip, read_npz, write_npz
from playloom.media.images import ResizeMode
from playloom.media.output_folder import CLIP_FILE
from playloom.provenance import Manifest

BUNDLED = Path(__file__).parents[1] / "assets" / "prompts"
"""Folder of the bundled prompts."""
_BUNDLED_ARRAYS = ("frames", "actions")


class BundledPrompt(NamedTuple):
    """A stretch of recorded play."""

    frames_THWC: NDArray[np.uint8]
    """RGB [T, H, W, 3]."""
    actions_TA: NDArray[np.uint8]
    """Action values [T, 16] in slot order; action t was taken after seeing frame t."""
    meta: Mapping[str, Any]
    """Origin: game, seed, step and more."""


def list_prompts(folder: Path = BUNDLED) -> list[str]:
    """Return the names of the prompts in a folder, sorted; the bundled ones by default."""
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob("*.npz") if path.with_suffix(".json").is_file())


def find_prompt(name: str, folder: Path = BUNDLED) -> Path:
    """Return the path of a bundled prompt's `.npz`.

    Raises:
        RecordingError: when there is none of that name.
    """
    names = list_prompts(folder)
    if name not in names:
        raise RecordingError(
            f"there is no bundled prompt {name!r}; {did_you_mean(name, names) if names else 'none is there'}"
        )
    return folder / f"{name}.npz"


def load_bundled_prompt(path: Path | str) -> BundledPrompt:
    """Read a prompt from its `.npz`; its `.json` is optional.

    Raises:
        RecordingError: when a file is damaged or its arrays do not fit together.
        ActionError: when an action value is outside its range.
    """
    arrays = read_npz(path, _BUNDLED_ARRAYS)
    frames_THWC, actions_TA = arrays["frames"], check_values(arrays["actions"])
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        found = f"{frames_THWC.dtype} of shape {frames_THWC.shape}"
        raise RecordingError(f"{path}: frames are {found}; expected uint8 of shape (T, height, width, 3)")
    if len(frames_THWC) != len(actions_TA):
        raise RecordingError(f"{path} has {len(frames_THWC)} frames but {len(actions_TA)} actions")
    return BundledPrompt(frames_THWC, actions_TA, _read_meta(Path(path).with_suffix(".json")))


def save_bundled_prompt(
    path: Path | str, frames_THWC: NDArray[np.uint8], actions_TA: NDArray[np.uint8], meta: Mapping[str, Any]
) -> Path:
    """Write a prompt; equal prompts give equal files.

    Args:
        path: where, ending in `.npz`; the JSON goes beside it.
        frames_THWC: uint8 [T, H, W, 3].
        actions_TA: action values [T, 16].
        meta: what JSON can hold; says where the prompt comes from.

    Returns:
        The path of the `.npz`.

    Raises:
        RecordingError: when there are not as many actions as frames.
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    if len(frames_THWC) != len(actions_TA):
        raise RecordingError(
            f"a bundled prompt needs an action per frame: got {len(frames_THWC)} frames and {len(actions_TA)} actions"
        )
    target = Path(path).with_suffix(".npz")
    write_npz(target, {"frames": frames_THWC, "actions": check_values(actions_TA)}, packing="small")
    write_json(target.with_suffix(".json"), meta, sort_keys=True)
    return target


def _read_meta(path: Path) -> Mapping[str, Any]:
    return read_json(path, RecordingError, "save the prompt again") if path.is_file() else {}


BUNDLED_PREFIX = "bundled:"
"""Names a bundled prompt even where a file has its name."""
_T = TypeVar("_T", bound=np.generic)
Render = Callable[[Episode], Iterator[NDArray[np.uint8]]]
"""Renders an episode's frames, from its first."""


def load_prompt(
    spec: str | Path,
    *,
    context: int,
    frame_size: tuple[int, int],
    schema: Schema | Literal["auto"] = "named",
    resize: ResizeMode = "crop",
    start_step: int | None = None,
    horizon: int | None = None,
    render: Render | None = None,
) -> PromptData:
    """Load a prompt of any kind in the table above.

    Args:
        spec: what the user points at.
        context: how many steps the model shall see. Recordings must have that many; pictures may be fewer.
        frame_size: (H, W) of the model's frames; other sizes are fitted, and that is said.
        schema: of the `actions.csv` in a folder of pictures.
        resize: how pictures of another shape are resized, see `playloom.media.images.ResizeMode`.
        start_step: the step to dream on from.
        horizon: how many true steps to keep after it; None: all there are.
        render: what gives a recording its pictures back.

    Raises:
        RecordingError: when the source is missing, damaged, of no known kind, or shorter than asked.
        PictureError: when a picture is damaged.
        ActionError: when an actions table does not fit.
    """
    cut = PromptSpec(context=context, frame_size=frame_size, resize=resize, start_step=start_step, horizon=horizon)
    path = check_prompt(spec)
    if path.parent == BUNDLED:
        return replace(_from_bundled(path, cut), name=path.stem, source=path)
    return replace(_from_path(path, cut, schema, render), name=path.resolve().name, source=path)


def _from_path(path: Path, cut: PromptSpec, schema: Schema | Literal["auto"], render: Render | None) -> PromptData:
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


def check_prompt(spec: str | Path) -> Path:
    """Find a prompt without reading it: a file or folder, else a bundled prompt.

    Returns:
        Its path, also when the ending of an episode was left out.

    Raises:
        BadInputError: when it is empty, or there is no such file, folder or bundled prompt.
    """
    text = str(spec)
    if text.startswith(BUNDLED_PREFIX):
        return find_prompt(text.removeprefix(BUNDLED_PREFIX))
    if not text.strip():
        raise BadInputError(
            "the prompt is empty; give a picture, a folder of pictures, a recording or a bundled prompt's name"
        )
    path = Path(spec)
    for candidate in (path, path.parent / f"{path.name}.json"):
        if candidate.exists():
            return candidate
    names = list_prompts()
    if text in names:
        return find_prompt(text)
    hint = f"; {did_you_mean(path.name, names)}" if names else ""
    raise RecordingError(
        f"there is no {path}: give a picture, a folder of pictures, a recording, an .npz or a bundled prompt{hint}"
    )


def _first_bytes(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(16)
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}") from error


def _from_npz(path: Path, cut: PromptSpec, render: Render | None) -> PromptData:
    names = set(npz_names(path))
    if is_dream_clip(path):
        return _from_dream(path, cut)
    if set(CLIP_NAMES) <= names:
        clip = read_clip(path)
        return _from_arrays(str(path), clip.frames_THWC, clip.actions_TA, cut, cut.context - 1)
    if set(_BUNDLED_ARRAYS) <= names:
        return _from_bundled(path, cut)
    if {"actions", "states"} <= names:
        return _from_episode(path, cut, render)
    raise RecordingError(
        f"{path} holds {', '.join(sorted(names)) or 'nothing'}; expected images and actions (the published "
        "data set), actions and states (a recording), or a dream.npz"
    )


def _from_bundled(path: Path, cut: PromptSpec) -> PromptData:
    found = load_bundled_prompt(path)
    return _from_arrays(path.stem, found.frames_THWC, found.actions_TA, cut, cut.context - 1)


def _from_dream(path: Path, cut: PromptSpec) -> PromptData:
    clip = read_dream_clip(path)
    note = f"{path} is a dream: some of these frames were dreamed, and none is kept as the truth"
    frames = len(clip.frames_THWC)
    cut, short = clamp_context(
        cut, frames if cut.start_step is None or cut.start_step not in range(frames) else cut.start_step + 1
    )
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
    if "manifest" not in npz_names(path):
        return "real"
    manifest = Manifest.from_json(str(read_npz(path, ("manifest",))["manifest"]))
    return "given" if manifest.prompt_kind == "given" else "real"


def _seen(rows_T: NDArray[_T], cut: PromptSpec, default_at: int) -> NDArray[_T]:
    at = default_at if cut.start_step is None else cut.start_step
    return rows_T[at + 1 - cut.context : at + 1]


def _from_episode(path: Path, cut: PromptSpec, render: Render | None) -> PromptData:
    episode = load_episode(path)
    if render is None:
        raise BadInputError(
            f"{path} is a recording without pictures; they are rendered again by the game, which is not at "
            "hand: give a picture, an .npz with images, or a bundled prompt"
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
    cut: PromptSpec,
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
        start_step=at,
    )
