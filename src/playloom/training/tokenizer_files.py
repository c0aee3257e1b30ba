"""A trained tokenizer by itself on disk: `tokenizer.safetensors` beside `tokenizer.json`.

The weights are rounded to float16, as the whole model will ship them, *before* anything is tokenised with them: so the
codes a transformer learns are exactly the codes its model will make.

    >>> tokenizer, name = load_tokenizer(Path("runs/tokenizer"))
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from playloom.checkpoint import fingerprint, load_weights, save_weights
from playloom.errors import CheckpointError
from playloom.files import atomic_write
from playloom.tokenizer.config import TokenizerConfig
from playloom.tokenizer.frame_tokenizer import FrameTokenizer

_WEIGHTS = "tokenizer.safetensors"
_CONFIG = "tokenizer.json"


def save_tokenizer(folder: Path, tokenizer: FrameTokenizer) -> None:
    """Write a tokenizer."""
    save_weights(folder / _WEIGHTS, tokenizer, torch.float16)
    content = {"format": 1, "config": tokenizer.config.to_dict(), "weights": fingerprint(folder / _WEIGHTS)}
    with atomic_write(folder / _CONFIG) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")


def load_tokenizer(folder: Path) -> tuple[FrameTokenizer, str]:
    """Read a tokenizer, float32 in eval mode without gradients, and its fingerprint.

    Raises:
        CheckpointError: when a file is missing, damaged or changed.
    """
    try:
        content = json.loads((folder / _CONFIG).read_text())
        config, wanted = TokenizerConfig.from_dict(content["config"]), content["weights"]
    except OSError as error:
        raise CheckpointError(f"no tokenizer at {folder} ({error.strerror}: {_CONFIG}); train one first") from error
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / _CONFIG} is damaged ({error}); train or export again") from error
    tokenizer = FrameTokenizer(config)
    load_weights(folder / _WEIGHTS, tokenizer)
    if fingerprint(folder / _WEIGHTS) != wanted:
        raise CheckpointError(f"{folder / _WEIGHTS} is not the file that {_CONFIG} names; train or export again")
    return tokenizer.eval().requires_grad_(False), wanted
