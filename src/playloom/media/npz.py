"""Named arrays in one `.npz` file: numpy's format, written byte for byte equal for equal arrays.

`np.savez` puts the clock into the archive; this does not. Any numpy reads what is written here, and nothing
here reads pickled objects. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.errors import RecordingError
from playloom.files import atomic_write

MAX_BYTES = 2 * 1024**3
"""Most bytes that the arrays read from one file may take: some 13,000 frames of 300 x 180."""
Packing = Literal["fast", "small"]
"""`fast`: deflate. `small`: LZMA, about half the size for pictures of a game, ten times slower to write."""

_METHODS = {"fast": zipfile.ZIP_DEFLATED, "small": zipfile.ZIP_LZMA}
_FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_PIECE = 4096
"""Packed bytes decompressed at a time where `zipfile` bounds only what goes in (LZMA: some 7,000 times as much out)."""


def write_npz(path: Path | str, arrays: Mapping[str, NDArray[Any]], *, packing: Packing = "fast") -> None:
    """Write the arrays under their names; the file appears whole or not at all.

    Raises:
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _FIRST_ZIP_DATE)
            entry.compress_type = _METHODS[packing]
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def npz_names(path: Path | str) -> tuple[str, ...]:
    """The names of the arrays in the file, without reading them.

    Raises:
        RecordingError: when the file is missing or is no `.npz` archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except FileNotFoundError as error:
        raise RecordingError(f"there is no file {path}") from error
    except (zipfile.BadZipFile, OSError) as error:
        raise RecordingError(f"{path} cannot be read as .npz ({error}); is it damaged or cut short?") from error


def read_npz(path: Path | str, names: tuple[str, ...]) -> dict[str, NDArray[Any]]:
    """The arrays asked for; others in the file are not read.

    Raises:
        RecordingError: when the file is missing or damaged, lacks a name, holds pickled objects, or when the arrays
            would take more than `MAX_BYTES`.
    """
    present = npz_names(path)
    missing = [name for name in names if name not in present]
    if missing:
        raise RecordingError(
            f"{path} has no array {', '.join(missing)}; it holds {', '.join(present) or 'nothing'}, "
            f"expected {', '.join(names)}"
        )
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            # zipfile gives no entry more bytes than its directory names, so a directory that lies gains nothing.
            total = sum(entries[name].file_size for name in names)
            if total > MAX_BYTES:
                raise RecordingError(
                    f"{path} is too large: it unpacks to {total:,} bytes, expected at most {MAX_BYTES:,} (some 13,000 "
                    "frames of 300 x 180); cut it into shorter files"
                )
            return {name: _read(archive, entries[name]) for name in names}
    except RecordingError:
        raise
    # Damage inside an archive surfaces as whatever the decompressor or the array header was reading.
    except Exception as error:
        raise RecordingError(f"{path} is damaged or holds something other than numbers: {error}") from error


class _Pieces:
    """A file that is read in small pieces."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def read(self, size: int = _PIECE) -> bytes:
        parts = []
        while size > 0 and (part := self._file.read(min(size, _PIECE))):
            parts.append(part)
            size -= len(part)
        return b"".join(parts)


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as file:
        bounded = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        array: NDArray[Any] = np.lib.format.read_array(file if bounded else _Pieces(file), allow_pickle=False)
        return array
