"""Trained tokenizers on disk, pretrained models to start from, and training facts of model cards.

A run's tokenizer is `tokenizer.safetensors` beside `tokenizer.json` and `card.md`. Weights are rounded to float16
before anything is tokenised, so that a transformer learns exactly the codes of the released model.

    >>> tokenizer, name = load_tokenizer(Path("runs/tokenizer"))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.errors import CheckpointError
from playloom.json_io import read_json, to_mapping, write_json
from playloom.models.card import tokenizer_card, write_card
from playloom.models.checkpoint import (
    WorldModel,
    fingerprint,
    load_model,
    load_weights,
    model_folder,
    save_weights,
)
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.task import LoopResult

_WEIGHTS = "tokenizer.safetensors"
_CONFIG = "tokenizer.json"


def save_tokenizer(
    folder: Path, tokenizer: FrameTokenizer, ancestors: Sequence[str] = (), card: Mapping[str, Any] | None = None
) -> None:
    """Write a tokenizer and its `card.md`.

    Args:
        folder: where to.
        tokenizer: the weights are rounded to float16.
        ancestors: fingerprints of the tokenizers it was trained on from, oldest first.
        card: what its training recorded.
    """
    save_weights(folder / _WEIGHTS, tokenizer, torch.float16)
    content: dict[str, Any] = {
        "format": 1,
        "config": tokenizer.config.to_dict(),
        "weights": fingerprint(folder / _WEIGHTS),
    }
    if card:
        content["card"] = dict(card)
    write_card(folder, tokenizer_card(tokenizer.config, card or {}))
    if ancestors:
        content["ancestors"] = list(ancestors)
    write_json(folder / _CONFIG, content)


def load_tokenizer(folder: Path) -> tuple[FrameTokenizer, str]:
    """Read a tokenizer, float32 in eval mode without gradients, and its fingerprint.

    Raises:
        CheckpointError: when a file is missing, damaged or changed.
    """
    config, wanted, _ = _read(folder)
    tokenizer = FrameTokenizer(config)
    load_weights(folder / _WEIGHTS, tokenizer, wanted)
    return tokenizer, wanted


def ancestors(folder: Path) -> tuple[str, ...]:
    """Return the fingerprints of the tokenizers this one was fine-tuned from, oldest first.

    Raises:
        CheckpointError: when the file beside the weights is missing or damaged.
    """
    return _read(folder)[2]


def _read(folder: Path) -> tuple[TokenizerConfig, str, tuple[str, ...]]:
    if not (folder / _CONFIG).exists():
        raise CheckpointError(f"no tokenizer at {folder} ({_CONFIG} is missing); train one first")
    content = read_json(folder / _CONFIG, CheckpointError, "train or export again")
    try:
        config, weights = TokenizerConfig.from_dict(content["config"]), str(content["weights"])
        return config, weights, tuple(str(name) for name in content.get("ancestors", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / _CONFIG} is damaged ({error}); train or export again") from error


TRANSFORMER_FILE = "transformer.safetensors"
"""File of the transformer's weights in a model's folder."""


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A trained tokenizer, and its model if it has one."""

    tokenizer: FrameTokenizer
    """In eval mode on the CPU."""
    name: str
    """Fingerprint of the tokenizer's weights."""
    ancestors: tuple[str, ...] = ()
    """Fingerprints of the tokenizers it was fine-tuned from, oldest first, as far as known."""
    model: WorldModel | None = None
    transformer: str | None = None
    """Fingerprint of the model's transformer file."""


def load_origin(name: str) -> PretrainedModel:
    """Load the model or tokenizer of a bundled model's name, a model's folder or a run's folder.

    Raises:
        CheckpointError: when there is none, or a file is damaged.
    """
    folder = Path(name)
    if (folder / "tokenizer.json").is_file() and not (folder / "model" / "model.json").is_file():
        tokenizer, weights = load_tokenizer(folder)
        return PretrainedModel(tokenizer=tokenizer, name=weights, ancestors=ancestors(folder))
    inner = folder / "model"
    place = inner if (inner / "model.json").is_file() else model_folder(name)
    model = load_model(place)
    return PretrainedModel(
        tokenizer=model.tokenizer,
        name=fingerprint(place / "tokenizer.safetensors"),
        model=model,
        transformer=fingerprint(place / TRANSFORMER_FILE),
    )


def load_whole_origin(name: str) -> tuple[WorldModel, PretrainedModel]:
    """Load a whole model as `load_origin` does.

    Raises:
        CheckpointError: also when there is only a tokenizer.
    """
    origin = load_origin(name)
    if origin.model is None:
        raise CheckpointError(f"{name} is a tokenizer's run; a world training starts with a whole model")
    return origin.model, origin


def training_facts(store: FrameDataset | TokenDataset, outcome: LoopResult, config: Any) -> dict[str, Any]:
    """Return the facts of a finished training, as JSON values.

    Args:
        store: what it learned from.
        outcome: how it ended.
        config: its settings, a dataclass.
    """
    seeds = [int(span.meta["seed"]) for span in store.of_split("train") if "seed" in span.meta]
    return {
        "data": {
            "frames": len(store),
            "episodes": len(store.spans),
            "train_seeds": seeds,
            "players": players_of(store),
        },
        "updates": outcome.step,
        "training_seconds": round(outcome.elapsed, 1),
        "hardware": hardware(),
        "validation": outcome.validation,
        "settings": to_mapping(config),
    }


def players_of(store: FrameDataset | TokenDataset) -> dict[str, int]:
    """Count training episodes by player, as far as known."""
    return dict(sorted(Counter(str(s.meta["style"]) for s in store.of_split("train") if s.meta.get("style")).items()))


def hardware() -> str:
    """Describe the training machine in a few words."""
    threads = torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
