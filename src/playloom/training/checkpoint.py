"""Training state on disk: a folder per checkpoint, tensors as safetensors, scalars as JSON, written atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from playloom.atomic_io import atomic_folder, atomic_write
from playloom.errors import CheckpointError

_FORMAT = 2
_PREFIX = "step-"


@dataclass(frozen=True)
class Snapshot:
    """State of a run at one step."""

    step: int  # optimiser steps done
    seen: int  # examples taken by all devices: the data position
    elapsed: float
    flops: float  # floating point operations of one step, over all devices
    identity: dict[str, Any]  # the run's config, which must be equal to resume
    tensors: dict[str, Tensor]  # weights, averages and optimiser states by flat name


def save_snapshot(folder: Path, snapshot: Snapshot, keep: int) -> None:
    """Write a checkpoint below `folder`, then delete all but the last `keep` up to it."""
    target = folder / f"{_PREFIX}{snapshot.step:09d}"
    if target.exists():
        shutil.rmtree(target)
    state = {"format": _FORMAT, **vars(snapshot)}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.pop("tensors").items()}
    with atomic_folder(target) as temporary:
        with atomic_write(temporary / "tensors.safetensors") as weights:
            save_file(tensors, weights)
        (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    kept = [path for path in _checkpoints(folder) if path <= target][-keep:]  # later ones are damaged
    for other in {*_checkpoints(folder)} - {*kept}:
        shutil.rmtree(other, ignore_errors=True)


def load_newest(folder: Path) -> Snapshot | None:
    """Load the newest readable checkpoint; None without any. Leftovers of a killed writer are removed."""
    for leftover in folder.glob(f".{_PREFIX}*.tmp"):
        shutil.rmtree(leftover, ignore_errors=True)
    problems = []
    for path in reversed(_checkpoints(folder)):
        try:
            return _load(path)
        except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
            problems.append(f"{path.name}: {error}")
    if problems:
        raise CheckpointError(f"no checkpoint in {folder} can be read ({'; '.join(problems)}); remove them to restart")
    return None


def differences(saved: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Describe differing settings as `name: saved, now ...`."""
    result = []
    for key in sorted({*saved, *now}):
        before, after = saved.get(key), now.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            result += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            result.append(f"{prefix}{key}: was {before!s:.60}, now {after!s:.60}")
    return result


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if path.is_dir())


def _load(path: Path) -> Snapshot:
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    if state["format"] != _FORMAT:
        raise CheckpointError(f"{path} has format {state['format']}; this version reads {_FORMAT}")
    tensors = load_file(path / "tensors.safetensors")
    return Snapshot(state["step"], state["seen"], state["elapsed"], state["flops"], state["identity"], tensors)
