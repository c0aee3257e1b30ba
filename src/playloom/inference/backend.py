"""Interface between an engine and what runs the networks: torch or onnxruntime. Arrays are NumPy's."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from importlib.util import find_spec
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from playloom.device import pick_device
from playloom.errors import BadInputError, ConfigError, MissingExtraError, did_you_mean
from playloom.inference.decoder import CacheSlot
from playloom.inference.sampling import Sampling
from playloom.models.folder import ModelDescription
from playloom.models.heads import StepPrediction
from playloom.models.onnx import DESCRIPTION

BackendName = Literal["torch", "onnx", "onnx-int8", "auto"]
"""`onnx`: onnxruntime on the CPU, without torch. `onnx-int8`: the same with weights of 8 bits, faster and less exact.
`auto`: see `choose_backend`."""
BACKENDS = ("torch", "onnx", "onnx-int8", "auto")
ChosenBackend = Literal["torch", "onnx", "onnx-int8"]
"""A backend that runs a model."""
CPU_BACKEND: ChosenBackend = "onnx-int8"
"""What `auto` takes on a CPU for a model with graphs. Measured in docs/engine.md."""


class GeneratedFrames(NamedTuple):
    """Generated frames of a batch of dreams, as codes."""

    codes_BN: NDArray[np.int64]
    nats_B: Sequence[float | None]
    """Mean entropy of the distributions that the codes were drawn from, at temperature 1; None: not measured."""
    predictions_B: Sequence[StepPrediction | None]
    """Predictions of the heads; None without heads."""


def choose_backend(name: BackendName, model: ModelDescription, device: str = "auto") -> ChosenBackend:
    """Return what runs a model.

    `auto` is torch for networks that are loaded and on a GPU; else `CPU_BACKEND`, or torch for a model without graphs.
    """
    if name not in BACKENDS:
        raise ConfigError(f"unknown backend {name!r}; {did_you_mean(name, BACKENDS)}")
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


class Backend(Protocol):
    """Networks of one model. States of a call are in the order of the decoder's `arrange`."""

    name: ChosenBackend
    device: str
    decoder: Any
    """A `StepDecoder`, with `give_frame` and `give_action`."""

    def call(self) -> AbstractContextManager[None]:
        """Return the context of one engine call."""

    def source(self, seed: int) -> Any:
        """Return a random generator for one dream."""

    def copy_source(self, source: Any) -> Any:
        """Return a generator that draws the same from here on."""

    def encode(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the frames' codes, [T, N]."""

    def decode(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the frames of codes, [T, H, W, 3]."""

    def dream_frame(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[Any], *, entropy: bool
    ) -> GeneratedFrames:
        """Open a step in every dream with a generated frame; `entropy`: measure it."""

    def dream_action(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[Any]
    ) -> NDArray[np.int64]:
        """Complete the open steps with sampled actions; returns their values, [B, A]."""
