"""A tiny engine, prompts for it, and rewards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from conftest import loud_model, tiny_config
from engine_toys import prompt_of
from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.envs.core import Transition
from playloom.inference.engine import Engine

WORDS = ["rest", "forward", "turn_left=0.625", "fire"]


def make_engine() -> Engine:
    return Engine(loud_model(tiny_config()), row_delay=1)


def prompts(count: int = 3) -> list[Any]:
    return [prompt_of(steps=4, seed=seed) for seed in range(count)]


def brightness(transition: Transition) -> float:
    return float(transition.after_HWC.mean())


def alone(engine: Engine, index: int, seed: int, actions: np.ndarray) -> list[np.ndarray]:
    """The frames of a plain session on prompt `index`: what an environment must show."""
    session = engine.open(prompts()[index], seed=seed)
    frames = [session.step(action_A).frame_HWC for action_A in actions]
    session.close()
    return [frame for frame in frames if frame is not None]


def rows_in_use(engine: Engine) -> int:
    return len(engine.decoder.rows.slots)  # type: ignore[union-attr]  # the cached decoder's


def frame_dataset(folder: Path, splits: tuple[str, str] = ("train", "train")) -> FrameDataset:
    """Nine living rows and a dead one, then five living: of the tiny model's context three windows."""
    rng = np.random.default_rng(0)
    writer = FrameDataset.create(folder, 15, height=16, width=24, state_columns=["dead"])
    for steps, split in zip((10, 5), splits, strict=True):
        dead = np.zeros((steps, 1), np.float32)
        dead[9:] = 1
        frames = rng.integers(0, 256, (steps, 16, 24, 3), dtype=np.uint8)
        writer.append_episode(frames, np.tile(REST_VALUES, (steps, 1)), dead, {"split": split})
    writer.finish()
    return FrameDataset.open(folder)
