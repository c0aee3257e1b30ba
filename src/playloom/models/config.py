"""Config of a whole model."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from playloom.errors import ConfigError
from playloom.json_io import from_mapping, plain
from playloom.models.heads import HeadsConfig
from playloom.models.sequence import StepLayout, Vocab
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.transformer.config import TransformerConfig


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
