"""A tiny random model that sees the game's pictures, and a folder of it."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from conftest import loud_model, tiny_config
from playloom.models.checkpoint import WorldModel, save_model


def arena_model(seed: int = 0) -> WorldModel:
    """The tiny model, for frames of 300 x 180 and a context of 4 steps."""
    config = tiny_config()
    sizes = dataclasses.replace(config.tokenizer, frame_height=180, frame_width=300, grid_height=9, grid_width=15)
    return loud_model(dataclasses.replace(config, tokenizer=sizes), seed)


def saved(folder: Path, model: WorldModel) -> str:
    save_model(folder, model, dtype=None)
    return str(folder)
