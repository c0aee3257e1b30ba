"""Import of your own game: clips, or pictures with a table of actions, into a frame dataset.

dataset = build_from_clips("play", "data/mine", frame_size=(180, 300))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema
from playloom.atomic_io import folder_lock
from playloom.data.dataset import INDEX, DatasetWriter, FrameDataset
from playloom.data.prompt_pictures import ACTIONS_FILE, pictures_in
from playloom.errors import ActionError, BadInputError, PlayloomError, RecordingError, did_you_mean
from playloom.media.action_table import read_actions
from playloom.media.clips import clips_below, read_clip, read_npz
from playloom.media.images import ResizeMode, fit_picture, read_picture

SPLITS = ("train", "validation", "test")
_CYCLE = 20
_KEPT = {9: "validation", 19: "test"}
"""Of every twenty clips, by name, the tenth is kept for validation and the twentieth for testing."""

Progress = Callable[[int, int], None]
"""Progress callback after each clip: frames done, frames in all."""
OnSkip = Callable[[str], None]
"""Callback for a skipped clip: its path and the reason."""


class _Piece(NamedTuple):
    path: Path
    first: int
    length: int
    split: str


def find_clips(folder: Path | str) -> list[Path]:
    """Return every clip in or below a folder, sorted: `.npz` files, and folders of pictures with an `actions.csv`.

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


def load_clip(
    path: Path, frame_size: tuple[int, int], resize: ResizeMode = "crop", schema: Schema | Literal["auto"] = "named"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read pictures, RGB [T, H, W, 3], and action values [T, 16]; action t was taken after picture t.

    Args:
        path: a clip, or a folder of pictures. Its table may leave out the last picture's action, which is then rest.
        frame_size: (H, W) wanted; other sizes are fitted.
        resize: see `playloom.media.images.ResizeMode`.
        schema: of the table.

    Raises:
        RecordingError, PictureError, ActionError: when it is missing or damaged, or pictures and actions do not fit.
    """
    if not path.is_dir():
        clip = read_clip(path)
        return _fitted(clip.frames_THWC, frame_size, resize), clip.actions_TA
    pictures = pictures_in(path)
    values_TA = read_actions(path / ACTIONS_FILE, schema).values_TA
    if len(values_TA) == len(pictures) - 1:
        values_TA = np.concatenate([values_TA, REST_VALUES[None]])
    if len(values_TA) != len(pictures):
        raise ActionError(
            f"{path / ACTIONS_FILE} has {len(values_TA)} rows for {len(pictures)} pictures; expected a row a picture"
        )
    return _fitted([read_picture(picture).frame_HWC for picture in pictures], frame_size, resize), values_TA


def build_from_clips(
    folder: Path | str,
    out: Path | str,
    *,
    frame_size: tuple[int, int],
    resize: ResizeMode = "crop",
    schema: Schema | Literal["auto"] = "named",
    split: str | None = None,
    progress: Progress | None = None,
    on_skip: OnSkip | None = None,
) -> FrameDataset:
    """Make a frame dataset of all clips of a folder; resumes an interrupted call.

    A call that fails leaves nothing behind. When `out` holds the finished data set of these takes, it is opened.

    Args:
        folder: searched recursively, see `find_clips`.
        out: where the store will lie.
        frame_size: (H, W) of the model that is to learn from it.
        resize: how pictures of another shape are fitted.
        schema: of the tables beside pictures.
        split: all takes go to this one; None: of every twenty takes the tenth is for validation and the twentieth for
            tests. Fewer than ten: the last one is for validation; a single one: its last tenth.
        progress: told after each take.
        on_skip: told of each take that cannot be used; None: the first one is an error.

    Raises:
        BadInputError: when the split is unknown.
        RecordingError, PictureError, ActionError: when a take cannot be used and `on_skip` is None; or no take can be
            used; or `out` holds another data set.
    """
    if split is not None and split not in SPLITS:
        raise BadInputError(f"unknown split {split!r}; {did_you_mean(split, SPLITS)}")
    place, target = Path(folder), Path(out)
    takes = find_clips(place)
    if (target / INDEX).exists():
        return _finished(place, takes, target, frame_size, split, on_skip)
    lengths = _lengths(takes, on_skip)
    pieces = _pieces(lengths, split)
    with folder_lock(out):
        height, width = frame_size
        total = sum(piece.length for piece in pieces)
        writer = FrameDataset.create(target, total, height=height, width=width, state_columns=())
        try:
            return _fill(
                writer, place, pieces, lambda path: load_clip(path, frame_size, resize, schema), progress, on_skip
            )
        except Exception:  # Ctrl-C keeps what was done
            writer.discard()
            raise


def _finished(
    place: Path,
    takes: Sequence[Path],
    out: Path,
    frame_size: tuple[int, int],
    split: str | None,
    on_skip: OnSkip | None,
) -> FrameDataset:
    store = FrameDataset.open(out)
    there = {str(span.meta.get("take")) for span in store.spans}
    names = [path.relative_to(place).as_posix() for path in takes]
    splits = {str(span.meta.get("split")) for span in store.spans}
    if not there <= set(names) or store.frames_FHWC.shape[1:3] != frame_size or (split and splits != {split}):
        raise RecordingError(
            f"{out} holds a finished data set of other takes; choose another folder, or remove it first"
        )
    missing = [name for name in names if name not in there]
    if missing and on_skip is None:
        raise RecordingError(f"{out} holds a finished data set without {missing[0]}; choose another folder")
    for name in missing:
        assert on_skip is not None
        on_skip(f"{place / name}: not in the finished data set {out}; remove that to import the take")
    return store


def _fill(
    writer: DatasetWriter,
    place: Path,
    pieces: Sequence[_Piece],
    read: Callable[[Path], tuple[NDArray[np.uint8], NDArray[np.uint8]]],
    progress: Progress | None,
    on_skip: OnSkip | None,
) -> FrameDataset:
    start, loaded, total = 0, None, writer.total
    skipped = ""
    for piece in pieces:
        meta = {
            "game": "other",
            "take": piece.path.relative_to(place).as_posix(),
            "first": piece.first,
            "split": piece.split,
        }
        if not writer.has(start, piece.length, meta):
            try:
                if loaded is None or loaded[0] != piece.path:
                    loaded = (piece.path, *read(piece.path))
            except PlayloomError as error:
                skipped = _skip(piece.path, error, on_skip)
                continue
            rows = slice(piece.first, piece.first + piece.length)
            frames_THWC, actions_TA = loaded[1][rows], loaded[2][rows]
            writer.write(start, frames_THWC, "frames")
            writer.record(start, actions_TA, np.zeros((len(actions_TA), 0), np.float32), meta, length=piece.length)
        start += piece.length
        if progress is not None:
            progress(start, total)
    if not start:
        raise RecordingError(f"no take of {place} can be used: {skipped}")
    writer.finish(start)
    return FrameDataset.open(writer.folder)


def _lengths(takes: Sequence[Path], on_skip: OnSkip | None) -> dict[Path, int]:
    lengths, skipped = {}, ""
    for path in takes:
        try:
            lengths[path] = _steps(path)
        except PlayloomError as error:
            skipped = _skip(path, error, on_skip)
    if not lengths:
        raise RecordingError(f"no take can be used: {skipped}")
    return lengths


def _skip(path: Path, error: PlayloomError, on_skip: OnSkip | None) -> str:
    if on_skip is None:
        raise error
    words = str(error) if str(path) in str(error) else f"{path}: {error}"
    on_skip(words)
    return words


def _pieces(lengths: Mapping[Path, int], split: str | None) -> list[_Piece]:
    splits = [split or _KEPT.get(number % _CYCLE, "train") for number in range(len(lengths))]
    if split is None and len(lengths) == 1:
        ((take, length),) = lengths.items()
        kept = max(1, length // 10)
        if length < 2:
            raise RecordingError(f"{take} has {length} pictures; a take to learn from needs two or more")
        return [_Piece(take, 0, length - kept, "train"), _Piece(take, length - kept, kept, "validation")]
    if split is None and "validation" not in splits:
        splits[-1] = "validation"
    return [_Piece(path, 0, length, to) for (path, length), to in zip(lengths.items(), splits, strict=True)]


def _steps(path: Path) -> int:
    return len(pictures_in(path)) if path.is_dir() else len(read_npz(path, ("actions",))["actions"])


def _fitted(
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], size: tuple[int, int], resize: ResizeMode
) -> NDArray[np.uint8]:
    return np.stack([fit_picture(frame_HWC, size, resize)[0] for frame_HWC in frames])
