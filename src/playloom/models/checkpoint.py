"""Models on disk (`model.json`, `card.md`, weights of its networks), and the bundled models."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

import playloom
from playloom.atomic_io import atomic_write
from playloom.errors import CheckpointError, ConfigError, did_you_mean
from playloom.json_io import read_json, write_json
from playloom.models.card import CARD, model_card, write_card
from playloom.models.heads import PredictionHeads, build_heads
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.transformer import Transformer
from playloom.models.world_model import ModelConfig, build_transformer, require_memory

_BUNDLE = Path(__file__).parents[1] / "assets" / "models"
_FORMAT = 1
_SAMPLING = ("temperature", "top_k", "top_p", "action_temperature")
_PROMPTS = "prompts"  # as `playloom.data.prompts.PROMPTS`, which is above this module
_WEIGHTS = ("tokenizer.safetensors", "transformer.safetensors", "heads.safetensors")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WorldModel:
    """A loaded model: its config and its networks in evaluation mode."""

    config: ModelConfig
    tokenizer: FrameTokenizer
    transformer: Transformer
    card: dict[str, Any] = field(default_factory=dict)
    """Facts recorded by the training run: data seeds, updates, hardware, metrics."""
    fingerprint: str = "fresh"
    """Name of exactly these weights, for manifests."""
    folder: Path | None = None
    """Folder it was read from, with its prompts; None: it was not."""
    heads: PredictionHeads | None = None
    """Heads of `config.heads`, in float32."""

    def __repr__(self) -> str:
        millions = self.config.parameter_count / 1e6
        return f"WorldModel({self.config.name}, {millions:.1f} million parameters on {self.device})"

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Tokenizer, transformer and, if there are any, heads."""
        return (self.tokenizer, self.transformer, *(() if self.heads is None else (self.heads,)))

    @property
    def device(self) -> torch.device:
        """Device of the transformer."""
        return self.transformer.token.weight.device

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> WorldModel:
        """Move the networks in place; `dtype` is for the transformer, whose cache follows its weights."""
        self.tokenizer.to(device)
        self.transformer.to(device, dtype)
        if self.heads is not None:
            self.heads.to(device)
        return self


def bundled_models() -> list[str]:
    """Return the names of the bundled models."""
    return sorted(path.parent.name for path in _BUNDLE.glob("*/model.json"))


def model_folder(name: str | Path | None = None) -> Path:
    """Return the folder of a bundled model's name, or of a path with `model.json`; None: the first bundled model."""
    names = bundled_models()
    if name is None and names:
        return _BUNDLE / names[0]
    if name in names:
        return _BUNDLE / str(name)
    if name is not None and (Path(name) / "model.json").is_file():
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


def load_weights(path: Path, module: nn.Module, expected_fingerprint: str) -> None:
    """Read a module's state into the module's own dtype; leave the module frozen and in evaluation mode."""
    try:
        found = load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is missing or damaged ({error}); fetch or export it again") from error
    state = module.state_dict()
    for name in sorted(state.keys() ^ found.keys()):
        side = "is missing" if name in state else "is not part of this model"
        raise CheckpointError(f"{path}: tensor {name} {side}; the weights belong to another config")
    for name, tensor in state.items():
        if found[name].shape != tensor.shape:
            got, expected = list(found[name].shape), list(tensor.shape)
            raise CheckpointError(f"{path}: tensor {name}: got {got}, expected {expected}; weights of another config")
        if not torch.isfinite(found[name]).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; the training run went wrong")
    if fingerprint(path) != expected_fingerprint:
        raise CheckpointError(f"{path} is not the file that the JSON file beside it names; export it again")
    module.load_state_dict(found)
    module.eval().requires_grad_(False)


def fingerprint(path: Path) -> str:
    """Return a short name for exactly these bytes: 16 hex digits of BLAKE2b."""
    digest = hashlib.blake2b(digest_size=8)
    with path.open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def save_model(folder: Path | str, model: WorldModel, dtype: torch.dtype | None = torch.float16) -> None:
    """Write a model's folder with its `card.md`, and the prompts of the folder it was read from.

    `model.json` comes last, so a folder with it is complete.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    networks = dict(zip(_WEIGHTS, model.networks, strict=False))
    for name, module in networks.items():
        save_weights(folder / name, module, dtype)
    prompts = None if model.folder is None else model.folder / _PROMPTS
    if prompts is not None and prompts.is_dir() and prompts.resolve() != (folder / _PROMPTS).resolve():
        shutil.copytree(prompts, folder / _PROMPTS, dirs_exist_ok=True)
    content = {
        "format": _FORMAT,
        "config": model.config.to_dict(),
        "weights": {name: fingerprint(folder / name) for name in networks},
        "card": model.card,
    }
    write_card(folder, model_card(model.config, model.card))
    write_json(folder / "model.json", content)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> WorldModel:
    """Read a model's folder, or a bundled model by name: float32, evaluation mode. Checks its files and the memory."""
    folder = model_folder(folder) if folder in bundled_models() else Path(folder)
    content = _read_model_json(folder)
    try:
        config = ModelConfig.from_dict(content["config"])
        names = _WEIGHTS[: 2 if config.heads is None else 3]
        fingerprints = [str(content["weights"][name]) for name in names]
        card = _checked_card(content.get("card", {}))
    except (KeyError, TypeError, ConfigError) as error:
        cause = f"it has no {error}" if isinstance(error, KeyError) else error
        raise CheckpointError(f"{folder / 'model.json'} is damaged or of another version: {cause}") from error
    require_memory(config, device)
    model = WorldModel(
        config=config,
        tokenizer=FrameTokenizer(config.tokenizer),
        transformer=build_transformer(config),
        card=card,
        fingerprint=hashlib.blake2b(" ".join(fingerprints).encode(), digest_size=8).hexdigest(),
        folder=folder,
        heads=None if config.heads is None else build_heads(config.heads, config.transformer.width),
    )
    for name, module, expected in zip(names, model.networks, fingerprints, strict=True):
        load_weights(folder / name, module, expected)
    return model.to(device)


def update_card(folder: Path, changes: Mapping[str, Any], metrics: str) -> None:
    """Replace entries of a model's card, in `model.json` and `card.md`; `metrics` is the evaluation's table."""
    content = _read_model_json(folder)
    content["card"] = {**content.get("card", {}), **changes}
    write_card(folder, model_card(ModelConfig.from_dict(content["config"]), content["card"], metrics))
    write_json(folder / "model.json", content)


def read_card(name: str) -> str:
    """Return the card, as Markdown, of a bundled model's name, a model's folder, or the folder of a training run."""
    places = [Path(name), Path(name) / "model"] if name not in bundled_models() else []
    found = [place for place in places if (place / CARD).is_file() or (place / "model.json").is_file()]
    folder = found[0] if found else model_folder(name)
    if (folder / CARD).is_file():
        return (folder / CARD).read_text(encoding="utf-8")
    content = _read_model_json(folder)
    return model_card(ModelConfig.from_dict(content["config"]), content.get("card", {}))


def _checked_card(card: object) -> dict[str, Any]:
    """Check the recommended decode order and sampling, which may be edited by hand."""
    if not isinstance(card, dict):
        raise ConfigError(f"its card is wrong: got {card!r:.60}, expected an object")
    sampling = card.get("sampling") or {}
    if not isinstance(sampling, dict):
        raise ConfigError(f"the card's sampling is wrong: got {sampling!r:.60}, expected an object")
    for name, value in {"row_delay": card.get("row_delay"), **sampling}.items():
        if name not in ("row_delay", *_SAMPLING):
            raise ConfigError(f"the card's sampling has an unknown key {name!r}; {did_you_mean(name, _SAMPLING)}")
        if value is not None and not isinstance(value, int if name == "row_delay" else int | float):
            raise ConfigError(f"the card's {name} is wrong: got {value!r:.60}, expected a number")
    return card


def _read_model_json(folder: Path) -> dict[str, Any]:
    path = folder / "model.json"
    content = read_json(path, CheckpointError, "give a model's folder, or export the model again")
    if content.get("format") != _FORMAT:
        raise CheckpointError(
            f"{path} is of format {content.get('format')!r}; this playloom ({playloom.__version__}) reads format "
            f"{_FORMAT}: use the playloom that wrote it, or export the model again"
        )
    return content
