"""Config of a whole model, its networks, and their memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from playloom.device import free_memory
from playloom.errors import ConfigError, ResourceError
from playloom.json_io import from_mapping
from playloom.models.sequence import StepLayout, Vocab
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.kv_cache import KeyValueCache
from playloom.models.transformer.transformer import StepGeometry, Transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of tokenizer, sequence and transformer that fit each other.

    Raises:
        ConfigError: when the parts do not fit each other.
    """

    name: str
    """Name in tables and manifests."""
    tokenizer: TokenizerConfig
    transformer: TransformerConfig
    rows: bool = True
    """Row starts and row ends in the sequence, for parallel decoding; False is the published chain."""

    def __post_init__(self) -> None:
        if self.transformer.action_condition and not self.rows:
            raise ConfigError("action_condition needs rows=True: in a chain the first position reads an action token")

    @cached_property
    def layout(self) -> StepLayout:
        """Token arithmetic of this model."""
        return StepLayout(
            grid_height=self.tokenizer.grid_height,
            grid_width=self.tokenizer.grid_width,
            vocab=Vocab(codebook_size=self.tokenizer.codebook_size),
            rows=self.rows,
        )

    @property
    def context_positions(self) -> int:
        """Positions of a full context."""
        return self.transformer.context_steps * self.layout.positions

    @property
    def parameter_count(self) -> int:
        """Parameters of the transformer without positions, as papers count them."""
        return self.transformer.parameter_count(self.layout.vocab.size)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values that `from_dict` reads back."""
        return {
            "name": self.name,
            "rows": self.rows,
            "tokenizer": self.tokenizer.to_dict(),
            "transformer": dataclasses.asdict(self.transformer),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build the config from a mapping read from JSON.

        Raises:
            ConfigError: for a missing or an unknown key (names the nearest one).
        """
        return from_mapping(cls, values, "the model config")


def build_tokenizer(config: ModelConfig, *, seed: int = 0) -> FrameTokenizer:
    """Build a tokenizer with weights from `seed`."""
    return FrameTokenizer(config.tokenizer, seed=seed)


def build_transformer(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """Build a transformer with weights from `seed`, without the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config.transformer, step_geometry(config))


def step_geometry(config: ModelConfig) -> StepGeometry:
    """Return the part of the layout that the transformer needs."""
    layout = config.layout
    predicts_image = torch.zeros(layout.positions, dtype=torch.bool)
    predicts_image[list(layout.image_group.positions)] = True
    return StepGeometry(
        vocab_size=layout.vocab.size,
        first_action_id=layout.vocab.codebook_size,
        grid_P2=torch.as_tensor(layout.grid_P2),
        image_position_P=predicts_image,
    )


def weight_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the memory of all weights: the transformer's in `dtype`, the tokenizer's in float32."""
    return transformer_parameters(config) * dtype.itemsize + config.tokenizer.parameter_count * torch.float32.itemsize


def transformer_parameters(config: ModelConfig) -> int:
    """Return the number of transformer parameters, positions and action condition included."""
    sizes, layout = config.transformer, config.layout
    places = layout.positions * (1 if sizes.positions == "rolling" else sizes.context_steps)
    actions = layout.vocab.action_values if sizes.action_condition else 0
    return config.parameter_count + (places + actions) * sizes.width


def cache_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the memory of one session's keys and values."""
    return KeyValueCache.bytes_each(config.transformer, config.layout.positions, dtype)


def require_memory(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    sessions: int = 1,
    weights: int | None = None,
) -> int:
    """Return the bytes of weights and of the caches of `sessions` sessions, before they are allocated.

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
