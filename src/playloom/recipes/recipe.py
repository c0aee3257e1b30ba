"""What a recipe is: the settings of its stages as one frozen value. Runs nothing and knows no files.

>>> changed(recipe, {"world.loop.minutes": 30}).world.loop.minutes
30.0
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from playloom.errors import ConfigError
from playloom.evaluation.config import EvaluationSettings
from playloom.models.world_model import ModelConfig
from playloom.training.config import from_mapping, to_mapping
from playloom.training.tokenizer import TokenizerTrainingConfig
from playloom.training.world_model import WorldConfig


@dataclass(frozen=True, kw_only=True)
class RecordSettings:
    """What is recorded.

    Raises:
        ConfigError: when a number makes no sense.
    """

    seed: int = 0
    """The first episode's; the others follow one by one, and a seed decides its split."""
    episodes: int = 200
    """How many at most."""
    steps: int = 600
    """Length of an episode, in steps of 0.1 s."""
    first: int | None = None
    """How many must be there before the tokenizer learns; the others are recorded beside it, on the cores that a GPU
    leaves idle. None: all of them."""
    rest_minutes: float = 5.0
    """How long the others may take once the tokenizer is done; then the run goes on with what is there."""

    def __post_init__(self) -> None:
        if self.seed < 0 or min(self.episodes, self.steps) < 1 or not 1 <= self.before <= self.episodes:
            raise ConfigError(f"seed, episodes, steps and first do not make sense together: {self}")

    @property
    def before(self) -> int:
        """`first`, resolved."""
        return self.episodes if self.first is None else self.first


@dataclass(frozen=True, kw_only=True)
class TokenizerSettings:
    """On what and how the tokenizer is trained."""

    training: TokenizerTrainingConfig
    """How."""
    episodes: int = 64
    """Pictures of so many recordings are rendered and kept: the first ones for training and validation."""


@dataclass(frozen=True, kw_only=True)
class TokensSettings:
    """How recordings become codes."""

    minutes: float | None = None
    """How long rendering and encoding may take; what is not done then is left out. None: as long as it takes."""
    batch: int = 32
    """Pictures the tokenizer takes at once."""


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings:
    """What the finished model is measured on."""

    episodes: int = 10
    """Recordings of the test split, and as many held out."""
    minutes: float = 8.0
    """A piece with less time left than this does not begin to measure."""
    measure: EvaluationSettings = field(default_factory=EvaluationSettings)
    """How much is measured."""


@dataclass(frozen=True, kw_only=True)
class ExportSettings:
    """What is shipped beside the weights."""

    moments: int = 4
    """Moments of real play kept to dream on from."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what comes out."""

    name: str
    """What it and its model are called."""
    model: ModelConfig
    """Sizes of tokenizer and transformer."""
    record: RecordSettings
    """Stage `record`."""
    tokenizer: TokenizerSettings
    """Stage `tokenizer`."""
    world: WorldConfig
    """Stage `world`."""
    tokens: TokensSettings = field(default_factory=TokensSettings)
    """Stage `tokens`."""
    evaluate: EvaluateSettings = field(default_factory=EvaluateSettings)
    """Stage `evaluate`."""
    export: ExportSettings = field(default_factory=ExportSettings)
    """Stage `export`."""


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with some settings replaced, each named by its dotted path.

    Raises:
        ConfigError: for an unknown setting (names the nearest one) or a value of the wrong kind.
    """
    values = to_mapping(recipe)
    for path, value in changes.items():
        *folders, name = path.split(".")
        place = values
        for folder in folders:
            inner = place.get(folder)
            if not isinstance(inner, dict):
                raise ConfigError(f"a recipe has no settings {folder!r} (in {path!r}); see: playloom recipe --plan")
            place = inner
        place[name] = value
    return from_mapping(Recipe, values)


def parse_change(text: str) -> tuple[str, Any]:
    """`world.loop.minutes=30` to its path and value; the value is JSON, or else plain text.

    Raises:
        ConfigError: when there is no `=`.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ConfigError(f"{text!r} is not a change of a setting; write for example world.loop.minutes=30")
    try:
        return path.strip(), json.loads(value)
    except ValueError:
        return path.strip(), value.strip()
