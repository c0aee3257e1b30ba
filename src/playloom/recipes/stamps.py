"""What a run's folder says of each stage: `stamps/STAGE.json`, with the settings it was made with and their hash.

Owns reading, writing and comparing stamps. Knows not what a stage does.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from playloom.atomic_io import atomic_write
from playloom.errors import RecordingError

_MISSING = "nothing"


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """A stage's state on disk."""

    stage: str
    """Its name."""
    hash: str
    """Of its settings and of the stages it is made from."""
    settings: dict[str, Any]
    """What decides its result, as JSON values."""
    finished: bool
    """Whether it is done; else it waits for another piece."""
    seconds: float = 0.0
    """Wall time, all pieces together."""
    pieces: int = 0
    """Processes that worked on it."""
    machine: dict[str, Any] = field(default_factory=dict)
    """What it ran on last."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What it says about its result."""


def read_stamp(folder: Path, stage: str) -> Stamp | None:
    """The stamp of a stage; None when it has not begun.

    Raises:
        RecordingError: when the file is damaged.
    """
    path = _path(folder, stage)
    if not path.is_file():
        return None
    try:
        return Stamp(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise RecordingError(f"{path} is damaged ({error}); remove it, and the stage is done again") from error


def write_stamp(folder: Path, stamp: Stamp) -> None:
    """Put a stage's state on disk, whole or not at all."""
    with atomic_write(_path(folder, stamp.stage)) as temporary:
        temporary.write_text(json.dumps(dataclasses.asdict(stamp), indent=1) + "\n", encoding="utf-8")


def remove_stamp(folder: Path, stage: str) -> None:
    """Forget a stage."""
    _path(folder, stage).unlink(missing_ok=True)


def settings_hash(settings: Mapping[str, Any], made_from: Mapping[str, str]) -> str:
    """16 hex digits that change when a setting, or anything the stage is made from, does."""
    text = json.dumps([plain(settings), dict(made_from)], sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON gives them back."""
    return dict(json.loads(json.dumps(dict(settings))))


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, str]:
    """Dotted path to `old -> new` for every setting that differs."""
    old, new = _flat(before), _flat(now)
    return {
        key: f"{old.get(key, _MISSING)} -> {new.get(key, _MISSING)}"
        for key in sorted({*old, *new})
        if old.get(key, _MISSING) != new.get(key, _MISSING)
    }


def _path(folder: Path, stage: str) -> Path:
    return folder / "stamps" / f"{stage}.json"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result |= _flat(value, f"{prefix}{key}.")
        else:
            result[f"{prefix}{key}"] = value
    return result
