"""Interface between an engine and what runs the networks: torch or onnxruntime. Arrays are NumPy's."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from playloom.inference.batch_cache import CacheSlot
from playloom.inference.sampling import Sampling
from playloom.models.heads import StepPrediction

BackendName = Literal["torch", "onnx", "onnx-int8", "auto"]
"""`onnx`: onnxruntime on the CPU. `onnx-int8`: the same with weights of 8 bits, faster and less exact. `auto`:
`onnx` for a model on the CPU with graphs where it is installed."""
BACKENDS = ("torch", "onnx", "onnx-int8", "auto")


class GeneratedFrames(NamedTuple):
    """Generated frames of a batch of dreams, as codes."""

    codes_BN: NDArray[np.int64]
    nats_B: Sequence[float | None]
    """Mean entropy of the distributions that the codes were drawn from, at temperature 1; None: not measured."""
    predictions_B: Sequence[StepPrediction | None]
    """Predictions of the heads; None without heads."""


class Backend(Protocol):
    """Networks of one model. States of a call are in the order of the decoder's `arrange`."""

    decoder: Any
    """States of dreams and their places in a cache: `begin`, `arrange`, `fork`, `close`, `bytes_each`."""

    def call(self, kind: Hashable) -> AbstractContextManager[None]:
        """Return the context of one engine call; `kind` groups calls of about equal cost."""

    def source(self, seed: int) -> Any:
        """Return a random generator for one dream."""

    def copy_source(self, source: Any) -> Any:
        """Return a generator that draws the same from here on."""

    def encode(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return the frames' codes, [T, N]."""

    def decode(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the frames of codes, [T, H, W, 3]."""

    def give_frame(self, states: Sequence[CacheSlot], codes_BN: NDArray[np.int64]) -> None:
        """Open a step in every dream with a given frame."""

    def give_action(self, states: Sequence[CacheSlot], values_BA: NDArray[np.int64]) -> None:
        """Complete the open steps with given actions."""

    def dream_frame(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[Any], *, entropy: bool
    ) -> GeneratedFrames:
        """Open a step in every dream with a generated frame; `entropy`: measure it."""

    def dream_action(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[Any]
    ) -> NDArray[np.int64]:
        """Complete the open steps with sampled actions; returns their values, [B, A]."""
