"""Clips of play in `.npz` files: the published data set's form coming in, the batch dream's form going out.

Owns the array names and axis orders of both. Inside playloom frames are [T, H, W, 3]; in these files they are
[T, 3, H, W]. Actions in them are always in the `binned` schema.

Written by `write_dream_clip`:

* `context_length`, `steps_to_dream`: how many frames were seen and how many dreamed (int64).
* `context_dreamed` [ctx] bool: which of those seen were dreamed earlier; only when there are any; ours.
* `raw_context` [ctx, 3, H, W], `dreamt_images` [steps, 3, H, W] uint8: both without the visible mark.
* `all_actions` [ctx + steps, 16] float32: action t was taken after frame t; the last one is the recorded one
  if there is one, else rest.
* `encoded_decoded_ground_truth_images` [ctx + steps, 3, H, W] uint8: the true frames through the tokenizer;
  only when they are known.
* `action_given` [ctx + steps] bool: whether the action was given, not dreamed.
* `tokens` [ctx + steps, N] int32: every frame's codes, so that a dream goes on without re-encoding; ours.
* `manifest`: text, JSON.

Named arrays in one `.npz` file: numpy's format, written byte for byte equal for equal arrays.

`np.savez` puts the clock into the archive; this does not. Any numpy reads what is written here, and nothing
here reads pickled objects. Knows nothing of what the arrays mean.
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


CLIP_NAMES = ("images", "actions")
"""The arrays of a clip of the published data set; its `states` are not used."""
DREAM_NAMES = ("raw_context", "dreamt_images", "all_actions")
"""The arrays a dream can be gone on from."""


class Clip(NamedTuple):
    """Steps of play with their pictures."""

    frames_THWC: NDArray[np.uint8]
    """RGB [T, H, W, 3]."""
    actions_TA: NDArray[np.uint8]
    """Action values [T, 16] in slot order; action t was taken after seeing frame t."""
    codes_TN: NDArray[np.int64] | None = None
    """The frames' codes [T, N] where a dream kept them: going on from these re-encodes nothing."""
    weights: str | None = None
    """Fingerprint of the weights that the codes belong to."""
    dreamed_T: NDArray[np.bool_] | None = None
    """Which frames were dreamed, [T]; None: none."""


def find_clips(folder: Path | str) -> list[Path]:
    """Every `.npz` below a folder, searched recursively, sorted.

    Raises:
        RecordingError: when the folder is missing or holds none.
    """
    place = Path(folder)
    if not place.is_dir():
        raise RecordingError(f"{folder} is not a folder; expected one with .npz clips in it")
    clips = clips_below(place)
    if not clips:
        raise RecordingError(f"there is no .npz clip in {folder} or below it")
    return clips


def clips_below(folder: Path) -> list[Path]:
    """Every `.npz` in or below a folder, sorted; hidden ones are others' half-written files."""
    return sorted(path for path in folder.rglob("*.npz") if path.is_file() and not path.name.startswith("."))


def read_clip(path: Path | str) -> Clip:
    """Read a clip of the published data set.

    Args:
        path: an `.npz` with `images` [T, 3, H, W] uint8 and `actions` [T, 16] in the `binned` schema.

    Raises:
        RecordingError: when it is missing or damaged, an array is missing, or shapes or types are others.
        ActionError: when an action value is outside its range.
    """
    arrays = read_npz(path, CLIP_NAMES)
    frames_THWC = _channels_last(path, "images", arrays["images"])
    actions_TA = _actions(path, "actions", arrays["actions"])
    return Clip(frames_THWC, _same_length(path, frames_THWC, actions_TA))


def read_dream_clip(path: Path | str) -> Clip:
    """Read a file of `write_dream_clip` as one clip, context and dream; both without the visible mark.

    Raises:
        RecordingError: when it is missing or damaged, an array is missing, or shapes or types are others.
        ActionError: when an action value is outside its range.
    """
    arrays = read_npz(path, DREAM_NAMES)
    parts = [_channels_last(path, name, arrays[name]) for name in DREAM_NAMES[:2]]
    if parts[0].shape[1:] != parts[1].shape[1:]:
        raise RecordingError(f"{path}: raw_context and dreamt_images differ in size; is the file damaged?")
    frames_THWC = np.concatenate(parts)
    actions_TA = _actions(path, "all_actions", arrays["all_actions"])
    codes_TN, weights = _codes(path, len(frames_THWC))
    dreamed_T = np.concatenate([_dreamed_before(path, len(parts[0])), np.ones(len(parts[1]), bool)])
    return Clip(frames_THWC, _same_length(path, frames_THWC, actions_TA), codes_TN, weights, dreamed_T)


def write_clip(path: Path | str, clip: Clip) -> None:
    """Write real steps in the published data set's form; `read_clip` gives them back exactly."""
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
    """Write a dream with the array names of the reference's batch output (table above).

    Args:
        path: where.
        context_THWC: the frames seen, uint8 [ctx, H, W, 3].
        dreamed_SHWC: the dreamed frames, uint8 [S, H, W, 3], unmarked.
        actions_TA: action values [ctx+S, 16], or [ctx+S-1, 16] when nothing was done after the last frame.
        given_T: bool [len(actions_TA)], whether each was given.
        manifest: what made the dream.
        reconstructed_THWC: the true frames through the tokenizer, uint8 [ctx+S, H, W, 3], if they are known.
        codes_TN: every frame's codes, [ctx+S, N], if they are known.
        dreamed_before_T: bool [ctx], which frames seen were themselves dreamed; None: none.

    Raises:
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    total = len(context_THWC) + len(dreamed_SHWC)
    open_steps = total - len(actions_TA)
    if open_steps not in (0, 1) or len(given_T) != len(actions_TA):
        raise ValueError(f"{len(actions_TA)} actions and {len(given_T)} flags for {total} frames")
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


def is_dream_clip(path: Path | str) -> bool:
    """Whether the file holds the arrays of `write_dream_clip`.

    Raises:
        RecordingError: when it is missing or is no `.npz`.
    """
    return set(DREAM_NAMES) <= set(npz_names(path))


def _channels_last(path: Path | str, name: str, images: NDArray[Any]) -> NDArray[np.uint8]:
    if images.ndim != 4 or images.shape[1] != 3 or 0 in images.shape[1:]:
        raise RecordingError(f"{path}: {name} has shape {images.shape}; expected (T, 3, height, width)")
    if images.dtype != np.uint8:
        raise RecordingError(f"{path}: {name} are {images.dtype}; expected uint8, 0 to 255")
    return np.ascontiguousarray(np.moveaxis(images, 1, -1))


def _dreamed_before(path: Path | str, context: int) -> NDArray[np.bool_]:
    """Which frames of a dream's context were dreamed themselves, [context]."""
    if "context_dreamed" not in npz_names(path):
        return np.zeros(context, bool)
    flags = read_npz(path, ("context_dreamed",))["context_dreamed"]
    if flags.shape != (context,):
        raise RecordingError(f"{path}: context_dreamed has shape {flags.shape}; expected ({context},)")
    return flags.astype(bool)


def _codes(path: Path | str, steps: int) -> tuple[NDArray[np.int64] | None, str | None]:
    """The codes a dream kept, and the weights they belong to; nothing where either is missing."""
    if not {"tokens", "manifest"} <= set(npz_names(path)):
        return None, None
    arrays = read_npz(path, ("tokens", "manifest"))
    codes_TN = arrays["tokens"]
    if codes_TN.ndim != 2 or len(codes_TN) != steps or codes_TN.dtype.kind not in "iu":
        raise RecordingError(f"{path}: tokens have shape {codes_TN.shape}; expected integers ({steps}, N)")
    return codes_TN.astype(np.int64), Manifest.from_json(str(arrays["manifest"])).weights


def _actions(path: Path | str, name: str, actions: NDArray[Any]) -> NDArray[np.uint8]:
    if actions.ndim != 2:
        raise RecordingError(f"{path}: {name} has shape {actions.shape}; expected (T, 16)")
    for step, row in enumerate(actions):
        try:
            rows_to_values(row, "binned")
        except ActionError as error:
            raise ActionError(f"{path}: {name} of step {step}: {error} (binned schema)") from error
    return rows_to_values(actions, "binned")


def _same_length(path: Path | str, frames_THWC: NDArray[np.uint8], actions_TA: NDArray[np.uint8]) -> NDArray[np.uint8]:
    if len(frames_THWC) != len(actions_TA):
        raise RecordingError(f"{path} has {len(frames_THWC)} pictures but {len(actions_TA)} actions")
    return actions_TA
