"""One module's weights in one safetensors file: written whole or not at all, compared name by name on load."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from playloom.errors import CheckpointError
from playloom.files import atomic_write


def save_weights(path: Path, module: nn.Module, dtype: torch.dtype | None = None) -> None:
    """Write a module's state; floating point tensors as `dtype` if given."""
    state = {}
    for name, tensor in module.state_dict().items():
        narrow = dtype is not None and tensor.is_floating_point()
        state[name] = tensor.detach().to("cpu", dtype if narrow else tensor.dtype).contiguous()
    with atomic_write(path) as temporary:
        save_file(state, temporary)


def load_weights(path: Path, module: nn.Module) -> None:
    """Read a module's state; the numbers take the module's own dtype.

    Raises:
        CheckpointError: when the file is missing, truncated, of another config, or holds NaN; names the tensor.
    """
    with _damage_as_sentence(path):
        found = load_file(path)
    _compare(path, module.state_dict(), found)
    module.load_state_dict(found)


def check_count(path: Path, least: int) -> int:
    """Numbers that a file holds, read from its header, so that no network is built for which it has too few.

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
    """A short name for exactly these bytes: 16 hex digits of BLAKE2b."""
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
