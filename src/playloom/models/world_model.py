"""Config of a whole model, its networks, and their memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch

from playloom.device import free_memory
from playloom.errors import ConfigError, ResourceError
from playloom.json_io import from_mapping, plain
from playloom.models.heads import HeadsConfig
from playloom.models.sequence import StepLayout, Vocab
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.config import TransformerConfig
from playloom.models.transformer.kv_cache import KeyValueCache
from playloom.models.transformer.transformer import Transformer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of tokenizer, sequence and transformer that fit each other."""

    name: str
    """Name in tables and manifests."""
    tokenizer: TokenizerConfig
    transformer: TransformerConfig
    rows: bool = True
    """Row starts and row ends in the sequence, for parallel decoding; False is the published chain."""
    heads: HeadsConfig | None = None
    """Heads of reward, termination and states; None: none."""

    def __post_init__(self) -> None:
        if self.transformer.action_condition and not self.rows:
            raise ConfigError("action_condition needs rows=True: the first position of a chain reads an action token")

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
            **({} if self.heads is None else {"heads": plain(dataclasses.asdict(self.heads))}),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """Build the config from a mapping read from JSON."""
        return from_mapping(cls, values, "the model config")


def build_transformer(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """Build a transformer with weights from `seed`, without the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config.transformer, config.layout)


def weight_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the memory of all weights: the transformer's in `dtype`, the tokenizer's in float32."""
    sizes, layout = config.transformer, config.layout
    positions = layout.positions * (1 if sizes.positions == "rolling" else sizes.context_steps)
    actions = layout.vocab.action_values if sizes.action_condition else 0
    with torch.device("meta"):
        tokenizer = sum(weight.numel() for weight in FrameTokenizer(config.tokenizer).parameters())
    return (config.parameter_count + (positions + actions) * sizes.width) * dtype.itemsize + 4 * tokenizer


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
    if torch.device(device).type == "cpu" and dtype == torch.float32:
        weights += config.parameter_count * dtype.itemsize  # the packed copy for decoding
    caches = sessions * KeyValueCache.bytes_each(config.transformer, config.layout.positions, dtype)
    free = free_memory(device)
    if weights + caches > free:
        raise ResourceError(
            f"{config.name} needs {weights + caches:,} bytes on {device} ({weights:,} for weights, {caches:,} for the "
            f"context of {sessions} sessions) and {free:,} are free; choose a smaller preset, a shorter dtype or fewer "
            "sessions"
        )
