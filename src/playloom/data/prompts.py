"""Prompts from any source: context frames and the actions between them; prompts of a model, and bundled ones.

    prompt = load_prompt("plaza-explorer", context=10, frame_size=(180, 300))

===========================  ===========================================================  ================
spec                         content                                                      default
===========================  ===========================================================  ================
a folder of pictures         sorted by name (2 before 10), with an optional `actions.csv` the last picture
one picture                  a context of one step                                        that picture
`.npz` with images, actions  a clip of the published dataset                              context - 1
a clip's folder or its npz   context and frames of an earlier run, without watermarks     the last frame
a frame dataset's folder     its first validation episode, else its first one (50 steps)  context - 1
`FOLDER/N`                   episode N, from 0, of the frame dataset in FOLDER            context - 1
a video                      10 pictures per second, with the input of its log if any      context - 1
an episode (.npz or .json)   a recording of `playloom record`; needs `render`             context - 1
`NAME`                       a prompt of the model, else a bundled one                    context - 1
`bundled:NAME`               a bundled prompt                                             context - 1
===========================  ===========================================================  ================

A file or folder comes before a prompt of the same name. The kind is detected by content, that of a video by its ending.
`start_step` is the last context step, from 0; later frames are the true future. A video's log is one that `playloom
import` reads without a mapping of its own.

A model's prompts lie in the folder `prompts` of its own folder. A prompt is `NAME.npz` (arrays `frames` [T, H, W, 3]
uint8 and `actions` [T, 16] uint8, LZMA) with `NAME.json` (its origin).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema, check_values
from playloom.data.dataset import INDEX, FrameDataset
from playloom.data.importing.files import TABLE_ENDINGS, VIDEO_ENDINGS
from playloom.data.importing.mapping import read_mapping
from playloom.data.importing.recordings import ImportOptions
from playloom.data.importing.resample import STEP, Run, find_runs, last_pictures, resample
from playloom.data.importing.video_log import VideoLog
from playloom.data.prompt_data import PromptData, PromptSpec, from_folder, from_pictures
from playloom.data.recording import Render, load_episode
from playloom.errors import BadInputError, RecordingError, did_you_mean
from playloom.json_io import write_json
from playloom.media.clips import (
    CLIP_NAMES,
    DREAM_NAMES,
    Clip,
    npz_names,
    read_clip,
    read_dream_clip,
    read_npz,
    write_npz,
)
from playloom.media.images import ResizeMode
from playloom.media.output_folder import CLIP_FILE

BUNDLED = Path(__file__).parents[1] / "assets" / "prompts"
"""Folder of the bundled prompts."""
PROMPTS = "prompts"
"""Name of the folder with a model's prompts, in its own."""
BUNDLED_PREFIX = "bundled:"
"""Prefix that names a bundled prompt even where a file has its name."""
_PROMPT_ARRAYS = ("frames", "actions")
_LONG_HORIZON = 50  # true steps of what may be hours long


def prompt_folder(model: Path | None) -> Path:
    """Return the folder with the prompts of a model's folder: its own if it has any, else the bundled ones."""
    own = None if model is None else model / PROMPTS
    return own if own is not None and list_prompts(own) else BUNDLED


def list_prompts(folder: Path = BUNDLED) -> list[str]:
    """Return the names of the prompts in a folder, sorted; the bundled ones by default."""
    return sorted(path.stem for path in folder.glob("*.npz") if path.with_suffix(".json").is_file())


def find_prompt(name: str, folder: Path = BUNDLED) -> Path:
    """Return the path of a prompt's `.npz` in a folder; RecordingError when there is none of that name."""
    names = list_prompts(folder)
    if name not in names:
        which = "bundled prompt" if folder == BUNDLED else "prompt"
        raise RecordingError(f"there is no {which} {name!r}; {did_you_mean(name, names)}")
    return folder / f"{name}.npz"


def load_prompt_file(path: Path | str) -> Clip:
    """Read a prompt from its `.npz`."""
    arrays = read_npz(path, _PROMPT_ARRAYS)
    frames_THWC, actions_TA = arrays["frames"], check_values(arrays["actions"])
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        got = f"{frames_THWC.dtype} of shape {frames_THWC.shape}"
        raise RecordingError(f"{path}: frames are {got}; expected uint8 of shape (T, height, width, 3)")
    if len(frames_THWC) != len(actions_TA):
        raise RecordingError(f"{path} has {len(frames_THWC)} frames but {len(actions_TA)} actions")
    return Clip(frames_THWC, actions_TA)


def save_prompt_file(
    path: Path | str, frames_THWC: NDArray[np.uint8], actions_TA: NDArray[np.uint8], meta: Mapping[str, Any]
) -> Path:
    """Write a prompt and its origin (JSON values); equal prompts give equal files. Return the path of the `.npz`."""
    target = Path(path).with_suffix(".npz")
    write_npz(target, {"frames": frames_THWC, "actions": check_values(actions_TA)}, packing="small")
    write_json(target.with_suffix(".json"), meta, sort_keys=True)
    return target


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
    model: Path | None = None,
) -> PromptData:
    """Load a prompt of any kind in the table above.

    Recordings must have `context` steps; pictures may be fewer. Frames of another size than `frame_size` (H, W) are
    resized, with a note. `schema` is that of the `actions.csv` in a folder of pictures, `start_step` the last context
    step, `horizon` the number of true steps to keep after it (None: all). `render` renders the frames of a recording.
    `model` is the folder of the model whose prompts have names, besides the bundled ones.
    """
    wanted = PromptSpec(context=context, frame_size=frame_size, resize=resize, start_step=start_step, horizon=horizon)
    path = check_prompt(spec, model)
    if path.parent in (BUNDLED, prompt_folder(model)):
        return replace(_from_clip(path.stem, load_prompt_file(path), wanted), name=path.stem, source=path)
    return replace(_from_path(path, wanted, schema, render), name=path.resolve().name, source=path)


def check_prompt(spec: str | Path, model: Path | None = None) -> Path:
    """Find a prompt without reading it: a file or folder (an episode's ending is optional), else one by its name.

    Names are those of the prompts in the folder of `model`, then those of the bundled ones.
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
    if path.name.isdecimal() and (path.parent / INDEX).is_file():
        return path
    folders = (prompt_folder(model), BUNDLED)
    for folder in folders:
        if text in list_prompts(folder):
            return find_prompt(text, folder)
    names = [name for folder in dict.fromkeys(folders) for name in list_prompts(folder)]
    raise RecordingError(
        f"there is no {path}: give a picture, a folder of pictures, a recording, an .npz, a dataset or a prompt's "
        f"name; {did_you_mean(path.name, names)}"
    )


def _from_path(path: Path, spec: PromptSpec, schema: Schema | Literal["auto"], render: Render | None) -> PromptData:
    if (path / CLIP_FILE).is_file():
        return _from_dream(path / CLIP_FILE, spec)
    if (path / INDEX).is_file():
        return _from_dataset(FrameDataset.open(path), None, spec)
    if not path.exists():  # an episode, see `check_prompt`
        return _from_dataset(FrameDataset.open(path.parent), int(path.name), spec)
    if path.is_dir():
        return from_folder(path, spec, schema)
    if path.suffix.lower() in VIDEO_ENDINGS:
        return _from_video(path, spec, schema)
    try:
        with path.open("rb") as file:
            opening = file.read(16)
    except OSError as error:
        raise RecordingError(f"{path} cannot be read: {error.strerror or error}") from error
    if opening.startswith(b"PK"):
        return _from_npz(path, spec, render)
    if opening.lstrip().startswith(b"{"):
        return _from_episode(path, spec, render)
    return from_pictures([path], spec)


def _from_npz(path: Path, spec: PromptSpec, render: Render | None) -> PromptData:
    names = set(npz_names(path))
    if names.issuperset(DREAM_NAMES):
        return _from_dream(path, spec)
    if names.issuperset(CLIP_NAMES):
        return _from_clip(str(path), read_clip(path), spec)
    if names.issuperset(_PROMPT_ARRAYS):
        return _from_clip(path.stem, load_prompt_file(path), spec)
    if names.issuperset(("actions", "states")):
        return _from_episode(path, spec, render)
    raise RecordingError(
        f"{path} holds {', '.join(sorted(names)) or 'nothing'}; expected images and actions (the published dataset), "
        f"actions and states (a recording), or a {CLIP_FILE}"
    )


def _from_dream(path: Path, spec: PromptSpec) -> PromptData:
    clip, spec = read_dream_clip(path), replace(spec, horizon=0)
    first, at, stop = spec.rows(str(path), len(clip.frames_THWC), len(clip.frames_THWC) - 1, least=1)
    prompt = spec.prompt([str(path)] * (stop - first), clip.frames_THWC[first:stop], clip.actions_TA, first, at)
    note = f"{path} is a dream: some of these frames were generated, and none is kept as the true future"
    return replace(
        prompt,
        notes=(note, *prompt.notes),
        codes_TN=None if clip.codes_TN is None else clip.codes_TN[first:stop],
        weights=None if clip.manifest is None else clip.manifest.weights,
        dreamed_T=None if clip.dreamed_T is None else clip.dreamed_T[first:stop],
        kind="given" if clip.manifest is not None and clip.manifest.prompt_kind == "given" else "real",
    )


def _from_episode(path: Path, spec: PromptSpec, render: Render | None) -> PromptData:
    episode = load_episode(path)
    if render is None:
        raise BadInputError(
            f"{path} is a recording without pictures, and there is no game to render them; give a picture, an .npz "
            "with images, or a bundled prompt"
        )
    _, _, stop = spec.rows(str(path), len(episode.actions_TA), spec.context - 1, least=spec.context)
    frames = list(itertools.islice(render(episode), stop))
    if len(frames) < stop:
        raise RecordingError(f"{path}: the game rendered {len(frames)} of {stop} frames; record it again")
    return _from_clip(str(path), Clip(np.stack(frames), episode.actions_TA), spec)


def _from_dataset(dataset: FrameDataset, episode: int | None, spec: PromptSpec) -> PromptData:
    last = len(dataset.spans) - 1
    if episode is not None and episode > last:
        raise RecordingError(f"there is no episode {episode} in {dataset.folder}; expected 0 to {last}")
    spec = replace(spec, horizon=_LONG_HORIZON if spec.horizon is None else spec.horizon)
    default = (*dataset.of_split("validation"), *dataset.spans)[0]
    rows = (default if episode is None else dataset.spans[episode]).rows
    clip = Clip(dataset.frames_FHWC[rows], np.array(dataset.actions_FA[rows]))
    return _from_clip(str(dataset.folder), clip, spec)


def _from_video(path: Path, spec: PromptSpec, schema: Schema | Literal["auto"]) -> PromptData:
    spec = replace(spec, horizon=_LONG_HORIZON if spec.horizon is None else spec.horizon)
    recording = VideoLog(path, ImportOptions(frame_size=spec.frame_size, schema=schema))
    run = find_runs(recording.times_F)[0]
    first, at, stop = spec.rows(str(path), run.steps, spec.context - 1, least=1)
    actions_TA, notes = (
        np.tile(REST_VALUES, (stop, 1)),
        ["it has no log of its input: the actions of its pictures are rest"],
    )
    if any(path.with_suffix(ending).is_file() for ending in TABLE_ENDINGS):
        mapping, notes = read_mapping(recording.mapping), [*recording.notes]
        input_TC = resample(recording.changes(mapping.sources), [run], mapping.sources, mapping.dead_zone)
        actions_TA = mapping.fit(mapping.mouse_counts(input_TC)).apply(input_TC)
    pictures = last_pictures(recording.pictures(), [Run(run.start + STEP * first, stop - first)])
    prompt = spec.prompt([path.name] * (stop - first), (load() for load in pictures), actions_TA, first, at)
    return replace(prompt, kind="given", notes=(*notes, *prompt.notes))


def _from_clip(name: str, clip: Clip, spec: PromptSpec) -> PromptData:
    first, at, stop = spec.rows(name, len(clip.frames_THWC), spec.context - 1, least=spec.context)
    return spec.prompt([name] * (stop - first), clip.frames_THWC[first:stop], clip.actions_TA, first, at)
