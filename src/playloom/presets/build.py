"""A model's parts, built from its one config. Fresh weights; files are the business of `checkpoint`."""

from __future__ import annotations

import torch

from playloom.model import StepGeometry, Transformer
from playloom.presets.model_config import ModelConfig
from playloom.tokenizer.frame_tokenizer import FrameTokenizer


def build_tokenizer(config: ModelConfig, *, seed: int = 0) -> FrameTokenizer:
    """A fresh tokenizer; the same seed gives the same weights."""
    return FrameTokenizer(config.tokenizer, seed=seed)


def build_transformer(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """A fresh transformer; the same seed gives the same weights, and no global generator is touched."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config.transformer, step_geometry(config))


def step_geometry(config: ModelConfig) -> StepGeometry:
    """What the transformer must know of the layout."""
    layout = config.layout
    predicts_image = torch.zeros(layout.positions, dtype=torch.bool)
    predicts_image[list(layout.image_group.positions)] = True
    return StepGeometry(
        vocab_size=layout.vocab.size,
        first_action_id=layout.vocab.codebook_size,
        place_P2=torch.as_tensor(layout.place_P2),
        image_position_P=predicts_image,
    )
