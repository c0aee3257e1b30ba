"""A trained tokenizer by itself on disk: `tokenizer.safetensors` beside `tokenizer.json` and `card.md`.

The weights are rounded to float16, as the whole model will ship them, *before* anything is tokenised with them: so the
codes a transformer learns are exactly the codes its model will make.

    >>> tokenizer, name = load_tokenizer(Path("runs/tokenizer"))
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from playloom.checkpoint import check_count, fingerprint, load_weights, save_weights, tokenizer_card, write_card
from playloom.errors import CheckpointError
from playloom.files import atomic_write
from playloom.tokenizer.config import TokenizerConfig
from playloom.tokenizer.frame_tokenizer import FrameTokenizer

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
    with atomic_write(folder / _CONFIG) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def load_tokenizer(folder: Path) -> tuple[FrameTokenizer, str]:
    """Read a tokenizer, float32 in eval mode without gradients, and its fingerprint.

    Raises:
        CheckpointError: when a file is missing, damaged or changed.
    """
    config, wanted, _ = _read(folder)
    check_count(folder / _WEIGHTS, config.stored_numbers)
    tokenizer = FrameTokenizer(config)
    load_weights(folder / _WEIGHTS, tokenizer)
    if fingerprint(folder / _WEIGHTS) != wanted:
        raise CheckpointError(f"{folder / _WEIGHTS} is not the file that {_CONFIG} names; train or export again")
    return tokenizer.eval().requires_grad_(False), wanted


def ancestors(folder: Path) -> tuple[str, ...]:
    """Fingerprints of the tokenizers that this one was trained on from, oldest first: its codes mean much the same.

    Raises:
        CheckpointError: when the file beside the weights is missing or damaged.
    """
    return _read(folder)[2]


def _read(folder: Path) -> tuple[TokenizerConfig, str, tuple[str, ...]]:
    try:
        content: dict[str, Any] = json.loads((folder / _CONFIG).read_text(encoding="utf-8"))
        config, weights = TokenizerConfig.from_dict(content["config"]), str(content["weights"])
        return config, weights, tuple(str(name) for name in content.get("ancestors", ()))
    except OSError as error:
        raise CheckpointError(f"no tokenizer at {folder} ({error.strerror}: {_CONFIG}); train one first") from error
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{folder / _CONFIG} is damaged ({error}); train or export again") from error
