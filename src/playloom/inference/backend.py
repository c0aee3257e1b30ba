"""Choice of what runs the networks, torch or onnxruntime, and what both return to an engine."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from playloom.device import pick_device
from playloom.errors import BadInputError, ConfigError, MissingExtraError, PlayloomError, ResourceError, did_you_mean
from playloom.models.folder import ModelDescription
from playloom.models.heads import StepPrediction
from playloom.models.onnx import DESCRIPTION

BackendName = Literal["torch", "onnx", "onnx-int8", "auto"]
"""`onnx`: onnxruntime on the CPU, without torch. `onnx-int8`: the same with weights of 8 bits, faster and less exact.
`auto`: see `choose_backend`."""
ChosenBackend = Literal["torch", "onnx", "onnx-int8"]
"""A backend that runs a model."""
CPU_BACKEND: ChosenBackend = "onnx-int8"
"""What `auto` takes on a CPU for a model with graphs. Measured in docs/engine.md."""
_OUT_OF_MEMORY = re.compile(r"out ?of ?memory|allocate memory|bad.alloc", re.IGNORECASE)


class GeneratedFrames(NamedTuple):
    """Generated frames of a batch of dreams, as codes."""

    codes_BN: NDArray[np.int64]
    nats_B: Sequence[float | None]
    """Mean entropy of the distributions that the codes were drawn from, at temperature 1; None: not measured."""
    predictions_B: Sequence[StepPrediction | None]  # predictions of the heads; None without heads


def choose_backend(name: BackendName, model: ModelDescription, device: str = "auto") -> ChosenBackend:
    """Return what runs a model.

    `auto` is torch for networks that are loaded and on a GPU; else `CPU_BACKEND`, or torch for a model without graphs.
    """
    if name not in get_args(BackendName):
        raise ConfigError(f"unknown backend {name!r}; {did_you_mean(name, get_args(BackendName))}")
    has_torch = find_spec("torch") is not None
    if name == "auto" and model.networks:
        return "torch"
    if name == "torch":
        if not has_torch:
            raise MissingExtraError.of("torch", "train")
        return "torch"
    if name != "auto":
        if device not in ("auto", "cpu"):
            raise ConfigError(f"the backend {name} runs on a CPU: got device {device}, expected cpu")
        return name
    on_cpu = pick_device(device) == "cpu"
    exported = model.folder is not None and (model.folder / DESCRIPTION).is_file()
    if exported and on_cpu and find_spec("onnxruntime") is not None:
        return CPU_BACKEND
    if not has_torch:
        raise BadInputError(
            f"{model.config.name} has no ONNX graphs, and torch is not installed; export them where it is (playloom "
            f"export onnx {model.folder}), or get it with: pip install 'playloom[train]'"
        )
    return "torch"


@contextmanager
def memory_errors(device: str) -> Iterator[None]:
    """Raise a ResourceError in place of the body's error of NumPy, torch or onnxruntime when memory is short."""
    try:
        yield
    except PlayloomError:
        raise
    except Exception as error:  # torch may be missing; on a CPU it and onnxruntime have no class for it
        if not (isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(repr(error))):
            raise
        raise ResourceError(f"out of memory on {device}: close some sessions, or use a smaller model") from error
