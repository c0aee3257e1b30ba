"""Prompts from any source: context frames and the actions between them; prompts of a model, and bundled ones.

    prompt = load_prompt("plaza-explorer", context=10, frame_size=(180, 300))

docs/dream.md lists the kinds. By default the last context step is the last frame of pictures and of dreams, and step
`context` - 1, from 0, of everything else. Of a frame dataset and of a video, 50 true steps follow it.

The kind is detected by content, that of a video by its ending. Frames after the context are the true future.

A model's prompts lie in the folder `prompts` of its own folder. A prompt is `NAME.npz` (arrays `frames` [T, H, W, 3]
uint8 and `actions` [T, 16] uint8, LZMA) with `NAME.json` (its origin).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema, check_values
from playloom.data.dataset import INDEX, FrameDataset
from playloom.data.importing.files import ACTIONS_FILE, TABLE_ENDINGS, VIDEO_ENDINGS, pictures_in
from playloom.data.importing.mapping import read_mapping
from playloom.data.importing.recordings import ImportOptions
from playloom.data.importing.resample import STEP, Run, find_runs, last_pictures, resample
from playloom.data.importing.video_log import VideoLog
from playloom.data.recording import Render, load_episode
from playloom.errors import ActionError, BadInputError, RecordingError, did_you_mean
from playloom.json_io import write_json
from playloom.media import clips
from playloom.media.action_table import read_actions
from playloom.media.clips import Clip
from playloom.media.images import ResizeMode, fit_picture, read_picture
from playloom.media.output_folder import CLIP_FILE

BUNDLED = Path(__file__).parents[1] / "assets" / "prompts"
"""Folder of the bundled prompts."""
PROMPTS = "prompts"
"""Name of the folder with a model's prompts, in its own."""
BUNDLED_PREFIX = "bundled:"
"""Prefix that names a bundled prompt even where a file has its name."""
_PROMPT_ARRAYS = ("frames", "actions")
_LONG_HORIZON = 50  # true steps of what may be hours long


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


def prompt_folder(model: Path | None) -> Path:
    """Return the folder with the prompts of a model's folder: its own if it has any, else the bundled ones."""
    return model / PROMPTS if model is not None and list_prompts(model / PROMPTS) else BUNDLED


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
    arrays = clips.read_npz(path, _PROMPT_ARRAYS)
    frames_THWC = arrays["frames"]
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        got = f"{frames_THWC.dtype} of shape {frames_THWC.shape}"
        raise RecordingError(f"{path}: frames are {got}; expected uint8 of shape (T, height, width, 3)")
    return Clip(frames_THWC, clips.actions_of(path, "actions", arrays["actions"], len(frames_THWC)))


def save_prompt_file(
    path: Path | str, frames_THWC: NDArray[np.uint8], actions_TA: NDArray[np.uint8], meta: Mapping[str, Any]
) -> Path:
    """Write a prompt and its origin (JSON values); equal prompts give equal files. Return the path of the `.npz`."""
    target = Path(path).with_suffix(".npz")
    clips.write_npz(target, {"frames": frames_THWC, "actions": check_values(actions_TA)}, packing="small")
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
    """Load a prompt of any kind in docs/dream.md.

    Recordings must have `context` steps; pictures may be fewer. Frames of another size than `frame_size` (H, W) are
    resized, with a note. `schema` is that of the `actions.csv` in a folder of pictures, `start_step` the last context
    step, `horizon` the number of true steps to keep after it (None: all). `render` renders the frames of a recording.
    `model` is the folder of the model whose prompts have names, besides the bundled ones.
    """
    part, path = _Part(context, frame_size, resize, start_step, horizon, schema, render), check_prompt(spec, model)
    named = path.parent in (BUNDLED, prompt_folder(model))
    return replace(part.of_path(path), name=path.stem if named else path.resolve().name, source=path)


def check_prompt(spec: str | Path, model: Path | None = None) -> Path:
    """Find a prompt without reading it: a file or folder (an episode's ending is optional), else one by its name.

    Names are those of the prompts in the folder of `model`, then those of the bundled ones.
    """
    text = str(spec)
    if text.startswith(BUNDLED_PREFIX):
        return find_prompt(text.removeprefix(BUNDLED_PREFIX))
    if not text.strip():
        raise BadInputError("the prompt is empty; give a picture, a folder, a recording or a bundled prompt's name")
    path = Path(spec)
    with suppress(OSError):  # the text may be longer than a file's name can be
        for candidate in (path, path.parent / f"{path.name}.npz"):
            if candidate.exists():
                return candidate
        if path.name.isdecimal() and (path.parent / INDEX).is_file():
            return path
    folders = {name: folder for folder in (BUNDLED, prompt_folder(model)) for name in list_prompts(folder)}
    if text in folders:
        return find_prompt(text, folders[text])
    kinds = "a picture, a folder of pictures, a recording, an .npz, a dataset or a prompt's name"
    raise RecordingError(f"there is no {path}: give {kinds}; {did_you_mean(path.name, folders)}")


@dataclass(frozen=True)
class _Part:
    context: int
    frame_size: tuple[int, int]
    resize: ResizeMode
    start_step: int | None
    horizon: int | None
    schema: Schema | Literal["auto"]
    render: Render | None

    def __post_init__(self) -> None:
        if self.context < 1:
            raise BadInputError(f"the context is out of range: got {self.context} steps, expected at least 1")
        if self.horizon is not None and self.horizon < 0:
            raise BadInputError(f"the horizon is out of range: got {self.horizon} steps, expected at least 0")

    def rows(self, name: str, steps: int, default: int, least: int) -> tuple[int, int, int]:
        """First needed row of a source, its last context row, and one past the last needed row.

        `default` stands for a missing `start_step`. Down to `least` frames, a source that begins later gives a shorter
        context.
        """
        at = default if self.start_step is None else self.start_step
        if steps < least:
            hint = f"request a shorter context (--context {max(1, steps)}), or give a longer recording"
            raise RecordingError(f"{name} is too short for the context: got {steps} steps, expected {least}; {hint}")
        if not least - 1 <= at < steps:
            limits = f"the last context step can be {least - 1} to {steps - 1}, got {at}"
            raise RecordingError(f"{name} has {steps} steps; with a context of {least} or more {limits}")
        return max(0, at + 1 - self.context), at, steps if self.horizon is None else min(steps, at + 1 + self.horizon)

    def divide(
        self, named: Iterable[tuple[str, NDArray[np.uint8]]], actions_TA: NDArray[np.uint8], first: int, at: int
    ) -> PromptData:
        """Resize the needed frames, of which row `first` is the first, and divide them after row `at`."""
        seen, notes, fitted = at + 1 - first, [], []
        for name, frame_HWC in named:
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

    def of_path(self, path: Path) -> PromptData:
        if (path / CLIP_FILE).is_file():
            return self.of_dream(path / CLIP_FILE)
        long = replace(self, horizon=_LONG_HORIZON) if self.horizon is None else self
        if (path / INDEX).is_file():
            return long.of_dataset(FrameDataset.open(path), None)
        if not path.exists():  # an episode, see `check_prompt`
            return long.of_dataset(FrameDataset.open(path.parent), int(path.name))
        if path.is_dir():
            return self.of_folder(path)
        if path.suffix.lower() in VIDEO_ENDINGS:
            return long.of_video(path)
        try:
            with path.open("rb") as file:
                opening = file.read(16)
        except OSError as error:
            raise RecordingError(f"{path} cannot be read: {error.strerror or error}") from error
        if opening.startswith(b"PK"):
            return self.of_npz(path)
        return self.of_episode(path) if opening.lstrip().startswith(b"{") else self.of_pictures([path])

    def of_npz(self, path: Path) -> PromptData:
        names = set(clips.npz_names(path))
        if names.issuperset(clips.DREAM_NAMES):
            return self.of_dream(path)
        if names.issuperset(clips.CLIP_NAMES):
            return self.of_clip(str(path), clips.read_clip(path))
        if names.issuperset(_PROMPT_ARRAYS):
            return self.of_clip(path.stem, load_prompt_file(path))
        if names.issuperset(("actions", "states")):
            return self.of_episode(path)
        expected = f"images and actions (the published dataset), actions and states (a recording), or a {CLIP_FILE}"
        raise RecordingError(f"{path} holds {', '.join(sorted(names)) or 'nothing'}; expected {expected}")

    def of_clip(self, name: str, clip: Clip, default: int | None = None, least: int | None = None) -> PromptData:
        default, least = self.context - 1 if default is None else default, least or self.context
        first, at, stop = self.rows(name, len(clip.frames_THWC), default, least)
        named = ((name, frame_HWC) for frame_HWC in clip.frames_THWC[first:stop])
        return self.divide(named, clip.actions_TA, first, at)

    def of_dream(self, path: Path) -> PromptData:
        clip = clips.read_dream_clip(path)
        prompt = replace(self, horizon=0).of_clip(str(path), clip, len(clip.frames_THWC) - 1, least=1)
        stop, manifest = prompt.start_step + 1, clip.manifest
        seen = slice(stop - len(prompt.frames_THWC), stop)
        note = f"{path} is a dream: some of these frames were generated, and none is kept as the true future"
        return replace(
            prompt,
            notes=(note, *prompt.notes),
            codes_TN=None if clip.codes_TN is None else clip.codes_TN[seen],
            weights=None if manifest is None else manifest.weights,
            dreamed_T=None if clip.dreamed_T is None else clip.dreamed_T[seen],
            kind="given" if manifest is not None and manifest.prompt_kind == "given" else "real",
        )

    def of_episode(self, path: Path) -> PromptData:
        episode = load_episode(path)
        if self.render is None:
            hint = "give a picture, an .npz with images, or a bundled prompt"
            raise BadInputError(f"{path} is a recording without pictures, and no game renders them; {hint}")
        _, _, stop = self.rows(str(path), len(episode.actions_TA), self.context - 1, self.context)
        frames = list(itertools.islice(self.render(episode), stop))
        if len(frames) < stop:
            raise RecordingError(f"{path}: the game rendered {len(frames)} of {stop} frames; record it again")
        return self.of_clip(str(path), Clip(np.stack(frames), episode.actions_TA))

    def of_dataset(self, dataset: FrameDataset, episode: int | None) -> PromptData:
        last = len(dataset.spans) - 1
        if episode is not None and episode > last:
            raise RecordingError(f"there is no episode {episode} in {dataset.folder}; expected 0 to {last}")
        ordered = (*dataset.of_split("validation"), *dataset.spans) if episode is None else (dataset.spans[episode],)
        rows = next((span for span in ordered if span.length >= self.context), ordered[0]).rows
        clip = Clip(dataset.frames_FHWC[rows], np.array(dataset.actions_FA[rows]))
        return self.of_clip(str(dataset.folder), clip)

    def of_video(self, path: Path) -> PromptData:
        recording = VideoLog(path, ImportOptions(frame_size=self.frame_size, schema=self.schema))
        run = find_runs(recording.times_F)[0]
        first, at, stop = self.rows(str(path), run.steps, min(self.context, run.steps) - 1, least=1)
        actions_TA = np.tile(REST_VALUES, (stop, 1))
        notes = ["it has no log of its input: the actions of its pictures are rest"]
        if any(path.with_suffix(ending).is_file() for ending in TABLE_ENDINGS):
            mapping, notes = read_mapping(recording.mapping), [*recording.notes]
            input_TC = resample(recording.changes(mapping.sources), [run], mapping.sources, mapping.dead_zone)
            actions_TA = mapping.fit(mapping.mouse_counts(input_TC)).apply(input_TC)
        pictures = last_pictures(recording.pictures(), [Run(run.start + STEP * first, stop - first)])
        prompt = self.divide(((path.name, load()) for load in pictures), actions_TA, first, at)
        return replace(prompt, kind="given", notes=(*notes, *prompt.notes))

    def of_folder(self, folder: Path) -> PromptData:
        pictures, table = pictures_in(folder), folder / ACTIONS_FILE
        if not table.is_file():
            return self.of_pictures(pictures)
        values_SA, notes = read_actions(table, self.schema)
        if len(values_SA) < len(pictures) - 1:
            least = f"at least {len(pictures) - 1}: one for every picture but the last"
            raise ActionError(f"{table} has {len(values_SA)} rows for {len(pictures)} pictures; expected {least}")
        prompt = self.of_pictures(pictures, values_SA)
        return replace(prompt, notes=(*notes, *prompt.notes))

    def of_pictures(self, paths: Sequence[Path], actions_TA: NDArray[np.uint8] | None = None) -> PromptData:
        """There may be fewer pictures than the context, and no actions."""
        first, at, stop = self.rows(str(paths[0].parent), len(paths), len(paths) - 1, 1)
        pictures = [(path.name, read_picture(path)) for path in paths[first:stop]]
        known_TA = np.tile(REST_VALUES, (at, 1)) if actions_TA is None else actions_TA
        prompt = self.divide(((name, picture.frame_HWC) for name, picture in pictures), known_TA, first, at)
        notes = _grouped((name, note) for name, picture in pictures for note in picture.notes)
        if actions_TA is None and at > first:
            notes.append(f"there is no {ACTIONS_FILE} for these pictures: the actions between them are rest")
        dreamed = [picture.manifest is not None for _, picture in pictures]
        if any(dreamed):
            notes.append(
                f"some pictures were generated and show the watermark; to avoid it, give the clip's {CLIP_FILE}"
            )
        dreamed_T = np.array(dreamed[: at + 1 - first])
        return replace(prompt, dreamed_T=dreamed_T, kind="given", notes=(*notes, *prompt.notes))


def _grouped(notes: Iterable[tuple[str, str]]) -> list[str]:
    """Merge equal notes of several pictures into one sentence each."""
    groups: dict[str, list[str]] = {}
    for name, note in dict.fromkeys(notes):
        groups.setdefault(note, []).append(name)
    return [f"{names[0]}{f' and {len(names) - 1} more' if names[1:] else ''}: {note}" for note, names in groups.items()]
