"""What a model takes of a machine's memory, said before any of it is taken."""

from __future__ import annotations

import torch

from playloom.errors import ResourceError
from playloom.model import KeyValueCache
from playloom.presets.model_config import ModelConfig
from playloom.runtime import free_memory


def weight_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Memory of all weights: the transformer's in `dtype`, the tokenizer's in float32."""
    return transformer_parameters(config) * dtype.itemsize + config.tokenizer.parameter_count * torch.float32.itemsize


def transformer_parameters(config: ModelConfig) -> int:
    """The transformer's parameters, with those of positions and of the action condition."""
    sizes, layout = config.transformer, config.layout
    places = layout.positions * (1 if sizes.positions == "rolling" else sizes.context_steps)
    actions = layout.vocab.action_values if sizes.action_condition else 0
    return config.parameter_count + (places + actions) * sizes.width


def cache_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Memory of one session's keys and values."""
    return KeyValueCache.bytes_each(config.transformer, config.layout.positions, dtype)


def require_memory(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    sessions: int = 1,
    weights: int | None = None,
) -> int:
    """Bytes that weights and the caches of `sessions` dreams take; call it before building or loading.

    Args:
        config: the model.
        device: where it is to live.
        dtype: of the transformer's weights and cache.
        sessions: dreams at once.
        weights: bytes of the weights where they are known; None: counted from the config.

    Raises:
        ResourceError: when the device has less; says how many bytes are needed and how many there are.
    """
    weights = weight_bytes(config, dtype) if weights is None else weights
    if torch.device(device).type == "cpu" and dtype == torch.float32:
        weights += config.parameter_count * dtype.itemsize  # the copy that is laid out for decoding
    caches = sessions * cache_bytes(config, dtype)
    there = free_memory(device)
    if weights + caches > there:
        raise ResourceError(
            f"{config.name} needs {weights + caches:,} bytes on {device} ({weights:,} of weights, {caches:,} of "
            f"context for {sessions} dreams) and {there:,} are free; choose a smaller preset, a shorter dtype or fewer "
            "dreams"
        )
    return weights + caches
