"""Where a dream begins: whatever the user points at, as frames and the actions between them.

Owns how a prompt is recognised (by what is in it, not by its name), cut and fitted. Knows neither the model
nor the game: the sizes are arguments, and who can render a recording's pictures again is passed in.

    prompt = load_prompt("moment:arena-blue", context=10, frame_size=(180, 300))

===========================  ===========================================================  ================
spec                         what it is                                                   default
===========================  ===========================================================  ================
a folder of pictures         sorted by name (2 before 10); an `actions.csv` may lie there the last picture
one picture                  a context of one step                                        that picture
`.npz` with images, actions  a clip of the published data set                             context - 1
a dream's folder or its npz  context and dream of an earlier run, without the marks       the last frame
an episode (.npz or .json)   a recording of `playloom record`; needs `render`             context - 1
`moment:NAME`                a bundled moment                                             context - 1
===========================  ===========================================================  ================

`start_step` counts steps from 0 and names the last frame that is seen; what follows it is kept as the truth.

Bundled moments: short pieces of real play, kept exactly, to dream on from without a recording.

A moment is `NAME.npz` (arrays `frames` [T, H, W, 3] uint8 and `actions` [T, 16] uint8, LZMA-packed: forty
frames of the arena take about 0.75 MB, half of PNG) beside `NAME.json` (where it comes from). Owns these two
files; those of the package lie in `playloom/assets/prompts`.

Which part of a prompt's source is wanted, and what comes of it: frames of one size and the actions between them.

Owns the bounds and how frames are fitted. Knows nothing of files; `prompts` recognises and reads them.

Prompts from pictures: one, or a folder of them in natural order, with a table of the inputs between if there is one.

Owns the order and what is said of the pictures. They may be few and of any size.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from playloom.actions.codec import REST_VALUES, Schema, check_values
from playloom.atomic_io import atomic_write
from playloom.data.recording import Episode, load_episode
from playloom.errors import ActionError, BadInputError, PictureError, RecordingError, did_you_mean
from playloom.media.action_table import read_actions
from playloom.media.clips import CLIP_NAMES, is_dream_clip, npz_names, read_clip, read_dream_clip, read_npz, write_npz
from playloom.media.images import ResizeMode, fit_picture, read_picture
from playloom.media.output_folder import CLIP_FILE
from playloom.provenance import Manifest

BUNDLED = Path(__file__).parents[1] / "assets" / "prompts"
"""Where the package keeps its own."""
MOMENT_NAMES = ("frames", "actions")


class BundledPrompt(NamedTuple):
    """Real steps of play."""

    frames_THWC: NDArray[np.uint8]
    """RGB [T, H, W, 3]."""
    actions_TA: NDArray[np.uint8]
    """Action values [T, 16] in slot order; action t was taken after seeing frame t."""
    meta: Mapping[str, Any]
    """Where it comes from: game, seed, step and whatever else was kept."""


def list_prompts(folder: Path = BUNDLED) -> list[str]:
    """The names of the moments in a folder, sorted; the bundled ones by default."""
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob("*.npz") if path.with_suffix(".json").is_file())


def find_prompt(name: str, folder: Path = BUNDLED) -> Path:
    """The path of a moment's `.npz`.

    Raises:
        RecordingError: when there is none of that name.
    """
    names = list_prompts(folder)
    if name not in names:
        raise RecordingError(f"there is no moment {name!r}; {did_you_mean(name, names) if names else 'none is there'}")
    return folder / f"{name}.npz"


def load_bundled_prompt(path: Path | str) -> BundledPrompt:
    """Read a moment from its `.npz`; its `.json` may be missing.

    Raises:
        RecordingError: when a file is damaged or its arrays do not fit together.
        ActionError: when an action value is outside its range.
    """
    arrays = read_npz(path, MOMENT_NAMES)
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
    """Write a moment; `load_bundled_prompt` gives exactly these back, and equal moments are equal files.

    Args:
        path: where, ending in `.npz`; the JSON goes beside it.
        frames_THWC: uint8 [T, H, W, 3].
        actions_TA: action values [T, 16].
        meta: what JSON can hold; says where the moment comes from.

    Returns:
        The path of the `.npz`.

    Raises:
        RecordingError: when there are not as many actions as frames.
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    if len(frames_THWC) != len(actions_TA):
        raise RecordingError(f"a moment needs an action a frame; got {len(frames_THWC)} and {len(actions_TA)}")
    target = Path(path).with_suffix(".npz")
    write_npz(target, {"frames": frames_THWC, "actions": check_values(actions_TA)}, packing="small")
    with atomic_write(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(dict(meta), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return target


def _read_meta(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path} is not JSON ({error}); save the moment again") from error
    if not isinstance(meta, dict):
        raise RecordingError(f"{path} holds no JSON object; save the moment again")
    return meta


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
class PromptSpec:
    """Which part of a source is wanted.

    Raises:
        BadInputError: when context or horizon is no such number.
    """

    context: int
    """Frames seen."""
    frame_size: tuple[int, int]
    """Height and width of the model's frames."""
    resize: ResizeMode
    """How pictures of another shape are fitted."""
    start_step: int | None
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
        at = default if self.start_step is None else self.start_step
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


def clamp_context(cut: PromptSpec, seen: int) -> tuple[PromptSpec, list[str]]:
    """A context of what there is, and a note if that is less than was asked for."""
    if seen >= cut.context:
        return cut, []
    note = f"the context is {seen} step{'s' * (seen > 1)} long, not {cut.context}: no more pictures"
    return replace(cut, context=seen), [note]


def fit_all(
    names: Sequence[str], frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], cut: PromptSpec
) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """Frames [T, H, W, 3] of the wanted size, and what was done to make them so, as sentences."""
    fitted, notes = [], []
    for name, frame_HWC in zip(names, frames, strict=True):
        frame, note = fit_picture(frame_HWC, cut.frame_size, cut.resize)
        fitted.append(frame)
        if note:
            hint = " (--resize letterbox keeps all of it)" if "cropped" in note else ""
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


def from_folder(folder: Path, cut: PromptSpec, schema: Schema | Literal["auto"]) -> PromptData:
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
    paths: Sequence[Path], cut: PromptSpec, actions_TA: NDArray[np.uint8] | None, notes: tuple[str, ...]
) -> PromptData:
    """The prompt of some pictures: a context shorter than asked is fine, and so are unknown actions.

    Raises:
        PictureError: when one is damaged.
        RecordingError: when the last step asked for is none of them.
    """
    at = len(paths) - 1 if cut.start_step is None else cut.start_step
    if not 0 <= at < len(paths):
        raise RecordingError(
            f"there are {len(paths)} pictures; the last one seen can be 0 to {len(paths) - 1}, got {at}"
        )
    first, stop = max(0, at + 1 - cut.context), cut.stop(at, len(paths))
    seen = at + 1 - first
    said = [*notes, *clamp_context(cut, seen)[1]]
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
    resize: ResizeMode = "crop",
    start_step: int | None = None,
    horizon: int | None = None,
    render: Render | None = None,
) -> PromptData:
    """Load a prompt of any of the kinds in the table above.

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
    check_prompt(spec)
    text = str(spec)
    if text.startswith(MOMENT_PREFIX):
        path = find_prompt(text.removeprefix(MOMENT_PREFIX))
        return replace(_from_moment(path, cut), name=f"{MOMENT_PREFIX}{path.stem}", source=path)
    path = _existing(Path(spec))
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


def check_prompt(spec: str | Path) -> None:
    """Check that a prompt exists, without reading it.

    Raises:
        BadInputError: when it is empty, or there is no such moment, file or folder.
    """
    text = str(spec)
    if text.startswith(MOMENT_PREFIX):
        find_prompt(text.removeprefix(MOMENT_PREFIX))
    elif not text.strip():
        raise BadInputError("the prompt is empty; give a picture, a folder of pictures, a recording or moment:NAME")
    else:
        _existing(Path(spec))


def _existing(path: Path) -> Path:
    """The path, also when the ending of an episode was left out."""
    for candidate in (path, path.parent / f"{path.name}.json"):
        if candidate.exists():
            return candidate
    names = list_prompts()
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


def _from_npz(path: Path, cut: PromptSpec, render: Render | None) -> PromptData:
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


def _from_moment(path: Path, cut: PromptSpec) -> PromptData:
    moment = load_bundled_prompt(path)
    name = f"{MOMENT_PREFIX}{path.stem}"
    return _from_arrays(name, moment.frames_THWC, moment.actions_TA, cut, cut.context - 1)


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
    """What the first dream began with: its frames that were not dreamed are called so."""
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
        at=at,
    )
