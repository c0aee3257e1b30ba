"""Datasets on disk as memory maps: frames (`FrameDataset`) or codes (`TokenDataset`), with actions and states.

A folder holds one `.npy` per column, all with the same number of rows F (one row per step, episodes back to back), and
`index.json`, which is written last: a folder without it is unfinished. The writer works under temporary names and
resumes from a journal. F rows, H W picture, N image slots, A action slots, S state columns.

    >>> dataset = FrameDataset.open(folder)
    >>> dataset.frames_FHWC[dataset.spans[0].rows]
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS
from playloom.errors import RecordingError
from playloom.json_io import read_json, write_json

INDEX = "index.json"
"""Written last: a folder without it is unfinished."""
JOURNAL = "part-index.json"
"""Index of an unfinished folder."""
_PART = "part-"


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


class DatasetWriter:
    """Write a dataset episode by episode, under temporary names until `finish`.

    What is already on disk after a crash counts: `done` says which rows. Not safe for two writers on one folder, but
    other processes may fill the rows of an announced episode through `open_part` before `record` books it.
    """

    def __init__(
        self,
        folder: Path,
        kind: str,
        total: int,
        columns: Mapping[str, tuple[tuple[int, ...], str]],
        state_columns: Sequence[str],
        extra: Mapping[str, Any],
    ) -> None:
        if total < 1:
            raise RecordingError(f"a data set needs at least one frame; {folder} was to have {total}")
        self.folder, self.kind, self.total = folder, kind, total
        self._columns: dict[str, tuple[tuple[int, ...], str]] = {
            **columns,
            "actions": ((ACTION_SLOTS,), "uint8"),
            "states": ((len(state_columns),), "float32"),
        }
        self._head = {"kind": kind, "rows": total, "state_columns": list(state_columns), **extra}
        folder.mkdir(parents=True, exist_ok=True)
        self._spans = self._resume()
        mode = "r+" if self._spans else "w+"
        if mode == "w+":
            self._check_space()
        self._maps = {name: self._open(name, mode) for name in self._columns}

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
        span = self._spans.get(start)
        return span is not None and span.length == length and dict(span.meta) == _plain(meta)

    def part(self, column: str) -> Path:
        """Return the unfinished file of a column, for a process that fills rows of it."""
        return self.folder / f"{_PART}{column}.npy"

    def append_episode(
        self,
        pixels_or_tokens: NDArray[Any],
        actions_TA: NDArray[np.uint8],
        states_TS: NDArray[np.float32],
        meta: Mapping[str, Any],
    ) -> EpisodeSlice:
        """Write one episode after the last committed row.

        Args:
            pixels_or_tokens: [T, H, W, 3] uint8 or [T, N] codes, by kind of store.
            actions_TA: uint8 [T, 16].
            states_TS: float32 [T, S].
            meta: JSON-able facts.

        Raises:
            RecordingError: when the lengths differ or the store is full.
        """
        last = self.spans[-1] if self._spans else None
        start = last.start + last.length if last else 0
        self.write(start, pixels_or_tokens, self.kind)
        return self.record(start, actions_TA, states_TS, meta, length=len(pixels_or_tokens))

    def write(self, start: int, rows: NDArray[Any], column: str) -> None:
        """Fill rows of a column without committing them."""
        target = self._maps[column]
        if start + len(rows) > self.total or rows.shape[1:] != target.shape[1:]:
            raise RecordingError(
                f"{self.folder}: rows {start} to {start + len(rows)} of shape {rows.shape[1:]} do not fit "
                f"{column} of shape {target.shape}"
            )
        target[start : start + len(rows)] = rows

    def record(
        self,
        start: int,
        actions_TA: NDArray[np.uint8],
        states_TS: NDArray[np.float32],
        meta: Mapping[str, Any],
        *,
        length: int,
    ) -> EpisodeSlice:
        """Write actions and states, and commit the episode whose pictures or codes are in place."""
        if len(actions_TA) != length or len(states_TS) != length:
            raise RecordingError(
                f"{self.folder}: {length} frames came with {len(actions_TA)} actions and {len(states_TS)} states"
            )
        self.write(start, actions_TA, "actions")
        self.write(start, states_TS, "states")
        span = EpisodeSlice(start=start, length=length, meta=_plain(meta))
        end = start + length
        self._spans = {k: s for k, s in self._spans.items() if s.start + s.length <= start or s.start >= end}
        self._spans[start] = span
        for column in self._maps.values():
            if isinstance(column, np.memmap):
                column.flush()
        write_json(self.folder / JOURNAL, self._index())
        return span

    def finish(self, rows: int | None = None) -> None:
        """Give the files their final names, `index.json` last. The dataset can be opened afterwards.

        Args:
            rows: cut the store to its first rows, where some episodes were left out; None: all are expected.

        Raises:
            RecordingError: when rows are missing.
        """
        if rows is not None and rows != self.total:
            self._cut(rows)
        if self.done != self.total:
            raise RecordingError(f"{self.folder} has {self.done} of {self.total} frames; it is not finished")
        self._maps.clear()
        for name in self._columns:
            self.part(name).replace(self.folder / f"{name}.npy")
        write_json(self.folder / INDEX, self._index())
        (self.folder / JOURNAL).unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the unfinished files, and the folder if nothing else is in it."""
        self._maps.clear()
        for path in (*map(self.part, self._columns), self.folder / JOURNAL):
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self.folder.rmdir()

    def _cut(self, rows: int) -> None:
        """Shorten every column in place: its header has room for any number of rows."""
        self._maps.clear()
        for name, (shape, dtype) in self._columns.items():
            with self.part(name).open("rb+") as file:
                header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False}
                np.lib.format.write_array_header_1_0(file, {**header, "shape": (rows, *shape)})
                file.truncate(file.tell() + rows * int(np.prod(shape)) * np.dtype(dtype).itemsize)
        self.total = self._head["rows"] = rows
        self._spans = {start: span for start, span in self._spans.items() if start < rows}

    def _index(self) -> dict[str, Any]:
        episodes = [{"start": s.start, "length": s.length, "meta": dict(s.meta)} for s in self.spans]
        return {**self._head, "episodes": episodes}

    def _resume(self) -> dict[int, EpisodeSlice]:
        """Committed episodes of an interrupted writer of the same dataset; a finished one is replaced."""
        (self.folder / INDEX).unlink(missing_ok=True)
        journal = self.folder / JOURNAL
        parts = all(self.part(name).exists() for name in self._columns)
        if not journal.exists() or not parts:
            return {}
        index = read_json(journal, RecordingError, f"remove {self.folder} and start again")
        if {key: index.get(key) for key in self._head} != self._head:
            return {}
        spans = [EpisodeSlice(start=e["start"], length=e["length"], meta=e["meta"]) for e in index["episodes"]]
        return {span.start: span for span in spans}

    def _open(self, name: str, mode: str) -> NDArray[Any]:
        shape, dtype = self._columns[name]
        if mode == "r+":
            return np.lib.format.open_memmap(self.part(name), mode="r+")
        return np.lib.format.open_memmap(self.part(name), mode="w+", dtype=np.dtype(dtype), shape=(self.total, *shape))

    def _check_space(self) -> None:
        """Check before writing: a sparse map on a full disk dies with SIGBUS."""
        widths = [int(np.prod(shape)) * np.dtype(dtype).itemsize for shape, dtype in self._columns.values()]
        need, free = self.total * sum(widths), shutil.disk_usage(self.folder).free
        if need > free:
            raise RecordingError(
                f"{self.folder} needs {need / 1e9:.1f} GB and the disk has {free / 1e9:.1f} GB free; "
                "make room, or tokenise from the recording without a frame store"
            )


def _plain(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Metadata after a JSON round trip, so that committed ones compare equal."""
    return dict(json.loads(json.dumps(dict(meta))))


class _Store:
    folder: Path
    spans: tuple[EpisodeSlice, ...]
    actions_FA: NDArray[np.uint8]
    states_FS: NDArray[np.float32]
    state_columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.actions_FA)

    def of_split(self, *splits: str) -> tuple[EpisodeSlice, ...]:
        """Return the episodes of these splits ("train", "validation", "test", "heldout")."""
        return tuple(span for span in self.spans if span.meta.get("split") in splits)

    def column(self, name: str) -> NDArray[np.float32]:
        """Return one column of the states, float32 [F].

        Raises:
            RecordingError: when the store has no such column.
        """
        if name not in self.state_columns:
            raise RecordingError(f"{self.folder} has no state column {name!r}; it has {self.state_columns}")
        return self.states_FS[:, self.state_columns.index(name)]


@dataclass(frozen=True, kw_only=True)
class FrameDataset(_Store):
    """Raw pictures with actions and states."""

    folder: Path
    frames_FHWC: NDArray[np.uint8]
    """uint8 RGB [F, H, W, 3] in [0, 255], a read-only memory map."""
    actions_FA: NDArray[np.uint8]
    """uint8 action values [F, 16] in slot order; row t acts on frame t+1."""
    states_FS: NDArray[np.float32]
    """float32 [F, S]; row t is measured when frame t is seen."""
    state_columns: tuple[str, ...]
    """Names of the S state columns."""
    spans: tuple[EpisodeSlice, ...]
    """The episodes, in order of their rows."""

    @classmethod
    def open(cls, folder: Path | str) -> FrameDataset:
        """Open a finished dataset.

        Raises:
            RecordingError: when the folder is missing, unfinished or damaged.
        """
        folder = Path(folder)
        index = _read_index(folder, "frames")
        return cls(folder=folder, frames_FHWC=_map(folder, "frames", index), **_common(folder, index))

    @classmethod
    def create(
        cls, folder: Path | str, total_frames: int, *, height: int, width: int, state_columns: Sequence[str]
    ) -> DatasetWriter:
        """Return a writer for `total_frames` rows; it resumes an interrupted one."""
        columns = {"frames": ((height, width, 3), "uint8")}
        return DatasetWriter(Path(folder), "frames", total_frames, columns, state_columns, {})


@dataclass(frozen=True, kw_only=True)
class TokenDataset(_Store):
    """Codes of every frame with actions and states."""

    folder: Path
    tokens_FN: NDArray[np.uint16]
    """uint16 codes [F, N] in raster order, a read-only memory map."""
    actions_FA: NDArray[np.uint8]
    """uint8 action values [F, 16] in slot order; row t acts on frame t+1."""
    states_FS: NDArray[np.float32]
    """float32 [F, S]; row t is measured when frame t is seen."""
    state_columns: tuple[str, ...]
    """Names of the S state columns."""
    spans: tuple[EpisodeSlice, ...]
    """The episodes, in order of their rows."""
    tokenizer: str
    """Fingerprint of the tokenizer that made the codes."""

    @classmethod
    def open(cls, folder: Path | str) -> TokenDataset:
        """Open a finished dataset.

        Raises:
            RecordingError: when the folder is missing, unfinished or damaged.
        """
        folder = Path(folder)
        index = _read_index(folder, "tokens")
        return cls(
            folder=folder,
            tokens_FN=_map(folder, "tokens", index),
            tokenizer=str(index["tokenizer"]),
            **_common(folder, index),
        )

    @classmethod
    def create(
        cls, folder: Path | str, total_frames: int, *, slots: int, tokenizer: str, state_columns: Sequence[str]
    ) -> DatasetWriter:
        """Return a writer for `total_frames` rows of `slots` codes; it resumes an interrupted one."""
        columns = {"tokens": ((slots,), "uint16")}
        extra = {"tokenizer": tokenizer}
        return DatasetWriter(Path(folder), "tokens", total_frames, columns, state_columns, extra)


def _common(folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    spans = tuple(EpisodeSlice(start=e["start"], length=e["length"], meta=e["meta"]) for e in index["episodes"])
    return {
        "actions_FA": _map(folder, "actions", index),
        "states_FS": _map(folder, "states", index),
        "state_columns": tuple(index["state_columns"]),
        "spans": spans,
    }


def _read_index(folder: Path, kind: str) -> dict[str, Any]:
    path = folder / INDEX
    if not path.exists():
        what = "is unfinished" if (folder / JOURNAL).exists() else "is not a data set"
        raise RecordingError(f"{folder} {what} (no {INDEX}); prepare it first")
    index = read_json(path, RecordingError, "prepare the data set again")
    if index.get("kind") != kind:
        raise RecordingError(f"{folder} is a store of {index.get('kind')}; a store of {kind} was expected")
    return index


def _map(folder: Path, name: str, index: Mapping[str, Any]) -> NDArray[Any]:
    path = folder / f"{name}.npy"
    try:
        column: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise RecordingError(f"{path} cannot be read ({error}); prepare the data set again") from error
    if len(column) != index["rows"]:
        raise RecordingError(f"{path} has {len(column)} rows; {INDEX} says {index['rows']}")
    return column
