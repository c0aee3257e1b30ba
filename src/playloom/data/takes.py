"""Recordings of any game, as people have them, to a frame store: clips, or pictures with a table of actions.

Owns what a take is and which split it goes to. Knows no game: pictures come from files.

    store = build_from_takes("play", "data/mine", frame_size=(180, 300))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions import REST_VALUES, Schema
from playloom.data.prompt_pictures import ACTIONS_FILE, pictures_in
from playloom.data.store_writer import INDEX
from playloom.data.stores import FrameStore
from playloom.errors import ActionError, BadInputError, RecordingError, nearest
from playloom.files import claimed
from playloom.media.clips import clips_below, read_clip
from playloom.media.npz import read_npz
from playloom.media.pictures import Fit, fit_picture, read_picture
from playloom.media.tables import read_actions

SPLITS = ("train", "validation", "test")
_CYCLE = 20
_KEPT = {9: "validation", 19: "test"}
"""Of every twenty takes, by name, the tenth is kept for validation and the twentieth for measuring."""

Progress = Callable[[int, int], None]
"""Told frames done and frames in all, after each take."""


class _Piece(NamedTuple):
    """A stretch of a take that goes to one split."""

    path: Path
    first: int
    length: int
    split: str


def find_takes(folder: Path | str) -> list[Path]:
    """Every take in or below a folder, sorted: `.npz` clips, and folders of pictures with an `actions.csv`.

    Raises:
        RecordingError: when the folder is missing or holds none.
    """
    place = Path(folder)
    if not place.is_dir():
        raise RecordingError(f"{folder} is not a folder; expected one with takes in it")
    takes = sorted([*clips_below(place), *(table.parent for table in place.rglob(ACTIONS_FILE))])
    if not takes:
        raise RecordingError(
            f"{folder} holds no take: give .npz clips (images, actions), or folders of pictures with an {ACTIONS_FILE}"
        )
    return takes


def read_take(
    path: Path, frame_size: tuple[int, int], fit: Fit = "crop", schema: Schema | Literal["auto"] = "named"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The pictures, RGB [T, H, W, 3], and action values [T, 16] of a take; action t was taken on seeing picture t.

    Args:
        path: a clip, or a folder of pictures. Its table may leave out the last picture's action, which is then rest.
        frame_size: (H, W) wanted; other sizes are fitted.
        fit: how, see `playloom.media.pictures.Fit`.
        schema: of the table.

    Raises:
        RecordingError, PictureError, ActionError: when it is missing or damaged, or pictures and actions do not fit.
    """
    if not path.is_dir():
        clip = read_clip(path)
        return _fitted(clip.frames_THWC, frame_size, fit), clip.actions_TA
    pictures = pictures_in(path)
    values_TA = read_actions(path / ACTIONS_FILE, schema).values_TA
    if len(values_TA) == len(pictures) - 1:
        values_TA = np.concatenate([values_TA, REST_VALUES[None]])
    if len(values_TA) != len(pictures):
        raise ActionError(
            f"{path / ACTIONS_FILE} has {len(values_TA)} rows for {len(pictures)} pictures; expected a row a picture"
        )
    return _fitted([read_picture(picture).frame_HWC for picture in pictures], frame_size, fit), values_TA


def build_from_takes(
    folder: Path | str,
    out: Path | str,
    *,
    frame_size: tuple[int, int],
    fit: Fit = "crop",
    schema: Schema | Literal["auto"] = "named",
    split: str | None = None,
    progress: Progress | None = None,
) -> FrameStore:
    """Make a frame store of all takes of a folder; an interrupted call goes on where it stopped.

    Args:
        folder: searched recursively, see `find_takes`.
        out: where the store will lie.
        frame_size: (H, W) of the model that is to learn from it.
        fit: how pictures of another shape are fitted.
        schema: of the tables beside pictures.
        split: all takes go to this one; None: of every twenty takes the tenth is for validation and the twentieth for
            tests. Fewer than ten: the last one is for validation; a single one: its last tenth.
        progress: told after each take.

    Raises:
        BadInputError: when the split is unknown.
        RecordingError, PictureError, ActionError: when a take cannot be used, which is named; or `out` is taken.
    """
    if split is not None and split not in SPLITS:
        raise BadInputError(f"unknown split {split!r}; {nearest(split, SPLITS)}")
    if (Path(out) / INDEX).exists():
        raise RecordingError(f"{out} holds a finished data set; choose another folder, or remove it first")
    place = Path(folder)
    pieces = _pieces(find_takes(place), split)
    with claimed(out):
        return _fill(place, pieces, Path(out), frame_size, fit, schema, progress)


def _fill(
    place: Path,
    pieces: Sequence[_Piece],
    out: Path,
    frame_size: tuple[int, int],
    fit: Fit,
    schema: Schema | Literal["auto"],
    progress: Progress | None,
) -> FrameStore:
    height, width = frame_size
    total = sum(piece.length for piece in pieces)
    writer = FrameStore.create(out, total, height=height, width=width, state_columns=())
    start, loaded = 0, None
    for piece in pieces:
        meta = {
            "game": "other",
            "take": piece.path.relative_to(place).as_posix(),
            "first": piece.first,
            "split": piece.split,
        }
        if not writer.has(start, piece.length, meta):
            if loaded is None or loaded[0] != piece.path:
                loaded = (piece.path, *read_take(piece.path, frame_size, fit, schema))
            rows = slice(piece.first, piece.first + piece.length)
            frames_THWC, actions_TA = loaded[1][rows], loaded[2][rows]
            writer.write(start, frames_THWC, "frames")
            writer.record(start, actions_TA, np.zeros((len(actions_TA), 0), np.float32), meta, length=piece.length)
        start += piece.length
        if progress is not None:
            progress(writer.done, total)
    writer.finish()
    return FrameStore.open(out)


def _pieces(takes: Sequence[Path], split: str | None) -> list[_Piece]:
    lengths = [_steps(path) for path in takes]
    splits = [split or _KEPT.get(number % _CYCLE, "train") for number in range(len(takes))]
    if split is None and len(takes) == 1:
        kept = max(1, lengths[0] // 10)
        if lengths[0] < 2:
            raise RecordingError(f"{takes[0]} has {lengths[0]} pictures; a take to learn from needs two or more")
        first = lengths[0] - kept
        return [_Piece(takes[0], 0, first, "train"), _Piece(takes[0], first, kept, "validation")]
    if split is None and "validation" not in splits:
        splits[-1] = "validation"
    return [_Piece(path, 0, length, to) for path, length, to in zip(takes, lengths, splits, strict=True)]


def _steps(path: Path) -> int:
    return len(pictures_in(path)) if path.is_dir() else len(read_npz(path, ("actions",))["actions"])


def _fitted(
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], size: tuple[int, int], fit: Fit
) -> NDArray[np.uint8]:
    return np.stack([fit_picture(frame_HWC, size, fit)[0] for frame_HWC in frames])
