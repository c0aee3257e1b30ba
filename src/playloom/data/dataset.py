"""Datasets on disk as memory maps: frames (`FrameDataset`) or codes (`TokenDataset`), with actions and states.

A folder holds one `.npy` per column, all with the same number of rows F (one row per step, episodes back to back), and
`index.json`, which is written last: a folder without it is unfinished. The writer works under temporary names and
resumes from a journal. F rows, H W picture, N image slots, A action slots, S state columns.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS
from playloom.atomic_io import folder_lock
from playloom.errors import RecordingError, StorageError
from playloom.json_io import plain, read_json, write_json

INDEX = "index.json"
"""Written last: a folder without it is unfinished."""
JOURNAL = "part-index.json"
"""Index of an unfinished folder."""
OUTCOMES = ("reward", "terminated", "truncated")
"""State columns of the step that begins in a row; the others are measured when its frame is seen."""
Progress = Callable[[int, int], None]
"""Progress callback: frames done, frames in all."""


@dataclass(frozen=True, kw_only=True)
class EpisodeSlice:
    """Rows of one episode in a dataset."""

    start: int
    length: int
    """Number of rows (steps of 0.1 s)."""
    meta: Mapping[str, Any]
    """Metadata of the recording (game, style, seed, split ...)."""

    @property
    def rows(self) -> slice:
        """The rows as a slice."""
        return slice(self.start, self.start + self.length)


def split_of(number: int) -> str:
    """Return the split by the number of a session: of twenty the tenth is for validation, the twentieth for testing."""
    return {9: "validation", 19: "test"}.get(number % 20, "train")


class DatasetWriter:
    """Write a dataset episode by episode, under temporary names until `finish`.

    Committed episodes survive a crash. Not safe for two writers on one folder. `kind` names the main column, `row` is
    the type of its rows, with their shape; `extra` has more entries of the index.
    """

    def __init__(
        self, folder: Path, kind: str, total: int, row: np.dtype[Any], state_columns: Sequence[str], **extra: Any
    ) -> None:
        if total < 1:
            raise RecordingError(f"{folder} would be empty: got {total} frames, expected at least 1")
        self.folder, self.kind, self.total = folder, kind, total
        self._columns = {
            kind: row,
            "actions": np.dtype((np.uint8, (ACTION_SLOTS,))),
            "states": np.dtype((np.float32, (len(state_columns),))),
        }
        self._head = {"kind": kind, "rows": total, "state_columns": list(state_columns), **extra}
        folder.mkdir(parents=True, exist_ok=True)
        self._spans = self._resume()
        need, free = total * sum(dtype.itemsize for dtype in self._columns.values()), shutil.disk_usage(folder).free
        if not self._spans and need > free:
            hint = "make room, or tokenise the recordings without a frame dataset"
            raise RecordingError(f"{folder} needs {need / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB free; {hint}")
        self._offsets = {name: self._resize(name, "rb+" if self._spans else "wb") for name in self._columns}

    @property
    def spans(self) -> tuple[EpisodeSlice, ...]:
        """Committed episodes, in order of their rows."""
        return tuple(self._spans[start] for start in sorted(self._spans))

    @property
    def done(self) -> int:
        """Number of committed rows."""
        return sum(span.length for span in self._spans.values())

    def has(self, start: int, length: int, meta: Mapping[str, Any]) -> bool:
        """Return True if these rows are committed for this very episode."""
        return self._spans.get(start) == EpisodeSlice(start=start, length=length, meta=plain(meta))

    def append_episode(
        self,
        data: NDArray[Any] | Iterator[NDArray[Any]],
        actions_TA: NDArray[np.uint8],
        states_TS: NDArray[np.float32],
        meta: Mapping[str, Any],
        *,
        start: int | None = None,
    ) -> None:
        """Write and commit one episode: frames [T, H, W, 3] or codes [T, N], by kind of dataset.

        An iterator of T rows is written row by row, without holding them. The episode goes to row `start` on, where
        committed rows are replaced; by default after the last committed row. RecordingError for other shapes or types.
        """
        if start is None:
            start = self.spans[-1].rows.stop if self._spans else 0
        stop = start + len(actions_TA)
        for name, rows in ((self.kind, data), ("actions", actions_TA), ("states", states_TS)):
            self._write(name, start, zip(rows, range(start, stop), strict=True))
        self._spans = {k: span for k, span in self._spans.items() if span.rows.stop <= start or k >= stop}
        self._spans[start] = EpisodeSlice(start=start, length=stop - start, meta=plain(meta))
        write_json(self.folder / JOURNAL, self._index())

    def finish(self, rows: int | None = None) -> None:
        """Give the files their final names, `index.json` last; `rows` drops all rows after that many."""
        if rows is not None and rows != self.total:
            self.total = self._head["rows"] = rows
            self._spans = {start: span for start, span in self._spans.items() if start < rows}
            for name in self._columns:
                self._resize(name, "rb+")
        if self.done != self.total:
            raise RecordingError(f"{self.folder} is unfinished: it has {self.done} of {self.total} frames")
        for name in self._columns:
            self._part(name).replace(self.folder / f"{name}.npy")
        write_json(self.folder / INDEX, self._index())
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the unfinished files, and the folder if nothing else is in it."""
        for path in (*map(self._part, self._columns), self.folder / JOURNAL):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _write(self, column: str, start: int, rows: Iterator[tuple[NDArray[Any], int]]) -> None:
        """Write into the file: pages of a map would count as memory of this process."""
        dtype = self._columns[column]
        with self._part(column).open("rb+", buffering=0) as file:
            file.seek(self._offsets[column] + start * dtype.itemsize)
            for row, _ in rows:
                if row.shape != dtype.shape or not np.can_cast(row.dtype, dtype.base, "same_kind"):
                    raise RecordingError(
                        f"{column} do not fit {self.folder}: got rows of {row.dtype} and shape {row.shape}, expected "
                        f"{dtype.base} and {dtype.shape}; convert them first"
                    )
                data = np.ascontiguousarray(row, dtype.base).data
                try:
                    if file.write(data) < dtype.itemsize:
                        raise OSError(errno.ENOSPC, "no space left")
                except OSError as error:
                    hint = "make room, then the same command continues"
                    raise StorageError(f"cannot write {self.folder}: {error.strerror}; {hint}") from error
            os.fsync(file.fileno())  # before the journal names these rows

    def _part(self, column: str) -> Path:
        return self.folder / f"part-{column}.npy"

    def _resize(self, column: str, mode: str) -> int:
        """Give a file its length, and a header, which has room for any number of rows; return where its rows begin."""
        dtype = self._columns[column]
        header = {"descr": np.lib.format.dtype_to_descr(dtype.base), "fortran_order": False}
        with self._part(column).open(mode) as file:
            np.lib.format.write_array_header_1_0(file, {**header, "shape": (self.total, *dtype.shape)})
            offset = file.tell()
            file.truncate(offset + self.total * dtype.itemsize)
        return offset

    def _index(self) -> dict[str, Any]:
        return {**self._head, "episodes": [dataclasses.asdict(span) for span in self.spans]}

    def _resume(self) -> dict[int, EpisodeSlice]:
        """Committed episodes of an interrupted writer of the same dataset; a finished one is replaced."""
        (self.folder / INDEX).unlink(missing_ok=True)
        if not all(path.exists() for path in (self.folder / JOURNAL, *map(self._part, self._columns))):
            return {}
        index = read_json(self.folder / JOURNAL, RecordingError, f"remove {self.folder} and start again")
        same = {key: index.get(key) for key in self._head} == self._head
        return {one["start"]: EpisodeSlice(**one) for one in index["episodes"]} if same else {}


@dataclass(frozen=True, kw_only=True)
class _Dataset:
    folder: Path
    actions_FA: NDArray[np.uint8]
    """uint8 action values [F, 16] in slot order; row t acts on frame t+1."""
    states_FS: NDArray[np.float32]
    """float32 [F, S]; row t is measured when frame t is seen."""
    state_columns: tuple[str, ...]
    """Names of the S state columns."""
    spans: tuple[EpisodeSlice, ...]
    """The episodes, in order of their rows."""

    def __len__(self) -> int:
        return len(self.actions_FA)

    def of_split(self, *splits: str) -> tuple[EpisodeSlice, ...]:
        """Return the episodes of these splits ("train", "validation", "test", "heldout")."""
        return tuple(span for span in self.spans if span.meta.get("split") in splits)

    def column(self, name: str) -> NDArray[np.float32]:
        """Return one column of the states, float32 [F]; RecordingError when the dataset has no such column."""
        if name not in self.state_columns:
            raise RecordingError(f"{self.folder} has no state column {name!r}; it has {self.state_columns}")
        return self.states_FS[:, self.state_columns.index(name)]


@dataclass(frozen=True, kw_only=True)
class FrameDataset(_Dataset):
    """Raw pictures with actions and states."""

    frames_FHWC: NDArray[np.uint8]
    """uint8 RGB [F, H, W, 3] in [0, 255], a read-only memory map."""

    @classmethod
    def open(cls, folder: Path | str) -> FrameDataset:
        """Open a finished dataset; RecordingError when the folder is missing, unfinished or damaged."""
        _, frames, common = _read(Path(folder), "frames")
        return cls(frames_FHWC=frames, **common)

    @classmethod
    def create(
        cls, folder: Path | str, total_frames: int, *, height: int, width: int, state_columns: Sequence[str]
    ) -> DatasetWriter:
        """Return a writer for `total_frames` rows; it resumes an interrupted one."""
        row = np.dtype((np.uint8, (height, width, 3)))
        return DatasetWriter(Path(folder), "frames", total_frames, row, state_columns)


@dataclass(frozen=True, kw_only=True)
class TokenDataset(_Dataset):
    """Codes of every frame with actions and states."""

    tokens_FN: NDArray[np.uint16]
    """uint16 codes [F, N] in raster order, a read-only memory map."""
    tokenizer: str
    """Fingerprint of the tokenizer that made the codes."""

    @classmethod
    def open(cls, folder: Path | str) -> TokenDataset:
        """Open a finished dataset; RecordingError when the folder is missing, unfinished or damaged."""
        _, tokens, common = _read(Path(folder), "tokens")
        return cls(tokens_FN=tokens, **common)

    @classmethod
    def create(
        cls, folder: Path | str, total_frames: int, *, slots: int, tokenizer: str, state_columns: Sequence[str]
    ) -> DatasetWriter:
        """Return a writer for `total_frames` rows of `slots` codes; it resumes an interrupted one."""
        row = np.dtype((np.uint16, (slots,)))
        return DatasetWriter(Path(folder), "tokens", total_frames, row, state_columns, tokenizer=tokenizer)


def stored_episodes(folder: Path) -> list[Mapping[str, Any]]:
    """Return the metadata of the episodes that a finished or unfinished dataset in a folder has."""
    found = [path for path in (folder / INDEX, folder / JOURNAL) if path.exists()]
    indices = [read_json(path, RecordingError, f"remove {folder} and start again") for path in found]
    return [episode["meta"] for index in indices for episode in index["episodes"]]


def join_datasets(folder: Path, out: Path) -> FrameDataset | TokenDataset:
    """Join the parts of one import, each in a folder of its own, into one dataset; RecordingError if they differ."""
    places = {path.parent for name in (INDEX, JOURNAL) for path in folder.glob(f"*/{name}")}
    parts, clips, forms = [_read(place) for place in sorted(places)], dict[tuple[Path, int], Any](), []
    for index, data, common in parts:
        columns = data, common["actions_FA"], common["states_FS"]
        clips |= {(Path(one.meta.get("take", "")), one.meta.get("first", 0)): (one, columns) for one in common["spans"]}
        head = {key: value for key, value in index.items() if key not in ("rows", "episodes")}
        settings = {span.meta.get("settings") for span in common["spans"]}
        forms.append((head, np.dtype((data.dtype, data.shape[1:])), settings))
    total, start = sum(span.length for span, _ in clips.values()), 0
    if not parts or forms.count(forms[0]) < len(forms) or total < sum(index["rows"] for index, _, _ in parts):
        raise RecordingError(f"{folder} does not hold each part of one import once; expected a folder for each")
    ordered = [clips[clip] for clip in sorted(clips)]
    with folder_lock(out):
        if not (out / INDEX).exists():
            writer = DatasetWriter(out, total=total, row=forms[0][1], **forms[0][0])
            for span, columns in ordered:
                data, actions_TA, states_TS = (column[span.rows] for column in columns)
                writer.append_episode(data, actions_TA, states_TS, span.meta, start=start)
                start += span.length
            writer.finish()
        elif [(one.length, one.meta) for one in _read(out)[2]["spans"]] != [(s.length, s.meta) for s, _ in ordered]:
            raise RecordingError(f"{out} holds another dataset; choose another folder, or remove it first")
    return FrameDataset.open(out) if forms[0][0]["kind"] == "frames" else TokenDataset.open(out)


def _read(folder: Path, kind: str | None = None) -> tuple[dict[str, Any], NDArray[Any], dict[str, Any]]:
    if not (folder / INDEX).exists():
        state = "unfinished" if (folder / JOURNAL).exists() else "not a dataset"
        raise RecordingError(f"{folder} is {state} (no {INDEX}); prepare it first")
    index = read_json(folder / INDEX, RecordingError, "prepare the dataset again")
    kind = kind or str(index.get("kind"))
    if index.get("kind") != kind:
        raise RecordingError(f"{folder} is a dataset of another kind: got {index.get('kind')}, expected {kind}")
    columns = {}
    for name in (kind, "actions", "states"):
        path = folder / f"{name}.npy"
        try:
            columns[name] = np.load(path, mmap_mode="r", allow_pickle=False)
        except Exception as error:  # NumPy reads the head of a file as Python
            raise RecordingError(f"{path} cannot be read ({error}); prepare the dataset again") from error
    common: dict[str, Any] = {"folder": folder, "actions_FA": columns["actions"], "states_FS": columns["states"]}
    try:
        rows, common["state_columns"] = index["rows"], tuple(index["state_columns"])
        common["spans"] = tuple(EpisodeSlice(**one) for one in index["episodes"])
        common |= {"tokenizer": str(index["tokenizer"])} if kind == "tokens" else {}
    except (KeyError, TypeError) as error:
        raise RecordingError(f"{folder / INDEX} is damaged ({error!r}); prepare the dataset again") from error
    for name, column in columns.items():
        if len(column) != rows:
            raise RecordingError(f"{folder / name}.npy has {len(column)} rows; {INDEX} says {rows}")
    return index, columns[kind], common
