"""A finished dream as a folder of files people open: pictures, animations, a table, a sheet, arrays.

Owns which files there are and what they are called. Takes plain arrays and a manifest; knows nothing of the
engine that dreamed them. Everything dreamed that can be looked at is marked and carries the manifest;
the arrays in `dream.npz` are unmarked, so that a dream can be gone on from.

==================  =======================================================================================
`raw/01.png` …      the dreamed frames in the model's own size
`x4/01.png` …       the same, four times as wide and high (Lanczos)
`dream.gif`         context, then dream, in real time, endless
`dream.mp4`         the same at 10 frames a second
`actions.csv`       the inputs of the dreamed steps, one row each; goes in again with --actions
`sheet.png`         context and dream at a glance, with the true continuation below where it is known
`dream.npz`         the reference's batch output (see `clips`); goes in again as a prompt
`manifest.json`     what made it
==================  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.errors import BadInputError
from playloom.files import atomic_folder, atomic_write, free_folder
from playloom.media.animation import write_gif, write_mp4
from playloom.media.clips import write_dream_clip
from playloom.media.pictures import enlarge, write_generated, write_picture
from playloom.media.sheet import Kind, Tile, contact_sheet, held_inputs, wrap
from playloom.media.tables import write_actions
from playloom.provenance import Manifest, stamp

CLIP_FILE = "dream.npz"
"""The file to go on from."""
SHEET_COLUMNS = 10
_ENLARGED, _ANIMATED = 4, 2


class DreamedStep(NamedTuple):
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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Dream:
    """The arrays of one dream, checked."""

    real_THWC: NDArray[np.uint8]
    actions_TA: NDArray[np.uint8]
    steps: tuple[DreamedStep, ...]
    manifest: Manifest
    frames_dreamed: bool
    true_SHWC: NDArray[np.uint8]
    codes_TN: NDArray[np.int64] | None
    before_T: NDArray[np.bool_]

    def __post_init__(self) -> None:
        if len(self.actions_TA) != len(self.real_THWC) - 1:
            raise ValueError(f"{len(self.actions_TA)} actions between {len(self.real_THWC)} frames")
        if len(self.before_T) != len(self.real_THWC):
            raise ValueError(f"{len(self.before_T)} flags for {len(self.real_THWC)} frames")
        if not self.steps:
            raise BadInputError("the dream has no steps; ask for at least one")

    @property
    def kind(self) -> Kind:
        return "dreamed" if self.frames_dreamed else "real"

    @property
    def frames_SHWC(self) -> NDArray[np.uint8]:
        frames = [step.frame_HWC for step in self.steps if step.frame_HWC is not None]
        return np.stack(frames) if frames else np.empty((0, *self.real_THWC.shape[1:]), np.uint8)

    @property
    def step_actions_SA(self) -> NDArray[np.uint8]:
        return np.stack([step.action_A for step in self.steps])


def write_dream(
    folder: Path | str,
    *,
    real_frames_THWC: NDArray[np.uint8],
    real_actions_TA: NDArray[np.uint8],
    steps: Iterable[DreamedStep],
    manifest: Manifest,
    frames_dreamed: bool = True,
    true_frames_SHWC: NDArray[np.uint8] | None = None,
    reconstructed_THWC: NDArray[np.uint8] | None = None,
    codes_TN: NDArray[np.int64] | None = None,
    dreamed_before_T: NDArray[np.bool_] | None = None,
    numbered: bool = True,
    on_file: Callable[[str], None] | None = None,
) -> DreamFolder:
    """Write a dream into a new folder, which appears complete or not at all.

    Args:
        folder: where. When it holds something already, the first free of `folder-2`, `folder-3`, … is used;
            an older dream is never overwritten.
        real_frames_THWC: the context, uint8 [T, H, W, 3].
        real_actions_TA: the actions between its frames, [T - 1, 16] values.
        steps: (frame, action, given) of every dreamed step; read to the end before anything is written.
        manifest: what made it; `step` is filled in for single pictures.
        frames_dreamed: False when only actions were dreamed (policy mode): then the frames are real, none is
            marked, and no single pictures are written.
        true_frames_SHWC: what really followed, for the sheet.
        reconstructed_THWC: the true frames through the tokenizer, for `dream.npz`.
        codes_TN: codes of the context's and the dream's frames, for `dream.npz`.
        dreamed_before_T: bool [T], which frames of the context were dreamed earlier; None: none. They are marked too.
        numbered: False to fail instead of choosing a numbered folder.
        on_file: told the name of each file before it is written.

    Raises:
        BadInputError: when there are no steps, or the folder is taken (with `numbered` off) or cannot be
            made.
        PlayloomError: when the disk is full.
    """
    dream = _Dream(
        real_THWC=real_frames_THWC,
        actions_TA=real_actions_TA,
        steps=tuple(DreamedStep(*step) for step in steps),
        manifest=manifest,
        frames_dreamed=frames_dreamed,
        true_SHWC=real_frames_THWC[:0] if true_frames_SHWC is None else true_frames_SHWC,
        codes_TN=codes_TN,
        before_T=np.zeros(len(real_frames_THWC), bool) if dreamed_before_T is None else dreamed_before_T,
    )
    target = free_folder(folder, numbered=numbered)
    with atomic_folder(target) as place:
        files = tuple(_write_files(place, dream, reconstructed_THWC, on_file or (lambda name: None)))
    return DreamFolder(folder=target, files=files)


def _write_files(
    place: Path, dream: _Dream, reconstructed_THWC: NDArray[np.uint8] | None, on_file: Callable[[str], None]
) -> Iterator[tuple[str, str]]:
    manifest, count = dream.manifest, len(dream.frames_SHWC)
    if dream.frames_dreamed:
        yield from _write_pictures(place, dream, on_file)
    on_file("dream.gif")
    write_gif(place / "dream.gif", _animation(dream, smooth=False), manifest=manifest)
    after = f"then {count} dreamed ones" if dream.frames_dreamed else f"then the {count} that really followed"
    before = int(dream.before_T.sum())
    seen = (
        f"{len(dream.real_THWC)} frames seen ({before} dreamed before)"
        if before
        else f"{len(dream.real_THWC)} real frames"
    )
    yield "dream.gif", f"{seen}, {after}, in real time"
    on_file("dream.mp4")
    write_mp4(place / "dream.mp4", _animation(dream, smooth=True), manifest=manifest)
    yield "dream.mp4", "the same as a video, 10 frames a second"
    on_file("actions.csv")
    write_actions(place / "actions.csv", dream.step_actions_SA)
    given = sum(step.action_given for step in dream.steps)
    yield "actions.csv", f"the inputs: {given} given, {len(dream.steps) - given} dreamed"
    on_file("sheet.png")
    write_picture(place / "sheet.png", _sheet(dream), manifest)
    yield "sheet.png", "all of it at a glance"
    on_file(CLIP_FILE)
    _write_clip(place / CLIP_FILE, dream, reconstructed_THWC)
    yield CLIP_FILE, "the arrays, unmarked; a prompt to dream on from"
    with atomic_write(place / "manifest.json") as temporary:
        temporary.write_text(manifest.to_json() + "\n", encoding="utf-8")
    yield "manifest.json", "what made it"


def _write_pictures(place: Path, dream: _Dream, on_file: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    frames_SHWC = dream.frames_SHWC
    digits = max(2, len(str(len(frames_SHWC))))
    for number, frame_HWC in enumerate(frames_SHWC, 1):
        name, manifest = f"{number:0{digits}}.png", dream.manifest.at_step(number)
        on_file(f"raw/{name}")
        write_generated(place / "raw" / name, frame_HWC, manifest)
        write_generated(place / f"x{_ENLARGED}" / name, enlarge(frame_HWC, _ENLARGED), manifest)
    height, width = frames_SHWC.shape[1:3]
    yield "raw/", f"{len(frames_SHWC)} dreamed pictures, {width} x {height}"
    yield f"x{_ENLARGED}/", f"the same, {_ENLARGED * width} x {_ENLARGED * height}"


def _animation(dream: _Dream, *, smooth: bool) -> Iterator[NDArray[np.uint8]]:
    """Context and dream, enlarged; smoothly for a video, in blocks for a GIF and its 256 colours."""
    after_S = np.full(len(dream.frames_SHWC), dream.frames_dreamed)
    for frames_THWC, marked_T in ((dream.real_THWC, dream.before_T), (dream.frames_SHWC, after_S)):
        for frame_HWC, marked in zip(frames_THWC, marked_T, strict=True):
            large = (
                enlarge(frame_HWC, _ANIMATED)
                if smooth
                else frame_HWC.repeat(_ANIMATED, axis=0).repeat(_ANIMATED, axis=1)
            )
            yield stamp(large) if marked else large


def _sheet(dream: _Dream) -> NDArray[np.uint8]:
    """Below each frame: its step (0 is the last one seen) and the input that led to it."""
    inputs = ["", *(held_inputs(action_A) for action_A in dream.actions_TA)]
    first = 1 - len(dream.real_THWC)
    context = [
        Tile(frame_HWC=frame_HWC, kind="dreamed" if before else "real", caption=f"{number}  {held}")
        for number, (frame_HWC, held, before) in enumerate(
            zip(dream.real_THWC, inputs, dream.before_T, strict=True), first
        )
    ]
    after = [
        Tile(frame_HWC=step.frame_HWC, kind=dream.kind, caption=f"{number}  {_held(step)}")
        for number, step in enumerate(dream.steps, 1)
        if step.frame_HWC is not None
    ]
    truth = [
        Tile(frame_HWC=frame_HWC, kind="real", caption=f"{number}  truth")
        for number, frame_HWC in enumerate(dream.true_SHWC[: len(after)], 1)
    ]
    rows = wrap(context, SHEET_COLUMNS)
    true_rows = wrap(truth, SHEET_COLUMNS) if dream.frames_dreamed else []
    for index, row in enumerate(wrap(after, SHEET_COLUMNS)):
        rows += [row, *true_rows[index : index + 1]]
    stars = "" if all(step.action_given for step in dream.steps) else "  * dreamed input"
    return contact_sheet(rows, title=f"playloom  {dream.manifest.mode}  seed {dream.manifest.seed}{stars}")


def _held(step: DreamedStep) -> str:
    return held_inputs(step.action_A) + ("" if step.action_given else " *")


def _write_clip(path: Path, dream: _Dream, reconstructed_THWC: NDArray[np.uint8] | None) -> None:
    frames_SHWC = dream.frames_SHWC
    real_THWC, dreamed_SHWC, before_T = dream.real_THWC, frames_SHWC, dream.before_T
    if not dream.frames_dreamed:
        real_THWC, dreamed_SHWC = np.concatenate([real_THWC, frames_SHWC]), frames_SHWC[:0]
        before_T = np.concatenate([before_T, np.zeros(len(frames_SHWC), bool)])
    write_dream_clip(
        path,
        context_THWC=real_THWC,
        dreamed_before_T=before_T,
        dreamed_SHWC=dreamed_SHWC,
        actions_TA=np.concatenate([dream.actions_TA, dream.step_actions_SA]),
        given_T=np.array([True] * len(dream.actions_TA) + [step.action_given for step in dream.steps]),
        manifest=dream.manifest,
        reconstructed_THWC=reconstructed_THWC,
        codes_TN=dream.codes_TN,
    )
