"""Named arrays in one `.npz` file: numpy's format, written byte for byte equal for equal arrays.

`np.savez` puts the clock into the archive; this does not. Any numpy reads what is written here, and nothing
here reads pickled objects. Knows nothing of what the arrays mean.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.errors import RecordingError
from playloom.files import atomic_write

Packing = Literal["fast", "small"]
"""`fast`: deflate. `small`: LZMA, about half the size for pictures of a game, ten times slower to write."""

_METHODS = {"fast": zipfile.ZIP_DEFLATED, "small": zipfile.ZIP_LZMA}
_FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)


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
        RecordingError: when the file is missing, damaged, lacks a name or holds pickled objects.
    """
    present = npz_names(path)
    missing = [name for name in names if name not in present]
    if missing:
        raise RecordingError(
            f"{path} has no array {', '.join(missing)}; it holds {', '.join(present) or 'nothing'}, "
            f"expected {', '.join(names)}"
        )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    # Damage inside an archive surfaces as whatever the decompressor or the array header was reading.
    except Exception as error:
        raise RecordingError(f"{path} is damaged or holds something other than numbers: {error}") from error
