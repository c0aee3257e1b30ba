"""A generated clip in memory, as one file, or as a folder of files.

Every generated picture is marked and carries the manifest. The arrays in `dream.npz` are unmarked, so that a dream
can be continued from them.

==================  =======================================================================================
`raw/01.png` …      the dreamed frames in the model's own size
`x4/01.png` …       the same, four times as wide and high (Lanczos)
`dream.gif`         context, then dream, with the input, in real time, endless; small enough to send
`dream.mp4`         the same, larger; the true continuation on the left where it is known
`actions.csv`       the inputs of the dreamed steps, one row each; goes in again with --actions
`sheet.png`         context and dream at a glance, with the true continuation above where it is known
`dream.npz`         the reference's batch output (see `clips`); goes in again as a prompt
`manifest.json`     what made it, and the request that makes it again
==================  =======================================================================================
"""

from __future__ import annotations

import base64
import html
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES
from playloom.atomic_io import atomic_folder, atomic_write, next_free_path
from playloom.errors import BadInputError
from playloom.media.action_table import write_actions
from playloom.media.clips import write_dream_clip
from playloom.media.contact_sheet import Kind, Tile, contact_sheet, film_frames, title_of, wrap
from playloom.media.images import enlarge, write_generated, write_picture
from playloom.media.video import write_gif, write_mp4
from playloom.provenance import Manifest

CLIP_FILE = "dream.npz"
"""The file to go on from."""
_ENLARGED, _FILM = 4, 2
_SHEET_TILE = 200
_PRESSED: dict[Kind, str] = {"real": "recorded", "given": "given", "dreamed": "given"}
"""Caption of the controller beside a frame that was not dreamed now."""
_SHEET_TILES = 60
"""A sheet that would have more dreamed and true tiles shows every second, third, … step."""


class OutputStep(NamedTuple):
    """One step of a dream: the action taken, and the frame that followed it."""

    frame_HWC: NDArray[np.uint8] | None
    """RGB, unmarked; None after the last action when only actions are dreamed."""
    action_A: NDArray[np.uint8]
    """Action values [16] in slot order."""
    action_given: bool
    """Whether the action was given, not dreamed."""


@dataclass(frozen=True, kw_only=True)
class DreamFolder:
    """What was written."""

    folder: Path
    """Where; may be numbered, see `write_dream`."""
    files: tuple[tuple[str, str], ...]
    """(name inside the folder, what it is), in the order of the table above."""


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class GeneratedClip:
    """A prompt and the steps that a model generated after it; a notebook shows it as a film.

    Raises:
        BadInputError: when there are no steps.
    """

    real_frames_THWC: NDArray[np.uint8]
    """Frames of the prompt, uint8 [T, H, W, 3]."""
    real_actions_TA: NDArray[np.uint8]
    """Action values between them, uint8 [T - 1, 16]."""
    steps: tuple[OutputStep, ...]
    """Every step after them."""
    manifest: Manifest
    """Model, seed and settings; `step` is filled in for single pictures."""
    frames_dreamed: bool = True
    """False when only actions were generated (policy mode): the frames are real, and none is marked."""
    true_frames_SHWC: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, 1, 1, 3), np.uint8))
    """Frames that really followed the same actions, shown beside the generated ones; may be empty."""
    true_actions_SA: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, len(REST_VALUES)), np.uint8))
    """Recorded actions from the last prompt frame on, shown beside generated ones; may be empty."""
    real_kind: Kind = "real"
    """Kind of the prompt's frames that were not generated."""
    dreamed_before_T: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, bool))
    """Which prompt frames were generated earlier, bool [T]; these are marked too. Empty: none."""
    codes_TN: NDArray[np.int64] | None = None
    """Codes of all frames, int64 [T + S, N], if they are known."""
    request: Mapping[str, Any] = field(default_factory=dict)
    """The request that generates the clip again; only `manifest.json` in a folder holds it."""
    notes: tuple[str, ...] = ()
    """Sentences on defaults, changes and warnings."""
    seconds: float = 0.0
    """Time that generation took, without loading and writing."""
    stopped: bool = False
    """Whether it was stopped before its last step."""

    def __post_init__(self) -> None:
        if len(self.real_actions_TA) != len(self.real_frames_THWC) - 1:
            raise ValueError(f"{len(self.real_actions_TA)} actions between {len(self.real_frames_THWC)} frames")
        if len(self.dreamed_before_T) not in (0, len(self.real_frames_THWC)):
            raise ValueError(f"{len(self.dreamed_before_T)} flags for {len(self.real_frames_THWC)} frames")
        if not self.steps:
            raise BadInputError("the dream has no steps; ask for at least one")

    @property
    def frames(self) -> NDArray[np.uint8]:
        """Frames after the prompt without a mark, uint8 RGB [S, H, W, 3]."""
        frames = [step.frame_HWC for step in self.steps if step.frame_HWC is not None]
        return np.stack(frames) if frames else np.empty((0, *self.real_frames_THWC.shape[1:]), np.uint8)

    @property
    def actions(self) -> NDArray[np.uint8]:
        """Action values of the steps, uint8 [S, 16]."""
        return np.stack([step.action_A for step in self.steps])

    def __len__(self) -> int:
        return len(self.steps)

    def __repr__(self) -> str:
        height, width = self.real_frames_THWC.shape[1:3]
        title = title_of(self.manifest).replace(",  ", ", ")
        return f"GeneratedClip({_count(len(self), 'step')} of {width} x {height} pixels: {title})"

    def _repr_html_(self) -> str:
        """Return an animated GIF with the notes below it, for notebooks."""
        with tempfile.TemporaryDirectory(prefix="playloom-") as folder:
            self.save(Path(folder) / "clip.gif")
            gif = base64.b64encode((Path(folder) / "clip.gif").read_bytes()).decode()
        notes = "".join(f"<br><small>{html.escape(note)}</small>" for note in self.notes)
        return f'<img alt="{html.escape(repr(self))}" src="data:image/gif;base64,{gif}">{notes}'

    def save(self, path: Path | str) -> Path:
        """Write the clip; every generated picture is marked and carries the manifest.

        Args:
            path: ending in `.gif`, `.mp4`, `.png` (contact sheet) or `.npz` (unmarked arrays, a prompt to continue
                from), replaced if it exists; any other path is a new folder with all of these, numbered if taken.

        Returns:
            Path that was written.

        Raises:
            BadInputError: when the ending is unknown, or the folder cannot be made.
            StorageError: when the place cannot be written to, or the disk is full.
        """
        target = Path(path)
        if not target.suffix:
            return self.write_folder(target).folder
        if target.suffix.lower() not in _WRITERS:
            endings = ", ".join(_WRITERS)
            raise BadInputError(f"{target} has an unknown ending: got {target.suffix}, expected {endings} or a folder")
        _WRITERS[target.suffix.lower()](target, self)
        return target

    def write_folder(
        self,
        folder: Path | str,
        *,
        numbered: bool = True,
        on_file: Callable[[str], None] = lambda name: None,
    ) -> DreamFolder:
        """Write the files of the table above into a new folder, which appears complete or not at all.

        Args:
            folder: destination. When it holds a result already, the first free of `folder-2`, `folder-3`, … is used.
            numbered: False to fail instead of choosing a numbered folder.
            on_file: called with the name of each file before it is written.

        Raises:
            BadInputError: when the folder is taken by anything else (or at all, with `numbered` off).
            StorageError: when the folder cannot be made, or the disk is full.
        """
        target = next_free_path(folder, numbered=numbered)
        with atomic_folder(target) as place:
            files = tuple(_write_files(place, self, on_file))
        return DreamFolder(folder=target, files=files)

    @property
    def kinds(self) -> set[Kind]:
        """Kinds of all its tiles."""
        before_T = _before(self)
        found: set[Kind] = {self.real_kind} if not before_T.all() or len(self.true_frames_SHWC) else set()
        return found | ({"dreamed"} if self.frames_dreamed or before_T.any() else set())


def _before(clip: GeneratedClip) -> NDArray[np.bool_]:
    none_T = np.zeros(len(clip.real_frames_THWC), bool)
    return clip.dreamed_before_T if len(clip.dreamed_before_T) else none_T


def _write_files(place: Path, clip: GeneratedClip, on_file: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    if clip.frames_dreamed:
        yield from _write_pictures(place, clip, on_file)
    on_file("dream.gif")
    _write_gif(place / "dream.gif", clip)
    yield "dream.gif", f"{_content(clip)}, in real time"
    on_file("dream.mp4")
    _write_mp4(place / "dream.mp4", clip)
    yield "dream.mp4", "the same as a larger video, 10 frames a second"
    on_file("actions.csv")
    write_actions(place / "actions.csv", clip.actions)
    given = sum(step.action_given for step in clip.steps)
    yield "actions.csv", f"the inputs: {given} given, {len(clip) - given} dreamed"
    on_file("sheet.png")
    _write_sheet(place / "sheet.png", clip)
    yield "sheet.png", "all of it at a glance"
    on_file(CLIP_FILE)
    _write_clip(place / CLIP_FILE, clip)
    yield CLIP_FILE, "the arrays, unmarked; a prompt to dream on from"
    with atomic_write(place / "manifest.json") as temporary:
        temporary.write_text(replace(clip.manifest, request=clip.request).to_json() + "\n", encoding="utf-8")
    yield "manifest.json", "what made it, and what makes it again"


def _film(clip: GeneratedClip, enlarged: int) -> Iterator[NDArray[np.uint8]]:
    return film_frames(_moments(clip), kinds=clip.kinds, title=_title(clip), enlarged=enlarged)


def _write_gif(path: Path, clip: GeneratedClip) -> None:
    write_gif(path, _film(clip, 1), manifest=clip.manifest)


def _write_mp4(path: Path, clip: GeneratedClip) -> None:
    write_mp4(path, _film(clip, _FILM), manifest=clip.manifest)


def _write_sheet(path: Path, clip: GeneratedClip) -> None:
    write_picture(path, _sheet(clip, _moments(clip), _title(clip)), clip.manifest)


def _write_pictures(place: Path, clip: GeneratedClip, on_file: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    frames_SHWC = clip.frames
    digits = max(2, len(str(len(frames_SHWC))))
    for number, frame_HWC in enumerate(frames_SHWC, 1):
        name, manifest = f"{number:0{digits}}.png", clip.manifest.at_step(number)
        on_file(f"raw/{name}")
        write_generated(place / "raw" / name, frame_HWC, manifest)
        write_generated(place / f"x{_ENLARGED}" / name, enlarge(frame_HWC, _ENLARGED), manifest)
    height, width = frames_SHWC.shape[1:3]
    yield "raw/", f"{len(frames_SHWC)} dreamed pictures, {width} x {height}"
    yield f"x{_ENLARGED}/", f"the same, {_ENLARGED * width} x {_ENLARGED * height}"


def _content(clip: GeneratedClip) -> str:
    before, seen, after = int(_before(clip).sum()), len(clip.real_frames_THWC), len(clip.frames)
    if before:
        began = f"{_count(seen, 'frame')} seen ({before} dreamed before)"
    else:
        began = _count(seen, f"{clip.real_kind} frame")
    if not clip.frames_dreamed:
        return f"{began}, then the {after} that really followed" if after else began
    beside = " beside what really followed" if len(clip.true_frames_SHWC) else ""
    return f"{began}, then {_count(after, 'dreamed one')}{beside}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _title(clip: GeneratedClip) -> str:
    said = title_of(clip.manifest)
    if not clip.frames_dreamed:
        return f"{said}.  The pictures are real, the input marked MODEL is dreamed."
    return f"{said}.  The same input in the game and in the dream." if len(clip.true_frames_SHWC) else said


def _moments(clip: GeneratedClip) -> list[list[Tile]]:
    if not clip.frames_dreamed:
        return _answered(clip)
    seen = seen_tiles(clip.real_frames_THWC, clip.real_actions_TA, _before(clip), clip.real_kind)
    return film_moments(seen, clip.steps, clip.true_frames_SHWC, clip.real_kind)


def film_moments(
    seen: Sequence[Tile], steps: Iterable[OutputStep], true_SHWC: NDArray[np.uint8], kind: Kind = "real"
) -> list[list[Tile]]:
    """The tiles of every step, side by side: the dream, right of what really followed where that is known.

    Args:
        seen: see `seen_tiles`.
        steps: those dreamed; steps without a frame are left out.
        true_SHWC: what really followed, uint8 [S, H, W, 3]; may be empty, or shorter than the dream.
        kind: of the true frames.
    """
    shown = [[tile] for tile in seen]
    for number, step in enumerate(steps, 1):
        if step.frame_HWC is not None:
            given = _PRESSED[kind] if len(true_SHWC) else "given"
            pad = (step.action_A, given if step.action_given else "MODEL")
            shown.append([Tile(frame_HWC=step.frame_HWC, kind="dreamed", caption=f"step {number}", pads=[pad])])
    if not len(true_SHWC):
        return shown
    truth = [*seen]
    truth += [Tile(frame_HWC=frame, kind=kind, caption=f"step {n}") for n, frame in enumerate(true_SHWC, 1)]
    ended = Tile(frame_HWC=np.zeros_like(seen[0].frame_HWC), kind=kind, caption="the recording has ended")
    truth += [ended] * (len(shown) - len(truth))
    return [[replace(real, pads=moment[0].pads), *moment] for real, moment in zip(truth, shown, strict=False)]


def seen_tiles(
    frames_THWC: NDArray[np.uint8],
    actions_TA: NDArray[np.uint8],
    dreamed_T: NDArray[np.bool_] | None = None,
    kind: Kind = "real",
) -> list[Tile]:
    """The frames that a dream begins with, each with the input that led to it; 0 is the last one.

    Args:
        frames_THWC: uint8 RGB [T, H, W, 3].
        actions_TA: action values [T - 1, 16].
        dreamed_T: bool [T], which were dreamed earlier; None: none.
        kind: of the others.
    """
    pads = [(REST_VALUES, "not known"), *((action_A, _PRESSED[kind]) for action_A in actions_TA)]
    dreamed = np.zeros(len(frames_THWC), bool) if dreamed_T is None else dreamed_T
    kinds: list[Kind] = ["dreamed" if flag else kind for flag in dreamed]
    return [
        Tile(frame_HWC=frame_HWC, kind=own, caption=f"step {number}, seen", pads=[pad])
        for number, (frame_HWC, own, pad) in enumerate(zip(frames_THWC, kinds, pads, strict=True), 1 - len(frames_THWC))
    ]


def _answered(clip: GeneratedClip) -> list[list[Tile]]:
    """Policy mode: every frame with the input that answered it, the recorded one beside the model's."""
    seen = len(clip.real_frames_THWC)
    frames_FHWC = np.concatenate([clip.real_frames_THWC, clip.frames])[: seen - 1 + len(clip.steps)]
    real_FA = np.concatenate([clip.real_actions_TA, clip.true_actions_SA])
    shown = []
    for index, frame_HWC in enumerate(frames_FHWC):
        step = index + 1 - seen  # 0 is the first frame that the model answers
        own = (clip.steps[step].action_A, "MODEL") if step >= 0 else (REST_VALUES, "watching")
        recorded = (real_FA[index], _PRESSED[clip.real_kind]) if index < len(real_FA) else (REST_VALUES, "not known")
        kind: Kind = "dreamed" if index < seen and _before(clip)[index] else clip.real_kind
        shown.append([Tile(frame_HWC=frame_HWC, kind=kind, caption=f"step {step}", pads=[recorded, own])])
    return shown


def _sheet(clip: GeneratedClip, shown: list[list[Tile]], title: str) -> NDArray[np.uint8]:
    seen = len(clip.real_frames_THWC)
    every = -(-(len(shown) - seen) * len(shown[0]) // _SHEET_TILES) or 1
    columns = 5 if clip.frames_dreamed else 4
    after = shown[seen:][::every]
    if len(clip.true_frames_SHWC):  # what really followed above the dream, a row each
        rows = wrap([moment[-1] for moment in shown[:seen]], columns)
        for part in range(0, len(after), columns):
            rows += [list(lane) for lane in zip(*after[part : part + columns], strict=True)]
    else:
        rows = wrap([moment[0] for moment in [*shown[:seen], *after]], columns)
    thinned = f"  One step of {every} is shown." if every > 1 else ""
    return contact_sheet(rows, title=f"{title}{thinned}", tile_width=_SHEET_TILE, kinds=clip.kinds)


def _write_clip(path: Path, clip: GeneratedClip) -> None:
    frames_SHWC = clip.frames
    real_THWC, dreamed_SHWC, before_T = clip.real_frames_THWC, frames_SHWC, _before(clip)
    if not clip.frames_dreamed:
        real_THWC, dreamed_SHWC = np.concatenate([real_THWC, frames_SHWC]), frames_SHWC[:0]
        before_T = np.concatenate([before_T, np.zeros(len(frames_SHWC), bool)])
    write_dream_clip(
        path,
        context_THWC=real_THWC,
        dreamed_before_T=before_T,
        dreamed_SHWC=dreamed_SHWC,
        actions_TA=np.concatenate([clip.real_actions_TA, clip.actions]),
        given_T=np.array([True] * len(clip.real_actions_TA) + [step.action_given for step in clip.steps]),
        manifest=clip.manifest,
        codes_TN=clip.codes_TN,
    )


_WRITERS: dict[str, Callable[[Path, GeneratedClip], None]] = {
    ".gif": _write_gif,
    ".mp4": _write_mp4,
    ".png": _write_sheet,
    ".npz": _write_clip,
}
