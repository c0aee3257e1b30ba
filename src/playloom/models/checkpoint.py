"""Models with their networks: building, their memory, loading and saving weights."""

from __future__ import annotations

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from playloom.atomic_io import atomic_write
from playloom.device import free_memory
from playloom.errors import CheckpointError, ConfigError, MissingExtraError, ResourceError
from playloom.json_io import write_json
from playloom.models.card import model_card, write_card
from playloom.models.config import ModelConfig
from playloom.models.folder import (
    FORMAT,
    MEASURED,
    OUTDATED,
    WEIGHTS,
    ModelDescription,
    check_fingerprint,
    fingerprint,
    read_model,
    replace_files,
)

try:
    import torch
except ImportError as error:
    raise MissingExtraError.of("torch", "train") from error

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from playloom.models.heads_network import PredictionHeads
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.models.transformer.kv_cache import KeyValueCache
from playloom.models.transformer.transformer import Transformer

_PROMPTS = "prompts"  # as `playloom.data.prompts.PROMPTS`, which is above this module


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class WorldModel(ModelDescription):
    """A loaded model: its config and its networks in evaluation mode."""

    tokenizer: FrameTokenizer
    transformer: Transformer
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


def build_transformer(config: ModelConfig, *, seed: int = 0) -> Transformer:
    """Build a transformer with weights from `seed`, without the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Transformer(config.transformer, config.layout)


def weight_bytes(config: ModelConfig, dtype: torch.dtype = torch.float32) -> int:
    """Return the memory of all weights: the transformer's in `dtype`, the tokenizer's in float32."""
    with torch.device("meta"):
        networks = build_transformer(config), FrameTokenizer(config.tokenizer)
    transformer, tokenizer = (sum(weight.numel() for weight in network.parameters()) for network in networks)
    return dtype.itemsize * transformer + 4 * tokenizer


def require_memory(
    config: ModelConfig,
    device: torch.device | str = "cpu",
    *,
    dtype: torch.dtype = torch.float32,
    sessions: int = 1,
    weights: int | None = None,
) -> None:
    """Raise ResourceError unless `sessions` caches and `weights` (bytes to allocate; None: all) fit on the device."""
    weights = weight_bytes(config, dtype) if weights is None else weights
    caches = sessions * KeyValueCache.bytes_each(config.transformer, config.layout.positions, dtype.itemsize)
    free = free_memory(device)
    if weights + caches > free:
        raise ResourceError(
            f"{config.name} needs {weights + caches:,} bytes on {device} ({weights:,} for weights, {caches:,} for the "
            f"context of {sessions} sessions) and {free:,} are free; choose a smaller preset, a shorter dtype or fewer "
            "sessions"
        )


def require_networks(model: ModelDescription) -> WorldModel:
    """Return the model; ConfigError when its networks are not loaded."""
    if not isinstance(model, WorldModel):
        raise ConfigError(f"the networks of {model.config.name} are not loaded: load them with load_model")
    return model


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
    check_fingerprint(path, expected_fingerprint)
    for name, tensor in found.items():
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{path}: tensor {name} holds NaN or infinity; the training run went wrong")
    try:
        module.load_state_dict(found)
    except RuntimeError as error:
        first = str(error).splitlines()[1].strip()
        raise CheckpointError(f"{path} does not fit the config beside it ({first}); export it again") from error
    module.eval().requires_grad_(False)


def save_model(
    folder: Path | str,
    model: WorldModel,
    dtype: torch.dtype | None = torch.float16,
    *,
    new_heads: bool = False,
    keep_measured: bool = False,
) -> None:
    """Write a model's folder with its `card.md`, and the prompts of the folder it was read from.

    The files replace those of a model that is there, see `replace_files`. With `new_heads` all other weights are copied
    from the folder that the model was read from. With `keep_measured` entries `MEASURED` of the card there stay if the
    weights do.
    """
    folder, source, card = Path(folder), model.folder, dict(model.card)
    with replace_files(folder, "model.json", *OUTDATED) as temporary:
        for name, module in zip(WEIGHTS, model.networks, strict=False):
            if source is not None and new_heads and module is not model.heads:
                shutil.copyfile(source / name, temporary / name)
            else:
                save_weights(temporary / name, module, dtype)
        weights = {path.name: fingerprint(path) for name in WEIGHTS if (path := temporary / name).exists()}
        with suppress(CheckpointError):  # no model is there
            if keep_measured and (before := read_model(folder)).weights == weights:
                card |= {name: value for name, value in before.card.items() if name in MEASURED}
        if source is not None and (prompts := source / _PROMPTS).is_dir() and source.resolve() != folder.resolve():
            shutil.copytree(prompts, temporary / _PROMPTS)
        write_card(temporary, model_card(model.config, card))
        content = {"format": FORMAT, "config": model.config.to_dict(), "weights": weights, "card": card}
        write_json(temporary / "model.json", content)


def load_model(folder: Path | str, device: torch.device | str = "cpu") -> WorldModel:
    """Read a model's folder, or a bundled model by name: float32, evaluation mode. Checks its files and the memory."""
    info = read_model(folder)
    config, place = info.config, info.folder
    assert place is not None
    require_memory(config, device)
    model = WorldModel(
        **vars(info),
        tokenizer=FrameTokenizer(config.tokenizer),
        transformer=build_transformer(config),
        heads=None if config.heads is None else PredictionHeads(config.heads, config.transformer.width),
    )
    for (name, expected), module in zip(info.weights.items(), model.networks, strict=True):
        load_weights(place / name, module, expected)
    return model.to(device)
