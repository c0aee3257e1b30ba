"""Bundled moments: short pieces of real play, kept exactly, to dream on from without a recording.

A moment is `NAME.npz` (arrays `frames` [T, H, W, 3] uint8 and `actions` [T, 16] uint8, LZMA-packed: forty
frames of the arena take about 0.75 MB, half of PNG) beside `NAME.json` (where it comes from). Owns these two
files; those of the package lie in `playloom/moments`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.errors import RecordingError, nearest
from playloom.files import atomic_write
from playloom.media.npz import read_npz, write_npz

BUNDLED = Path(__file__).parents[1] / "moments"
"""Where the package keeps its own."""
MOMENT_NAMES = ("frames", "actions")


class Moment(NamedTuple):
    """Real steps of play."""

    frames_THWC: NDArray[np.uint8]
    """RGB [T, H, W, 3]."""
    actions_TA: NDArray[np.uint8]
    """Action values [T, 16] in slot order; action t was taken after seeing frame t."""
    meta: Mapping[str, Any]
    """Where it comes from: game, seed, step and whatever else was kept."""


def list_moments(folder: Path = BUNDLED) -> list[str]:
    """The names of the moments in a folder, sorted; the bundled ones by default."""
    if not folder.is_dir():
        return []
    return sorted(path.stem for path in folder.glob("*.npz") if path.with_suffix(".json").is_file())


def find_moment(name: str, folder: Path = BUNDLED) -> Path:
    """The path of a moment's `.npz`.

    Raises:
        RecordingError: when there is none of that name.
    """
    names = list_moments(folder)
    if name not in names:
        raise RecordingError(f"there is no moment {name!r}; {nearest(name, names) if names else 'none is there'}")
    return folder / f"{name}.npz"


def load_moment(path: Path | str) -> Moment:
    """Read a moment from its `.npz`; its `.json` may be missing.

    Raises:
        RecordingError: when a file is damaged or its arrays do not fit together.
        ActionError: when an action value is outside its range.
    """
    arrays = read_npz(path, MOMENT_NAMES)
    frames_THWC, actions_TA = arrays["frames"], check_values(arrays["actions"])
    if frames_THWC.ndim != 4 or frames_THWC.shape[-1] != 3 or frames_THWC.dtype != np.uint8:
        found = f"{frames_THWC.dtype} of shape {frames_THWC.shape}"
        raise RecordingError(f"{path}: frames are {found}; expected uint8 of shape (T, height, width, 3)")
    if len(frames_THWC) != len(actions_TA):
        raise RecordingError(f"{path} has {len(frames_THWC)} frames but {len(actions_TA)} actions")
    return Moment(frames_THWC, actions_TA, _read_meta(Path(path).with_suffix(".json")))


def save_moment(
    path: Path | str, frames_THWC: NDArray[np.uint8], actions_TA: NDArray[np.uint8], meta: Mapping[str, Any]
) -> Path:
    """Write a moment; `load_moment` gives exactly these back, and equal moments are equal files.

    Args:
        path: where, ending in `.npz`; the JSON goes beside it.
        frames_THWC: uint8 [T, H, W, 3].
        actions_TA: action values [T, 16].
        meta: what JSON can hold; says where the moment comes from.

    Returns:
        The path of the `.npz`.

    Raises:
        RecordingError: when there are not as many actions as frames.
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    if len(frames_THWC) != len(actions_TA):
        raise RecordingError(f"a moment needs an action a frame; got {len(frames_THWC)} and {len(actions_TA)}")
    target = Path(path).with_suffix(".npz")
    write_npz(target, {"frames": frames_THWC, "actions": check_values(actions_TA)}, packing="small")
    with atomic_write(target.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(dict(meta), indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return target


def _read_meta(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        meta = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise RecordingError(f"{path} is not JSON ({error}); save the moment again") from error
    if not isinstance(meta, dict):
        raise RecordingError(f"{path} holds no JSON object; save the moment again")
    return meta
