"""A model's folder (`model.json`, `card.md`, weights of tokenizer and transformer), and the bundled models.

model = load_model("arena-live")
model.tokenizer.encode(frames)

Weights are written atomically and compared name by name on load.

    model = load_model(Path("src/playloom/assets/models/arena-live"))
    model.tokenizer.encode(frames)
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import playloom
from playloom.atomic_io import atomic_write
from playloom.errors import CheckpointError, ConfigError, did_you_mean
from playloom.json_io import read_json, write_json
from playloom.models.card import CARD, model_card, write_card
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.transformer import Transformer
from playloom.models.world_model import (
    ModelConfig,
    build_tokenizer,
    build_transformer,
    require_memory,
    transformer_parameters,
)

_BUNDLE = Path(__file__).parents[1] / "assets" / "models"


def bundled_models() -> list[str]:
    """Return the names of the bundled models."""
    return sorted(path.parent.name for path in _BUNDLE.glob("*/model.json"))


def model_folder(name: str | Path | None = None) -> Path:
    """Return the folder of a bundled model's name, or of a path with `model.json`; None: the first bundled model.

    Raises:
        CheckpointError: when there is no such model; names the nearest one.
    """
    names = bundled_models()
    if name is None:
        if not names:
            raise CheckpointError("this installation bundles no model; name a model folder")
        return _BUNDLE / names[0]
    if name in names:
        return _BUNDLE / name
    if (Path(name) / "model.json").is_file():
        return Path(name)
    raise CheckpointError(
        f"{str(name)!r} is neither a folder with model.json nor a bundled model; {did_you_mean(str(name), names)}"
    )


def save_weights(path: Path, module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Write a module's state; floating point tensors as `dtype` if given."""
    state = {}
    for name, tensor in module.state_dict().items():
        narrow = dtype is not None and tensor.is_floating_point()
        state[name] = tensor.detach().to("cpu", dtype if narrow else tensor.dtype).contiguous()
    with atomic_write(path) as temporary:
        save_file(state, temporary)


def load_weights(path: Path, module: nn.Module) -> None:
    """Read a module's state into the module's own dtype.

    Raises:
        CheckpointError: when the file is missing, truncated, of another config, or holds NaN; names the tensor.
    """
    with _damage_as_sentence(path):
        found = load_file(path)
    _compare(path, module.state_dict(), found)
    module.load_state_dict(found)


def check_count(path: Path, least: int) -> int:
    """Compare a file's number of weights, from its header, before a network is built.

    Args:
        path: a safetensors file.
        least: numbers that the network of the config has.

    Raises:
        CheckpointError: when the file is missing or damaged, or holds fewer.
    """
    with _damage_as_sentence(path), safe_open(path, framework="pt") as file:
        count = sum(math.prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    if count < least:
        raise CheckpointError(
            f"{path} holds {count:,} numbers, but its config describes a network of {least:,}; the weights belong "
            "to another config"
        )
    return count


def fingerprint(path: Path) -> str:
    """Return a short name for exactly these bytes: 16 hex digits of BLAKE2b."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


@contextmanager
def _damage_as_sentence(path: Path) -> Iterator[None]:
    if not path.is_file():
        raise CheckpointError(f"there are no weights at {path}; expected a safetensors file")
    try:
        yield
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is truncated or damaged ({error}); fetch or export it again") from error


def _compare(path: Path, expected: dict[str, Tensor], found: dict[str, Tensor]) -> None:
    for name in sorted(expected.keys() ^ found.keys()):
        side = "is missing" if name in expected else "is not part of this model"
        raise CheckpointError(f"{path}: tensor {name} {side}; the weights belong to another config")
    for name, tensor in expected.items():
        if found[name].shape != tensor.shape:
            came, wanted = list(found[name].shape), list(tensor.shape)
            raise CheckpointError(f"{path}: tensor {name} is {came}, expected {wanted}; weights of another config")
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; the training run went wrong")


_FORMAT = 1
_SAMPLING = ("temperature", "top_k", "top_p", "action_temperature")
_WEIGHTS = ("tokenizer.safetensors", "transformer.safetensors")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WorldModel:
    """A loaded model: its config and its two networks in evaluation mode."""

    config: ModelConfig
    tokenizer: FrameTokenizer
    """Frames to codes and back."""
    transformer: Transformer
    """Codes and actions to the next ones."""
    card: dict[str, Any] = field(default_factory=dict)
    """Facts recorded by the training run: data seeds, updates, hardware, metrics."""
    fingerprint: str = "fresh"
    """Name of exactly these weights, for manifests."""

    def __repr__(self) -> str:
        millions = self.config.parameter_count / 1e6
        return f"WorldModel({self.config.name}, {millions:.1f} million parameters on {self.device})"

    @property
    def device(self) -> torch.device:
        """Device of the transformer."""
        return self.transformer.token.weight.device

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> WorldModel:
        """Return the model with its networks moved; `dtype` is for the transformer, whose cache follows its weights."""
        self.tokenizer.to(device)
        self.transformer.to(device, dtype)
        return self


def save_model(folder: Path | str, model: WorldModel, dtype: torch.dtype | None = torch.float16) -> None:
    """Write a model's folder with its `card.md`; `model.json` comes last, so a folder with it is complete."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, module in zip(_WEIGHTS, (model.tokenizer, model.transformer), strict=True):
        save_weights(folder / name, module, dtype)
    content = {
        "format": _FORMAT,
        "config": model.config.to_dict(),
        "weights": {name: fingerprint(folder / name) for name in _WEIGHTS},
        "card": model.card,
    }
    write_card(folder, model_card(model.config, model.card))
    write_json(folder / "model.json", content)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> WorldModel:
    """Read a model's folder: float32, evaluation mode.

    Args:
        folder: a bundled model's name, or a folder.
        device: torch device to load to.

    Raises:
        CheckpointError: when a file is missing, truncated, changed, or of another config; names it.
        ResourceError: when the device has not the memory for it and one dream.
    """
    folder = model_folder(folder) if folder in bundled_models() else Path(folder)
    content = _read_model_json(folder / "model.json")
    try:
        config = ModelConfig.from_dict(content["config"])
        wanted = {name: str(content["weights"][name]) for name in _WEIGHTS}
        card = _checked_card(content.get("card", {}))
        numbers = (config.tokenizer.stored_numbers, transformer_parameters(config))
        held = sum(check_count(folder / name, count) for name, count in zip(_WEIGHTS, numbers, strict=True))
        require_memory(config, device, weights=4 * held)
        tokenizer, transformer = build_tokenizer(config), build_transformer(config)
    except (KeyError, TypeError, ConfigError) as error:
        cause = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(
            f"{folder / 'model.json'} does not describe a model this version knows: {cause}"
        ) from error
    model = WorldModel(
        config=config, tokenizer=tokenizer, transformer=transformer, card=card, fingerprint=_both(wanted)
    )
    for name, module in zip(_WEIGHTS, (model.tokenizer, model.transformer), strict=True):
        load_weights(folder / name, module)
        if fingerprint(folder / name) != wanted[name]:
            raise CheckpointError(f"{folder / name} is not the file that model.json names; export the model again")
        module.eval().requires_grad_(False)
    return model.to(device)


def update_card(folder: Path, changes: Mapping[str, Any], figures: str) -> None:
    """Change entries of a model's card, in `model.json` and `card.md`.

    Args:
        folder: the model's folder.
        changes: entries that replace those of the same name.
        figures: the evaluation's table, as Markdown.

    Raises:
        CheckpointError: when the folder holds no model.
    """
    content = read_json(folder / "model.json", CheckpointError, "give a model's folder")
    content["card"] = {**content.get("card", {}), **changes}
    write_card(folder, model_card(ModelConfig.from_dict(content["config"]), content["card"], figures))
    write_json(folder / "model.json", content)


def read_card(name: str) -> str:
    """Return the card of a model, as Markdown.

    Args:
        name: a bundled model's name, a model's folder, or the folder of a training run.

    Raises:
        CheckpointError: when there is no such model, or its files cannot be read.
    """
    places = [Path(name), Path(name) / "model"] if name not in bundled_models() else []
    found = [place for place in places if (place / CARD).is_file() or (place / "model.json").is_file()]
    folder = found[0] if found else model_folder(name)
    try:
        if (folder / CARD).is_file():
            return (folder / CARD).read_text(encoding="utf-8")
        content = _read_model_json(folder / "model.json")
        return model_card(ModelConfig.from_dict(content["config"]), content.get("card") or {})
    except CheckpointError:
        raise
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the card in {folder} cannot be read: {error}; export the model again") from error


def _both(fingerprints: Mapping[str, str]) -> str:
    """One name for the weights of both networks."""
    return hashlib.blake2b(" ".join(fingerprints[name] for name in _WEIGHTS).encode(), digest_size=8).hexdigest()


def _checked_card(card: object) -> dict[str, Any]:
    """The card, with the types of the fields that code reads checked."""
    if not isinstance(card, dict):
        raise ConfigError(f"its card is {card!r}; expected an object")
    row_delay, sampling = card.get("row_delay"), card.get("sampling") or {}
    if row_delay is not None and (not isinstance(row_delay, int) or isinstance(row_delay, bool)):
        raise ConfigError(f"its card's row_delay is {row_delay!r}; expected a whole number")
    if not isinstance(sampling, dict):
        raise ConfigError(f"its card's sampling is {sampling!r}; expected an object")
    for name, value in sampling.items():
        if name not in _SAMPLING:
            raise ConfigError(f"its card's sampling holds {name!r}; {did_you_mean(name, _SAMPLING)}")
        if value is not None and not isinstance(value, (int, float)):
            raise ConfigError(f"its card's {name} is {value!r}; expected a number")
    return card


def _read_model_json(path: Path) -> dict[str, Any]:
    content = read_json(path, CheckpointError, "give a model's folder, or export the model again")
    if "format" not in content:
        raise CheckpointError(f"{path} does not describe a playloom model; give the folder that a training left")
    if content["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} is of format {content['format']!r}; this playloom ({playloom.__version__}) reads format "
            f"{_FORMAT}: take the playloom that wrote it, or export the model again"
        )
    return content
