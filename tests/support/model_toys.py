"""Heads on the tiny model."""

import dataclasses

import torch

from playloom.models.checkpoint import WorldModel
from playloom.models.heads import HeadsConfig, StateConfig
from playloom.models.heads_network import PredictionHeads

HEALTH = StateConfig(name="health", mean=70.0, scale=20.0)
HEADS = HeadsConfig(reward="sign", termination=True, states=(HEALTH,), width=8)


def with_heads(model: WorldModel, config: HeadsConfig = HEADS) -> WorldModel:
    """The model with random heads, all of whose weights matter."""
    heads, source = PredictionHeads(config, model.config.transformer.width), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weight in heads.parameters():
            weight.normal_(std=0.3, generator=source)
    return dataclasses.replace(model, config=dataclasses.replace(model.config, heads=config), heads=heads.eval())
