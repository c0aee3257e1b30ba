"""A finished dream as a folder of files people open: pictures, animations, a table, a sheet, arrays.

Owns which files there are and what they are called. Takes plain arrays and a manifest; knows nothing of the
engine that dreamed them. Everything dreamed that can be looked at is marked and carries the manifest;
the arrays in `dream.npz` are unmarked, so that a dream can be gone on from.

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


@dataclass(frozen=True, kw_only=True, eq=False)
class _Dream:
    """The arrays of one dream, checked."""

    real_THWC: NDArray[np.uint8]
    actions_TA: NDArray[np.uint8]
    steps: tuple[OutputStep, ...]
    manifest: Manifest
    frames_dreamed: bool
    true_SHWC: NDArray[np.uint8]
    codes_TN: NDArray[np.int64] | None
    before_T: NDArray[np.bool_]
    real_kind: Kind = "real"
    true_actions_SA: NDArray[np.uint8] = field(default_factory=lambda: np.empty((0, len(REST_VALUES)), np.uint8))

    def __post_init__(self) -> None:
        if len(self.actions_TA) != len(self.real_THWC) - 1:
            raise ValueError(f"{len(self.actions_TA)} actions between {len(self.real_THWC)} frames")
        if len(self.before_T) != len(self.real_THWC):
            raise ValueError(f"{len(self.before_T)} flags for {len(self.real_THWC)} frames")
        if not self.steps:
            raise BadInputError("the dream has no steps; ask for at least one")

    @property
    def kinds(self) -> set[Kind]:
        """Of all its tiles."""
        found: set[Kind] = {self.real_kind} if not self.before_T.all() or len(self.true_SHWC) else set()
        return found | ({"dreamed"} if self.frames_dreamed or self.before_T.any() else set())

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
    steps: Iterable[OutputStep],
    manifest: Manifest,
    frames_dreamed: bool = True,
    true_frames_SHWC: NDArray[np.uint8] | None = None,
    true_actions_SA: NDArray[np.uint8] | None = None,
    real_kind: Kind = "real",
    request: Mapping[str, Any] | None = None,
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
        true_frames_SHWC: what really followed with the same actions, to be shown beside the dream.
        true_actions_SA: what was really pressed from the last frame seen on, to be shown beside dreamed input.
        real_kind: what frames that were not dreamed are called.
        request: what makes the dream again; for `manifest.json`.
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
        steps=tuple(OutputStep(*step) for step in steps),
        manifest=manifest,
        frames_dreamed=frames_dreamed,
        true_SHWC=real_frames_THWC[:0] if true_frames_SHWC is None else true_frames_SHWC,
        codes_TN=codes_TN,
        before_T=np.zeros(len(real_frames_THWC), bool) if dreamed_before_T is None else dreamed_before_T,
        real_kind=real_kind,
        **({} if true_actions_SA is None else {"true_actions_SA": true_actions_SA}),
    )
    target = next_free_path(folder, numbered=numbered)
    with atomic_folder(target) as place:
        files = tuple(_write_files(place, dream, request or {}, reconstructed_THWC, on_file or (lambda name: None)))
    return DreamFolder(folder=target, files=files)


def _write_files(
    place: Path,
    dream: _Dream,
    request: Mapping[str, Any],
    reconstructed_THWC: NDArray[np.uint8] | None,
    on_file: Callable[[str], None],
) -> Iterator[tuple[str, str]]:
    manifest = dream.manifest
    shown, title = _moments(dream), _title(dream)
    if dream.frames_dreamed:
        yield from _write_pictures(place, dream, on_file)
    on_file("dream.gif")
    small = film_frames(shown, kinds=dream.kinds, title=title)
    write_gif(place / "dream.gif", small, manifest=manifest)
    yield "dream.gif", f"{_content(dream)}, in real time"
    on_file("dream.mp4")
    large = film_frames(shown, kinds=dream.kinds, title=title, enlarged=_FILM)
    write_mp4(place / "dream.mp4", large, manifest=manifest)
    yield "dream.mp4", "the same as a larger video, 10 frames a second"
    on_file("actions.csv")
    write_actions(place / "actions.csv", dream.step_actions_SA)
    given = sum(step.action_given for step in dream.steps)
    yield "actions.csv", f"the inputs: {given} given, {len(dream.steps) - given} dreamed"
    on_file("sheet.png")
    write_picture(place / "sheet.png", _sheet(dream, shown, title), manifest)
    yield "sheet.png", "all of it at a glance"
    on_file(CLIP_FILE)
    _write_clip(place / CLIP_FILE, dream, reconstructed_THWC)
    yield CLIP_FILE, "the arrays, unmarked; a prompt to dream on from"
    with atomic_write(place / "manifest.json") as temporary:
        temporary.write_text(replace(manifest, request=request).to_json() + "\n", encoding="utf-8")
    yield "manifest.json", "what made it, and what makes it again"


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


def _content(dream: _Dream) -> str:
    before, seen, after = int(dream.before_T.sum()), len(dream.real_THWC), len(dream.frames_SHWC)
    if before:
        began = f"{_count(seen, 'frame')} seen ({before} dreamed before)"
    else:
        began = _count(seen, f"{dream.real_kind} frame")
    if not dream.frames_dreamed:
        return f"{began}, then the {after} that really followed" if after else began
    beside = " beside what really followed" if len(dream.true_SHWC) else ""
    return f"{began}, then {_count(after, 'dreamed one')}{beside}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _title(dream: _Dream) -> str:
    said = title_of(dream.manifest)
    if not dream.frames_dreamed:
        return f"{said}.  The pictures are real, the input marked MODEL is dreamed."
    return f"{said}.  The same input in the game and in the dream." if len(dream.true_SHWC) else said


def _moments(dream: _Dream) -> list[list[Tile]]:
    if not dream.frames_dreamed:
        return _answered(dream)
    seen = seen_tiles(dream.real_THWC, dream.actions_TA, dream.before_T, dream.real_kind)
    return film_moments(seen, dream.steps, dream.true_SHWC, dream.real_kind)


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


def _answered(dream: _Dream) -> list[list[Tile]]:
    """Policy mode: every frame with the input that answered it, the recorded one beside the model's."""
    seen = len(dream.real_THWC)
    frames_FHWC = np.concatenate([dream.real_THWC, dream.frames_SHWC])[: seen - 1 + len(dream.steps)]
    real_FA = np.concatenate([dream.actions_TA, dream.true_actions_SA])
    shown = []
    for index, frame_HWC in enumerate(frames_FHWC):
        step = index + 1 - seen  # 0 is the first frame that the model answers
        own = (dream.steps[step].action_A, "MODEL") if step >= 0 else (REST_VALUES, "watching")
        recorded = (real_FA[index], _PRESSED[dream.real_kind]) if index < len(real_FA) else (REST_VALUES, "not known")
        kind: Kind = "dreamed" if index < seen and dream.before_T[index] else dream.real_kind
        shown.append([Tile(frame_HWC=frame_HWC, kind=kind, caption=f"step {step}", pads=[recorded, own])])
    return shown


def _sheet(dream: _Dream, shown: list[list[Tile]], title: str) -> NDArray[np.uint8]:
    seen = len(dream.real_THWC)
    every = -(-(len(shown) - seen) * len(shown[0]) // _SHEET_TILES) or 1
    columns = 5 if dream.frames_dreamed else 4
    after = shown[seen:][::every]
    if len(dream.true_SHWC):  # what really followed above the dream, a row each
        rows = wrap([moment[-1] for moment in shown[:seen]], columns)
        for part in range(0, len(after), columns):
            rows += [list(lane) for lane in zip(*after[part : part + columns], strict=True)]
    else:
        rows = wrap([moment[0] for moment in [*shown[:seen], *after]], columns)
    thinned = f"  One step of {every} is shown." if every > 1 else ""
    return contact_sheet(rows, title=f"{title}{thinned}", tile_width=_SHEET_TILE, kinds=dream.kinds)


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
