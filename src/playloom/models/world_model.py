"""Transformer of a model's config, and the memory of its networks."""

from __future__ import annotations

import torch

from playloom.device import free_memory
from playloom.errors import ResourceError
from playloom.models.config import ModelConfig
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.kv_cache import KeyValueCache
from playloom.models.transformer.transformer import Transformer


def build_transformer(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """Build a transformer with weights from `seed`, without the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config.transformer, config.layout)


def weight_bytes(config: ModelConfig) -> int:
    """Return the memory of all weights in float32."""
    with torch.device("meta"):
        networks = build_transformer(config), FrameTokenizer(config.tokenizer)
    return 4 * sum(weight.numel() for network in networks for weight in network.parameters())


def require_memory(config: ModelConfig, device: torch.device | str = "cpu") -> None:
    """Raise ResourceError unless the weights and the context of one session fit on the device."""
    weights, free = weight_bytes(config), free_memory(device)
    cache = KeyValueCache.bytes_each(config.transformer, config.layout.positions)
    if weights + cache > free:
        raise ResourceError(
            f"{config.name} needs {weights + cache:,} bytes on {device} ({weights:,} for weights, {cache:,} for the "
            f"context of one session) and {free:,} are free; choose a smaller model"
        )
