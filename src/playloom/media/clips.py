"""Clips of play in `.npz` files: the format of the published dataset, and of generated clips.

Frames are [T, H, W, 3] in playloom and [T, 3, H, W] in these files. Actions in them are in the `binned` schema. A
generated clip (`write_dream_clip`) has the array names of the reference's batch output, and four of our own:

* `context_length`, `steps_to_dream`: number of context frames and of generated ones (int64).
* `raw_context` [ctx, 3, H, W], `dreamt_images` [steps, 3, H, W] uint8: both without the visible watermark.
* `all_actions` [ctx + steps, 16] float32: action t was taken after frame t; the last one may be rest.
* `encoded_decoded_ground_truth_images` [ctx + steps, 3, H, W] uint8: true frames through the tokenizer, if known.
* `action_given` [ctx + steps] bool: False for generated actions (ours).
* `context_dreamed` [ctx] bool: True for context frames that were generated earlier; only if there are any (ours).
* `tokens` [ctx + steps, N] int32: codes of every frame, so that nothing is encoded again (ours).
* `manifest`: JSON text (ours).

Equal arrays give equal bytes: `np.savez` would put the time into the archive. No pickled object is read.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, rows_to_values, values_to_rows
from playloom.atomic_io import atomic_write
from playloom.errors import ActionError, RecordingError
from playloom.provenance import Manifest

MAX_BYTES = 2 * 1024**3
"""Most bytes that the arrays read from one file may take: some 13,000 frames of 300 x 180."""
CLIP_NAMES = ("images", "actions")
"""Arrays of a clip of the published dataset; its `states` are not used."""
DREAM_NAMES = ("raw_context", "dreamt_images", "all_actions")
"""Arrays of a generated clip that make it a prompt."""
_METHODS = {"fast": zipfile.ZIP_DEFLATED, "small": zipfile.ZIP_LZMA}
_FIRST_ZIP_DATE = (1980, 1, 1, 0, 0, 0)
_PIECE = 4096
"""Packed bytes decompressed at a time where `zipfile` bounds only what goes in (LZMA: some 7,000 times as much out)."""


def write_npz(
    path: Path | str, arrays: Mapping[str, NDArray[Any]], *, packing: Literal["fast", "small"] = "fast"
) -> None:
    """Write named arrays atomically; `small` (LZMA) gives half the size for frames of a game, ten times slower."""
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", _FIRST_ZIP_DATE)
            entry.compress_type = _METHODS[packing]
            with archive.open(entry, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.asanyarray(array), allow_pickle=False)


def npz_names(path: Path | str) -> tuple[str, ...]:
    """Return the names of the arrays without reading them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removesuffix(".npy") for name in archive.namelist())
    except FileNotFoundError as error:
        raise RecordingError(f"there is no file {path}") from error
    except Exception as error:  # damage raises any error, as in `read_npz`
        raise RecordingError(f"{path} cannot be read as .npz ({error}); is it damaged or cut short?") from error


def read_npz(path: Path | str, names: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, NDArray[Any]]:
    """Read some arrays, and those of `optional` that the file has."""
    present = npz_names(path)
    missing = [name for name in names if name not in present]
    if missing:
        found = f"got {', '.join(present) or 'none'}, expected {', '.join(names)}"
        raise RecordingError(f"{path} has no array {', '.join(missing)}: {found}")
    wanted = (*names, *(name for name in optional if name in present))
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {name: archive.getinfo(f"{name}.npy") for name in wanted}
            # zipfile gives no entry more bytes than its directory names, so a directory that lies gains nothing.
            total = sum(entry.file_size for entry in entries.values())
            if total > MAX_BYTES:
                found = f"got {total:,} bytes, expected at most {MAX_BYTES:,}"
                raise RecordingError(f"{path} is too large: {found}; cut it into shorter files")
            return {name: _read(archive, entry) for name, entry in entries.items()}
    except RecordingError:
        raise
    # Damage inside an archive raises any error, depending on the part that was read.
    except Exception as error:
        raise RecordingError(f"{path} is damaged or holds something other than numbers: {error}") from error


class _Pieces(NamedTuple):
    file: IO[bytes]

    def read(self, size: int = _PIECE) -> bytes:
        whole, rest = divmod(size, _PIECE)
        return b"".join(map(self.file.read, [*[_PIECE] * whole, rest]))


def _read(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(entry) as file:
        bounded = entry.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
        array: NDArray[Any] = np.lib.format.read_array(file if bounded else _Pieces(file), allow_pickle=False)
        return array


class Clip(NamedTuple):
    """Steps of play with their frames."""

    frames_THWC: NDArray[np.uint8]  # RGB [T, H, W, 3]
    actions_TA: NDArray[np.uint8]  # action values [T, 16]; action t was taken after frame t
    codes_TN: NDArray[np.int64] | None = None  # codes of the frames, [T, N], if they are known
    dreamed_T: NDArray[np.bool_] | None = None  # true for generated frames, [T]; None: all are real
    manifest: Manifest | None = None  # manifest of a generated clip; its `weights` made the codes


def find_clips(folder: Path | str) -> list[Path]:
    """Return every `.npz` in or below a folder, sorted; RecordingError when the folder is missing or holds none."""
    if not Path(folder).is_dir():
        raise RecordingError(f"{folder} is not a folder; expected one with .npz clips in it")
    clips = clips_below(Path(folder))
    if not clips:
        raise RecordingError(f"there is no .npz clip in {folder} or below it")
    return clips


def clips_below(folder: Path) -> list[Path]:
    """Return every `.npz` in or below a folder, sorted, without hidden ones, which may be half written."""
    return sorted(path for path in folder.rglob("*.npz") if path.is_file() and not path.name.startswith("."))


def read_clip(path: Path | str) -> Clip:
    """Read a clip of the published dataset: `images` [T, 3, H, W] uint8, `actions` [T, 16] in the `binned` schema."""
    arrays = read_npz(path, CLIP_NAMES)
    frames_THWC = _channels_last(path, "images", arrays["images"])
    return Clip(frames_THWC, actions_of(path, "actions", arrays["actions"], len(frames_THWC)))


def read_dream_clip(path: Path | str) -> Clip:
    """Read a file of `write_dream_clip` as one clip, context and generated frames; errors as `read_clip`."""
    arrays = read_npz(path, DREAM_NAMES, ("context_dreamed", "tokens", "manifest"))
    context_THWC, dreamed_SHWC = (_channels_last(path, name, arrays[name]) for name in DREAM_NAMES[:2])
    if context_THWC.shape[1:] != dreamed_SHWC.shape[1:]:
        raise RecordingError(f"{path}: raw_context and dreamt_images differ in size; is the file damaged?")
    frames_THWC = np.concatenate([context_THWC, dreamed_SHWC])
    before_T = arrays.get("context_dreamed", np.zeros(len(context_THWC), bool))
    codes_TN = arrays.get("tokens") if "manifest" in arrays else None
    if before_T.shape != (len(context_THWC),):
        raise RecordingError(f"{path}: context_dreamed has shape {before_T.shape}; expected ({len(context_THWC)},)")
    if codes_TN is not None and (
        codes_TN.ndim != 2 or len(codes_TN) != len(frames_THWC) or codes_TN.dtype.kind not in "iu"
    ):
        raise RecordingError(f"{path}: tokens have shape {codes_TN.shape}; expected integers ({len(frames_THWC)}, N)")
    return Clip(
        frames_THWC,
        actions_of(path, "all_actions", arrays["all_actions"], len(frames_THWC)),
        None if codes_TN is None else codes_TN.astype(np.int64),
        np.concatenate([before_T.astype(bool), np.ones(len(dreamed_SHWC), bool)]),
        Manifest.from_json(str(arrays["manifest"])) if "manifest" in arrays else None,
    )


def write_clip(path: Path | str, clip: Clip) -> None:
    """Write real steps in the format of the published dataset; the inverse of `read_clip`."""
    images_TCHW = np.moveaxis(clip.frames_THWC, -1, 1)
    write_npz(path, {"images": images_TCHW, "actions": values_to_rows(clip.actions_TA, "binned")})


def write_dream_clip(
    path: Path | str,
    *,
    context_THWC: NDArray[np.uint8],
    dreamed_SHWC: NDArray[np.uint8],
    actions_TA: NDArray[np.uint8],
    given_T: NDArray[np.bool_],
    manifest: Manifest,
    reconstructed_THWC: NDArray[np.uint8] | None = None,
    codes_TN: NDArray[np.int64] | None = None,
    dreamed_before_T: NDArray[np.bool_] | None = None,
) -> None:
    """Write a generated clip (arrays above); the frames are without watermark.

    `actions_TA` may lack the one after the last frame. `given_T` is False for generated actions, `dreamed_before_T` is
    True for context frames that were generated earlier.
    """
    open_steps = len(context_THWC) + len(dreamed_SHWC) - len(actions_TA)
    rest_TA = np.tile(REST_VALUES, (open_steps, 1))
    arrays: dict[str, NDArray[Any]] = {
        "context_length": np.array(len(context_THWC)),
        "steps_to_dream": np.array(len(dreamed_SHWC)),
        "raw_context": np.moveaxis(context_THWC, -1, 1),
        "dreamt_images": np.moveaxis(dreamed_SHWC, -1, 1),
        "all_actions": values_to_rows(np.concatenate([actions_TA, rest_TA]), "binned"),
        "action_given": np.concatenate([given_T, np.ones(open_steps, bool)]),
        "manifest": np.array(manifest.to_json()),
    }
    if reconstructed_THWC is not None:
        arrays["encoded_decoded_ground_truth_images"] = np.moveaxis(reconstructed_THWC, -1, 1)
    if codes_TN is not None:
        arrays["tokens"] = codes_TN.astype(np.int32)
    if dreamed_before_T is not None and dreamed_before_T.any():
        arrays["context_dreamed"] = dreamed_before_T
    write_npz(path, arrays)


def _channels_last(path: Path | str, name: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[1:]:
        raise RecordingError(f"{path}: {name} has shape {images.shape}; expected (T, 3, height, width)")
    if images.dtype != np.uint8:
        raise RecordingError(f"{path}: {name} are {images.dtype}; expected uint8, 0 to 255")
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def actions_of(path: Path | str, name: str, actions: NDArray[Any], frames: int) -> NDArray[np.uint8]:
    """Return action values [T, 16] of the numbers under a name, in the `binned` schema; errors as `read_clip`."""
    if actions.ndim != 2 or actions.dtype.kind not in "biuf":
        raise RecordingError(f"{path}: {name} are {actions.dtype} of shape {actions.shape}; expected (T, 16) numbers")
    if len(actions) != frames:
        raise RecordingError(f"{path} has {frames} pictures but {len(actions)} actions")
    try:
        return rows_to_values(actions, "binned")
    except ActionError as error:
        raise ActionError(f"{path}: {name}: {error} (binned schema)") from error
