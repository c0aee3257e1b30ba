"""Data sets on disk as memory maps: raw frames (`FrameStore`) or codes (`TokenStore`), with actions and states.

Owns the folder layout; `store_writer.py` fills it. Knows no game, no tokenizer and no model.

A folder holds one `.npy` per column, all with the same number of rows F (one row a step, episodes back to back), and
`index.json`, which is written last: a folder without it is unfinished. F rows, H W picture, N image slots, A action
slots, S state columns.

    >>> store = FrameStore.open(folder)
    >>> store.frames_FHWC[store.spans[0].rows]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.store_writer import INDEX, JOURNAL, Span, StoreWriter
from playloom.errors import RecordingError

__all__ = ["FrameStore", "Span", "StoreWriter", "TokenStore"]


class _Store:
    """What both stores share: spans by split, and the number of rows."""

    folder: Path
    spans: tuple[Span, ...]
    actions_FA: NDArray[np.uint8]
    states_FS: NDArray[np.float32]
    state_columns: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.actions_FA)

    def of_split(self, *splits: str) -> tuple[Span, ...]:
        """The episodes whose meta names one of these splits ("train", "validation", "test", "heldout")."""
        return tuple(span for span in self.spans if span.meta.get("split") in splits)

    def column(self, name: str) -> NDArray[np.float32]:
        """One column of the states, float32 [F].

        Raises:
            RecordingError: when the store has no such column.
        """
        if name not in self.state_columns:
            raise RecordingError(f"{self.folder} has no state column {name!r}; it has {self.state_columns}")
        return self.states_FS[:, self.state_columns.index(name)]


@dataclass(frozen=True, kw_only=True)
class FrameStore(_Store):
    """Raw pictures with actions and states."""

    folder: Path
    """Where it lies."""
    frames_FHWC: NDArray[np.uint8]
    """uint8 RGB [F, H, W, 3] in [0, 255], a read-only memory map."""
    actions_FA: NDArray[np.uint8]
    """uint8 action values [F, 16] in slot order; row t acts on frame t+1."""
    states_FS: NDArray[np.float32]
    """float32 [F, S]; row t is measured when frame t is seen."""
    state_columns: tuple[str, ...]
    """Names of the S state columns."""
    spans: tuple[Span, ...]
    """The episodes, in order of their rows."""

    @classmethod
    def open(cls, folder: Path | str) -> FrameStore:
        """Open a finished store.

        Raises:
            RecordingError: when the folder is missing, unfinished or damaged.
        """
        folder = Path(folder)
        index = _read_index(folder, "frames")
        return cls(folder=folder, frames_FHWC=_map(folder, "frames", index), **_common(folder, index))

    @classmethod
    def create(
        cls, folder: Path | str, total_frames: int, *, height: int, width: int, state_columns: Sequence[str]
    ) -> StoreWriter:
        """A writer for `total_frames` rows; goes on where an interrupted one stopped."""
        columns = {"frames": ((height, width, 3), "uint8")}
        return StoreWriter(Path(folder), "frames", total_frames, columns, state_columns, {})


@dataclass(frozen=True, kw_only=True)
class TokenStore(_Store):
    """Codes of every frame with actions and states."""

    folder: Path
    """Where it lies."""
    tokens_FN: NDArray[np.uint16]
    """uint16 codes [F, N] in raster order, a read-only memory map."""
    actions_FA: NDArray[np.uint8]
    """uint8 action values [F, 16] in slot order; row t acts on frame t+1."""
    states_FS: NDArray[np.float32]
    """float32 [F, S]; row t is measured when frame t is seen."""
    state_columns: tuple[str, ...]
    """Names of the S state columns."""
    spans: tuple[Span, ...]
    """The episodes, in order of their rows."""
    tokenizer: str
    """Fingerprint of the tokenizer that made the codes."""

    @classmethod
    def open(cls, folder: Path | str) -> TokenStore:
        """Open a finished store.

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
    ) -> StoreWriter:
        """A writer for `total_frames` rows of `slots` codes; goes on where an interrupted one stopped."""
        columns = {"tokens": ((slots,), "uint16")}
        extra = {"tokenizer": tokenizer}
        return StoreWriter(Path(folder), "tokens", total_frames, columns, state_columns, extra)


def _common(folder: Path, index: Mapping[str, Any]) -> dict[str, Any]:
    spans = tuple(Span(start=e["start"], length=e["length"], meta=e["meta"]) for e in index["episodes"])
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
    try:
        index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path} is damaged ({error}); prepare the data set again") from error
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
