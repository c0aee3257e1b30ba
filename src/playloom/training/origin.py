"""What a training may begin with: a model, or a tokenizer, that was trained before.

Owns finding it by a bundled model's name, a model's folder or a run's folder.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from playloom.checkpoint import Model, fingerprint, load_model, model_folder
from playloom.errors import CheckpointError
from playloom.tokenizer.frame_tokenizer import FrameTokenizer
from playloom.training.tokenizer_files import ancestors, load_tokenizer

TRANSFORMER_FILE = "transformer.safetensors"
"""What a model's folder calls its transformer's weights."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """A trained tokenizer, and the model it belongs to if it does."""

    tokenizer: FrameTokenizer
    """In eval mode on the CPU."""
    name: str
    """Fingerprint of its weights."""
    ancestors: tuple[str, ...] = ()
    """Fingerprints of the tokenizers it was trained on from, oldest first, as far as that is known."""
    model: Model | None = None
    """The whole model."""
    transformer: str | None = None
    """Fingerprint of that model's transformer file."""


def load_origin(name: str) -> Origin:
    """The model or tokenizer of a bundled model's name, a model's folder, or a run's folder.

    Raises:
        CheckpointError: when there is none, or a file is damaged.
    """
    folder = Path(name)
    if (folder / "tokenizer.json").is_file() and not (folder / "model" / "model.json").is_file():
        tokenizer, weights = load_tokenizer(folder)
        return Origin(tokenizer=tokenizer, name=weights, ancestors=ancestors(folder))
    inner = folder / "model"
    place = inner if (inner / "model.json").is_file() else model_folder(name)
    model = load_model(place)
    return Origin(
        tokenizer=model.tokenizer,
        name=fingerprint(place / "tokenizer.safetensors"),
        model=model,
        transformer=fingerprint(place / TRANSFORMER_FILE),
    )


def load_whole_origin(name: str) -> tuple[Model, Origin]:
    """As `load_origin`, of whole models only.

    Raises:
        CheckpointError: also when there is only a tokenizer.
    """
    origin = load_origin(name)
    if origin.model is None:
        raise CheckpointError(f"{name} is a tokenizer's run; a world training starts with a whole model")
    return origin.model, origin
