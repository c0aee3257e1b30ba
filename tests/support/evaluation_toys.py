"""Small datasets and random play for the tests of evaluation."""

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from playloom.actions.codec import REST_VALUES, SLOT_SIZES
from playloom.data.dataset import FrameDataset
from playloom.data.recording import STATE_COLUMNS


def random_actions(*shape: int, seed: int = 0) -> np.ndarray:
    """Uniformly random action values, uint8 [..., 16]."""
    return np.random.default_rng(seed).integers(0, SLOT_SIZES, (*shape, len(SLOT_SIZES))).astype(np.uint8)


def resting(steps: int) -> np.ndarray:
    """Action values at rest, uint8 [steps, 16]."""
    return np.tile(REST_VALUES, (steps, 1))


def noise(steps: int, size: tuple[int, int] = (16, 24), seed: int = 1) -> np.ndarray:
    """Random pictures, uint8 [steps, H, W, 3]."""
    return np.random.default_rng(seed).integers(0, 256, (steps, *size, 3)).astype(np.uint8)


def frame_dataset(
    folder: Path,
    frames: np.ndarray,
    actions: np.ndarray | None = None,
    *,
    lengths: Sequence[int] = (),
    states: Mapping[str, Any] | None = None,
    columns: Sequence[str] = STATE_COLUMNS,
    metas: Sequence[Mapping[str, Any]] = (),
) -> FrameDataset:
    """Write frames [F, H, W, 3] as test episodes of these lengths, by default one.

    Without actions nothing is pressed, and states that are not given are 0. `metas` replaces or adds entries of the
    episodes' metadata.
    """
    table, lengths = np.zeros((len(frames), len(columns)), np.float32), lengths or [len(frames)]
    for name, values in (states or {}).items():
        table[:, list(columns).index(name)] = values
    actions = resting(len(frames)) if actions is None else actions
    height, width = frames.shape[1:3]
    writer = FrameDataset.create(folder, len(frames), height=height, width=width, state_columns=columns)
    edges = itertools.pairwise(np.cumsum([0, *lengths]))
    for seed, ((first, stop), meta) in enumerate(itertools.zip_longest(edges, metas, fillvalue={})):
        meta = {"split": "test", "seed": seed, **meta}
        writer.append_episode(frames[first:stop], actions[first:stop], table[first:stop], meta)
    writer.finish()
    return FrameDataset.open(folder)
