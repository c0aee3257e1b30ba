"""Trained tokenizers on disk, pretrained models to start from, and training facts of model cards.

Weights are rounded to float16 before anything is tokenised: transformers learn the codes of the released model.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, SLOT_NAMES
from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.data.importing.recordings import ClipEncoder
from playloom.data.recording import Encode
from playloom.device import pick_device, set_threads
from playloom.errors import CheckpointError
from playloom.json_io import read_json, write_json
from playloom.models.card import COPIES, tokenizer_card, write_card
from playloom.models.checkpoint import WorldModel, load_model, load_weights, save_weights
from playloom.models.folder import fingerprint, holds_file, model_folder, replace_files
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.task import TrainingResult

_WEIGHTS = "tokenizer.safetensors"
_CONFIG = "tokenizer.json"
_TRANSFORMER = "transformer.safetensors"


@dataclass(frozen=True, kw_only=True)
class PretrainedModel:
    """A trained tokenizer, and its model if it has one."""

    tokenizer: FrameTokenizer  # in eval mode on the CPU, without gradients
    name: str  # fingerprint of the tokenizer's weights
    ancestors: tuple[str, ...] = ()
    """Fingerprints of the tokenizers it was fine-tuned from, oldest first, as far as known."""
    model: WorldModel | None = None
    transformer: str | None = None  # fingerprint of the model's transformer


def save_tokenizer(
    folder: Path, tokenizer: FrameTokenizer, ancestors: Sequence[str] = (), card: Mapping[str, Any] | None = None
) -> None:
    """Write a tokenizer, rounded to float16, with the facts of its training and its ancestors' fingerprints."""
    with replace_files(folder, _CONFIG) as temporary:
        save_weights(temporary / _WEIGHTS, tokenizer, torch.float16)
        write_card(temporary, tokenizer_card(tokenizer.config, card or {}))
        content = {"format": 1, "config": tokenizer.config.to_dict(), "weights": fingerprint(temporary / _WEIGHTS)}
        optional = {"card": card, "ancestors": list(ancestors)}
        write_json(temporary / _CONFIG, content | {name: value for name, value in optional.items() if value})


def load_tokenizer(folder: Path) -> PretrainedModel:
    """Read a tokenizer's run."""
    if not holds_file(folder, _CONFIG):
        raise CheckpointError(f"no tokenizer at {folder} ({_CONFIG} is missing); train one first")
    content = read_json(folder / _CONFIG, CheckpointError, "train or export again")
    try:
        tokenizer = FrameTokenizer(TokenizerConfig.from_dict(content["config"]))
        name, ancestors = str(content["weights"]), tuple(str(name) for name in content.get("ancestors", ()))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder / _CONFIG} is damaged ({error}); train or export again") from error
    load_weights(folder / _WEIGHTS, tokenizer, name)
    return PretrainedModel(tokenizer=tokenizer, name=name, ancestors=ancestors)


def load_origin(name: str) -> PretrainedModel:
    """Load the model or tokenizer of a bundled model's name, a model's folder or a run's folder."""
    folder = Path(name)
    if holds_file(folder / "model", "model.json"):
        folder = folder / "model"
    elif holds_file(folder, _CONFIG):
        return load_tokenizer(folder)
    else:
        folder = model_folder(name)
    model = load_model(folder)
    name, transformer = (model.weights[file] for file in (_WEIGHTS, _TRANSFORMER))
    return PretrainedModel(tokenizer=model.tokenizer, name=name, model=model, transformer=transformer)


def array_encoder(tokenizer: FrameTokenizer) -> Encode:
    """Return the encoder of arrays of a tokenizer, on its device."""

    @torch.inference_mode()
    def encode(frames_BHWC: NDArray[np.uint8]) -> NDArray[np.uint16]:
        return tokenizer.encode(torch.from_numpy(frames_BHWC)).cpu().numpy().astype(np.uint16)

    return encode


def load_encode(name: str, threads: int | None = None) -> Encode:
    """Load the encoder of a model or a tokenizer, see `load_origin`; `threads` None: torch's default."""
    if threads is not None:
        set_threads(threads)
    return array_encoder(load_origin(name).tokenizer.to(pick_device("auto")))


def clip_encoder(name: str, threads: int | None = None) -> tuple[TokenizerConfig, ClipEncoder]:
    """Return the sizes and the encoder, for an import, of a model or a tokenizer; arguments of `load_encode`."""
    origin = load_origin(name)
    sizes = origin.tokenizer.config
    load = partial(load_encode, name, threads)
    return sizes, ClipEncoder(load=load, slots=sizes.image_slots, fingerprint=origin.name)


def training_facts(dataset: FrameDataset | TokenDataset, result: TrainingResult, config: Any) -> dict[str, Any]:
    """Return the facts of a training on `dataset` with the settings `config`, a dataclass, for a card."""
    seeds = sorted({seed for span in dataset.of_split("train") if isinstance(seed := span.meta.get("seed"), int)})
    data = {"frames": len(dataset), "episodes": len(dataset.spans), "train_seeds": seeds}
    data |= {"players": players_of(dataset)}
    data |= {f"{kind}_episodes": count for kind, count in copies_of(dataset).items()}
    threads, device = torch.get_num_threads(), pick_device(config.loop.device)
    cpu = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    return {
        "data": data,
        "updates": result.step,
        "training_seconds": round(result.elapsed, 1),
        "hardware": torch.cuda.get_device_name(device) if device.startswith("cuda") else cpu,
        "validation": result.validation,
        "settings": dataclasses.asdict(config),
    }


def default_name(dataset: FrameDataset | TokenDataset, data: Path, out: Path) -> str:
    """Return the recordings' game if they name one, else the data folder's name, or that of `out` for "data"."""
    games = {str(span.meta.get("game", "other")) for span in dataset.spans}
    if len(games) == 1 and games != {"other"}:
        return games.pop()
    name = data.resolve().name
    return name if name != "data" else out.resolve().name


def control_words(dataset: FrameDataset | TokenDataset, words: Mapping[str, str]) -> dict[str, str | None]:
    """Return what controls do, for a card: the given words by control, None for one that never moves in training."""
    moved_A = np.zeros(len(SLOT_NAMES), bool)
    for span in dataset.of_split("train"):
        moved_A |= (dataset.actions_FA[span.rows] != REST_VALUES).any(axis=0)
    unused = [name for name, moved in zip(SLOT_NAMES, moved_A, strict=True) if not moved]
    return {**words, **dict.fromkeys(unused)}


def copies_of(dataset: FrameDataset | TokenDataset) -> dict[str, int]:
    """Count the episodes that are copies of recorded ones, by kind; kinds without any are left out."""
    return {kind: count for kind in COPIES if (count := sum(bool(span.meta.get(kind)) for span in dataset.spans))}


def players_of(dataset: FrameDataset | TokenDataset) -> dict[str, int]:
    """Count training episodes by player, as far as known."""
    return dict(sorted(Counter(str(s.meta["style"]) for s in dataset.of_split("train") if s.meta.get("style")).items()))
