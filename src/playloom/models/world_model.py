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


def weight_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the memory of all weights: the transformer's in `dtype`, the tokenizer's in float32."""
    with torch.device("meta"):
        networks = build_transformer(config), FrameTokenizer(config.tokenizer)
    transformer, tokenizer = (sum(weight.numel() for weight in network.parameters()) for network in networks)
    return dtype.itemsize * transformer + 4 * tokenizer


def require_memory(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    sessions: int = 1,
    weights: int | None = None,
) -> None:
    """Raise ResourceError unless `sessions` caches and `weights` (bytes to allocate; None: all) fit on the device."""
    weights = weight_bytes(config, dtype) if weights is None else weights
    caches = sessions * KeyValueCache.bytes_each(config.transformer, config.layout.positions, dtype.itemsize)
    free = free_memory(device)
    if weights + caches > free:
        raise ResourceError(
            f"{config.name} needs {weights + caches:,} bytes on {device} ({weights:,} for weights, {caches:,} for the "
            f"context of {sessions} sessions) and {free:,} are free; choose a smaller preset, a shorter dtype or fewer "
            "sessions"
        )
