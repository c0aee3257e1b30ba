"""The config of one whole model: tokenizer, sequence and transformer that fit each other. Values only."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from playloom.errors import ConfigError, nearest
from playloom.model.config import TransformerConfig
from playloom.sequence import StepLayout, Vocab
from playloom.tokenizer.config import TokenizerConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that is needed to build a model's parts again.

    Raises:
        ConfigError: when the parts do not fit each other.
    """

    name: str
    """What the model is called in tables and manifests."""
    tokenizer: TokenizerConfig
    """Frames to codes."""
    transformer: TransformerConfig
    """Codes and actions to the next ones."""
    rows: bool = True
    """Row starts and row ends in the sequence, for parallel decoding; False is the published chain."""

    def __post_init__(self) -> None:
        if self.transformer.action_condition and not self.rows:
            raise ConfigError("action_condition needs rows=True: in a chain the first position reads an action token")

    @cached_property
    def layout(self) -> StepLayout:
        """The owner of this model's token arithmetic."""
        return StepLayout(
            grid_height=self.tokenizer.grid_height,
            grid_width=self.tokenizer.grid_width,
            vocab=Vocab(codebook_size=self.tokenizer.codebook_size),
            rows=self.rows,
        )

    @property
    def context_positions(self) -> int:
        """Positions in a full context."""
        return self.transformer.context_steps * self.layout.positions

    @property
    def parameter_count(self) -> int:
        """The transformer's parameters without positions, as papers count them."""
        return self.transformer.parameter_count(self.layout.vocab.size)

    def to_dict(self) -> dict[str, Any]:
        """JSON values that `from_dict` reads back."""
        return {
            "name": self.name,
            "rows": self.rows,
            "tokenizer": self.tokenizer.to_dict(),
            "transformer": dataclasses.asdict(self.transformer),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ModelConfig:
        """The config of a mapping read from JSON.

        Raises:
            ConfigError: for a missing or an unknown key (names the nearest one).
        """
        known = ["name", "rows", "tokenizer", "transformer"]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown model key {key!r}; {nearest(key, known)}")
        for key in ("name", "tokenizer", "transformer"):
            if key not in values:
                raise ConfigError(f"the model config has no {key!r}; expected the keys {', '.join(known)}")
        name, rows = values["name"], values.get("rows", True)
        if not isinstance(name, str) or not isinstance(rows, bool):
            raise ConfigError(
                f"the model has name {name!r:.60} and rows {rows!r:.60}; expected a text, and true or false"
            )
        return cls(
            name=name,
            rows=rows,
            tokenizer=TokenizerConfig.from_dict(values["tokenizer"]),
            transformer=_transformer_from_dict(values["transformer"]),
        )


def _transformer_from_dict(values: Mapping[str, Any]) -> TransformerConfig:
    known = [field.name for field in dataclasses.fields(TransformerConfig)]
    for key in values:
        if key not in known:
            raise ConfigError(f"unknown transformer key {key!r}; {nearest(key, known)}")
    for key in ("layers", "width", "heads"):
        if key not in values:
            raise ConfigError(f"the transformer config has no {key!r}")
    return TransformerConfig(**values)
