"""Recorded episode: `<key>.npz` (arrays `actions` and `states`) and `<key>.json` (metadata, written last).

It holds no pictures: seed and actions render them again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, check_values
from playloom.atomic_io import atomic_write
from playloom.errors import ConfigError, RecordingError
from playloom.json_io import from_mapping, read_json, write_json
from playloom.media.clips import read_npz

Mode = Literal["ffa", "4v4"]
Split = Literal["train", "validation", "test", "heldout"]

STATE_COLUMNS = ("x", "y", "z", "yaw", "pitch", "health", "dead", "weapon", "frags")
"""Columns of a state row.

Map units; degrees (yaw positive clockwise, pitch positive up); dead 0 or 1; the engine's numbers.
"""


@dataclass(frozen=True, kw_only=True)
class EpisodeMeta:
    """Origin of an episode; with the actions it decides every pixel."""

    game: str
    """Name of the game, such as `arena`."""
    variant: str
    """Name of the arena."""
    mode: Mode
    """Free for all, or two teams of four."""
    style: str
    """The scripted player's style, `human`, or `model-NAME` for a model."""
    seed: int
    """Seed of the engine and of the player."""
    split: Split
    steps: int
    """Number of steps, T."""
    frame_hash: str
    """BLAKE2b (32 bytes, hexadecimal) of all frames' bytes in order."""
    versions: dict[str, str] = field(default_factory=dict)
    """Versions of playloom and the engine."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise RecordingError(f"an episode is empty: got {self.steps} steps, expected at least 1")


@dataclass(frozen=True)
class Episode:
    """Steps of play: frame t was seen in state t, then action t was taken."""

    meta: EpisodeMeta
    actions_TA: NDArray[np.uint8]
    """Action values [T, 16] in slot order; action t changes frame t + 1, never frame t."""
    states: NDArray[np.float32]
    """State rows [T, 9], measured when frame t is seen; see `STATE_COLUMNS`."""

    def __post_init__(self) -> None:
        for array, width in ((self.actions_TA, ACTION_SLOTS), (self.states, len(STATE_COLUMNS))):
            if array.shape != (self.meta.steps, width):
                expected = (self.meta.steps, width)
                raise RecordingError(f"an array of the episode has shape {array.shape}; expected {expected}")


Render = Callable[[Episode], Iterator[NDArray[np.uint8]]]
"""Renders an episode's frames, uint8 RGB [H, W, 3] each, from its first. Module-level where workers call it."""


def episode_key(meta: EpisodeMeta) -> str:
    """Return the file name without its ending: readable, one per seed."""
    return f"{meta.game}-{meta.seed:08d}"


def save_episode(folder: Path, episode: Episode) -> Path:
    """Write an episode into `folder` (made if needed), the JSON last; return the path of its `.npz`."""
    path = Path(folder) / f"{episode_key(episode.meta)}.npz"
    with atomic_write(path) as temporary:
        np.savez_compressed(temporary, actions=episode.actions_TA, states=episode.states)
    write_json(path.with_suffix(".json"), dataclasses.asdict(episode.meta))
    return path


def load_episode(path: Path) -> Episode:
    """Read an episode from its `.npz` or `.json` path."""
    meta = load_meta(path)
    arrays = Path(path).with_suffix(".npz")
    found = read_npz(arrays, ("actions", "states"))
    try:
        return Episode(meta, check_values(found["actions"]), found["states"].astype(np.float32))
    except ValueError as error:
        raise RecordingError(f"{arrays} is damaged ({error}); record the episode again") from error


def load_meta(path: Path) -> EpisodeMeta:
    """Read only the metadata of an episode, from its `.json` or `.npz` path."""
    path = Path(path).with_suffix(".json")
    content = read_json(path, RecordingError, "give the .npz or .json of a recorded episode")
    try:
        return from_mapping(EpisodeMeta, content, "an episode's metadata")
    except ConfigError as error:
        raise RecordingError(f"{path} is damaged: {error}; record the episode again") from error


def list_episodes(folder: Path) -> list[Path]:
    """Return the `.npz` paths of every complete episode in `folder`, sorted."""
    folder = Path(folder)
    if not folder.is_dir():
        raise RecordingError(f"{folder} is not a folder; make one with: playloom record --out {folder}")
    paths = (p for p in folder.glob("*.npz") if not p.name.startswith("."))
    return sorted(p for p in paths if p.with_suffix(".json").is_file())
