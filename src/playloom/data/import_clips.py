"""Import of your own game: clips, or pictures with a table of actions, into a frame dataset."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema
from playloom.atomic_io import folder_lock
from playloom.data.dataset import INDEX, DatasetWriter, FrameDataset, Progress
from playloom.data.prompt_data import ACTIONS_FILE, pictures_in
from playloom.errors import ActionError, BadInputError, PlayloomError, RecordingError, did_you_mean
from playloom.media.action_table import read_actions
from playloom.media.clips import clips_below, read_clip, read_npz
from playloom.media.images import ResizeMode, fit_picture, read_picture

SPLITS = ("train", "validation", "test")
_CYCLE = 20
_KEPT = {9: "validation", 19: "test"}
"""Split rule: of twenty clips, sorted by name, the tenth is for validation and the twentieth for testing."""

Skip = Callable[[Path, PlayloomError], None]
Read = Callable[[Path], tuple[NDArray[np.uint8], NDArray[np.uint8]]]


class _Piece(NamedTuple):
    """Rows of a clip that go to one split."""

    path: Path
    first: int
    length: int
    split: str


def find_clips(folder: Path | str) -> list[Path]:
    """Return every clip in or below a folder, sorted: `.npz` files, and folders of pictures with an `actions.csv`."""
    place = Path(folder)
    if not place.is_dir():
        raise RecordingError(f"{folder} is not a folder; expected one with takes in it")
    clips = sorted([*clips_below(place), *(table.parent for table in place.rglob(ACTIONS_FILE))])
    if not clips:
        raise RecordingError(
            f"{folder} holds no take: give .npz clips (images, actions), or folders of pictures with an {ACTIONS_FILE}"
        )
    return clips


def load_clip(
    path: Path, frame_size: tuple[int, int], resize: ResizeMode = "crop", schema: Schema | Literal["auto"] = "named"
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read pictures, RGB [T, H, W, 3] of size (H, W) `frame_size`, and action values [T, 16], of a clip or a folder.

    Action t was taken after picture t. A folder's table may leave out the last picture's action, which is then rest.
    """
    if not path.is_dir():
        clip = read_clip(path)
        return _fitted(clip.frames_THWC, frame_size, resize), clip.actions_TA
    pictures = pictures_in(path)
    values_TA = read_actions(path / ACTIONS_FILE, schema).values_SA
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
    on_skip: Callable[[str], None] | None = None,
) -> FrameDataset:
    """Make a frame dataset of all clips of a folder; resumes an interrupted call.

    A call that fails leaves nothing behind. When `out` holds the finished dataset of these clips, it is opened.

    `folder` is searched recursively, see `find_clips`. Pictures of another size than `frame_size` (H, W) are resized.
    `split` is that of all clips; None: of every twenty clips the tenth is for validation and the twentieth for tests;
    of fewer than ten the last one is for validation; of a single one its last tenth. `progress` is called after each
    clip, `on_skip` with the path and the fault of each unusable one; None: the first one is an error.
    """
    if split is not None and split not in SPLITS:
        raise BadInputError(f"unknown split {split!r}; {did_you_mean(split, SPLITS)}")
    place, target = Path(folder), Path(out)
    clips = find_clips(place)
    skipped: list[str] = []

    def skip(path: Path, error: PlayloomError) -> None:
        if on_skip is None:
            raise error
        skipped.append(str(error) if str(path) in str(error) else f"{path}: {error}")
        on_skip(skipped[-1])

    def read(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
        return load_clip(path, frame_size, resize, schema)

    if (target / INDEX).exists():
        return _finished(place, clips, FrameDataset.open(target), frame_size, split, skip)
    lengths = _count_steps(clips, skip)
    if not lengths:
        raise RecordingError(f"no take of {place} can be used: {skipped[-1]}")
    pieces = _pieces(lengths, split)
    with folder_lock(out):
        height, width = frame_size
        total = sum(lengths.values())
        writer = FrameDataset.create(target, total, height=height, width=width, state_columns=())
        try:
            rows = _fill(writer, place, pieces, read, progress, skip)
            if not rows:
                raise RecordingError(f"no take of {place} can be used: {skipped[-1]}")
            writer.finish(rows)
        except Exception:  # Ctrl-C keeps what was done
            writer.discard()
            raise
    return FrameDataset.open(target)


def _finished(
    place: Path,
    clips: Sequence[Path],
    dataset: FrameDataset,
    frame_size: tuple[int, int],
    split: str | None,
    skip: Skip,
) -> FrameDataset:
    """Check that a finished dataset was made of these clips, and report those that it lacks."""
    stored = {str(span.meta.get("take")) for span in dataset.spans}
    splits = {str(span.meta.get("split")) for span in dataset.spans}
    names = {path.relative_to(place).as_posix(): path for path in clips}
    if not stored <= set(names) or dataset.frames_FHWC.shape[1:3] != frame_size or (split and splits != {split}):
        raise RecordingError(
            f"{dataset.folder} holds a finished dataset of other takes; choose another folder, or remove it first"
        )
    for name, path in names.items():
        if name not in stored:
            reason = f"{path} is not in the finished dataset {dataset.folder}; remove that to import the take"
            skip(path, RecordingError(reason))
    return dataset


def _fill(
    writer: DatasetWriter,
    place: Path,
    pieces: Sequence[_Piece],
    read: Read,
    progress: Progress | None,
    skip: Skip,
) -> int:
    """Write the pieces one after another without the unusable ones; return the number of rows."""
    start, loaded = 0, None
    for piece in pieces:
        take = piece.path.relative_to(place).as_posix()
        meta = {"game": "other", "take": take, "first": piece.first, "split": piece.split}
        if not writer.has(start, piece.length, meta):
            try:
                if loaded is None or loaded[0] != piece.path:
                    loaded = (piece.path, *read(piece.path))
            except PlayloomError as error:
                skip(piece.path, error)
                continue
            _, frames_THWC, actions_TA = loaded
            rows = slice(piece.first, piece.first + piece.length)
            states_TS = np.zeros((piece.length, 0), np.float32)
            writer.append_episode(frames_THWC[rows], actions_TA[rows], states_TS, meta, start=start)
        start += piece.length
        if progress is not None:
            progress(start, writer.total)
    return start


def _pieces(lengths: Mapping[Path, int], split: str | None) -> list[_Piece]:
    splits = [split or _KEPT.get(number % _CYCLE, "train") for number in range(len(lengths))]
    if split is None and len(lengths) == 1:
        ((path, length),) = lengths.items()
        kept = max(1, length // 10)
        if length < 2:
            raise RecordingError(f"{path} has {length} pictures; a take to learn from needs two or more")
        return [_Piece(path, 0, length - kept, "train"), _Piece(path, length - kept, kept, "validation")]
    if split is None and "validation" not in splits:
        splits[-1] = "validation"
    return [_Piece(path, 0, length, to) for (path, length), to in zip(lengths.items(), splits, strict=True)]


def _count_steps(clips: Sequence[Path], skip: Skip) -> dict[Path, int]:
    lengths = {}
    for path in clips:
        try:
            lengths[path] = len(pictures_in(path) if path.is_dir() else read_npz(path, ("actions",))["actions"])
        except PlayloomError as error:
            skip(path, error)
    return lengths


def _fitted(
    frames: Sequence[NDArray[np.uint8]] | NDArray[np.uint8], size: tuple[int, int], resize: ResizeMode
) -> NDArray[np.uint8]:
    return np.stack([fit_picture(frame_HWC, size, resize)[0] for frame_HWC in frames])
