"""Networks run by onnxruntime on a CPU, from the graphs of `playloom export onnx`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.device import check_seed
from playloom.errors import BadInputError, CheckpointError
from playloom.inference.array_sampling import ArraySampler
from playloom.inference.backend import ChosenBackend, GeneratedFrames
from playloom.inference.batch_cache import CacheSlot
from playloom.inference.onnx_decoder import OnnxDecoder
from playloom.inference.onnx_sessions import GraphSessions
from playloom.inference.sampling import Sampling
from playloom.json_io import read_json
from playloom.models.decode_order import Schedule
from playloom.models.folder import ModelDescription, check_fingerprint
from playloom.models.heads import StepPrediction, predictions
from playloom.models.onnx import DESCRIPTION


class OnnxBackend:
    """See `Backend`. Graphs and weights are read from the model's folder."""

    device = "cpu"

    def __init__(self, model: ModelDescription, schedule: Schedule, *, int8: bool = False) -> None:
        """Load the graphs; BadInputError when the model has none, CheckpointError when they are of other weights.

        `int8`: the transformer's weights have 8 bits.
        """
        self.name: ChosenBackend = "onnx-int8" if int8 else "onnx"
        self.model, self.layout = model, model.config.layout
        if model.folder is None or not (model.folder / DESCRIPTION).is_file():
            place = model.folder or "FOLDER"
            raise BadInputError(f"{model.config.name} has no ONNX graphs; write them: playloom export onnx {place}")
        found = read_json(model.folder / DESCRIPTION, CheckpointError, "export the graphs again")
        if found.get("fingerprint") != model.fingerprint:
            raise CheckpointError(f"{model.folder}: the ONNX graphs are of other weights; playloom export onnx again")
        for name, expected in model.weights.items():
            check_fingerprint(model.folder / name, expected)
        with_heads = model.config.heads is not None
        transformer = "transformer_int8" if int8 else "transformer"
        names = ["encoder", "decoder", "step", transformer, *(["heads"] if with_heads else [])]
        self._sessions = {name: GraphSessions(model.folder / f"{name}.onnx") for name in names}
        self.decoder = OnnxDecoder(
            self._sessions[transformer],
            self._sessions["step"].together,
            model.config.transformer,
            self.layout,
            schedule,
            with_features=with_heads,
        )

    def call(self) -> AbstractContextManager[None]:
        """See `Backend`."""
        return nullcontext()

    def source(self, seed: int) -> np.random.Generator:
        """See `Backend`."""
        return np.random.default_rng(check_seed(seed))

    def copy_source(self, source: np.random.Generator) -> np.random.Generator:
        """See `Backend`."""
        return copy.deepcopy(source)

    def encode(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """See `Backend`."""
        return self._rows("encoder", "frames", frames_THWC)

    def decode(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `Backend`."""
        return self._rows("decoder", "codes", codes_TN)

    def give_frame(self, states: Sequence[CacheSlot], codes_BN: NDArray[np.int64]) -> None:
        """See `Backend`."""
        self.decoder.give_frame(states, codes_BN)

    def give_action(self, states: Sequence[CacheSlot], values_BA: NDArray[np.int64]) -> None:
        """See `Backend`."""
        self.decoder.give_action(states, values_BA)

    def dream_frame(
        self,
        states: Sequence[CacheSlot],
        samplings: Sequence[Sampling],
        sources: Sequence[np.random.Generator],
        *,
        entropy: bool,
    ) -> GeneratedFrames:
        """See `Backend`."""
        codes = self.layout.vocab.codebook_size
        draws = ArraySampler(samplings, sources, self.layout.image_slots, codes, entropy=entropy)
        codes_BN = self.decoder.dream_frame(states, draws)
        found: Sequence[StepPrediction | None] = [None] * len(states)
        if (heads := self.model.config.heads) is not None:
            (outputs_BO,) = self._sessions["heads"].together.run(None, {"features": self.decoder.features(states)})
            found = predictions(heads, outputs_BO.astype(np.float64))
        nats_B = [None] * len(states) if draws.entropy_BS is None else draws.entropy_BS.mean(axis=1).tolist()
        return GeneratedFrames(codes_BN, nats_B, found)

    def dream_action(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[np.random.Generator]
    ) -> NDArray[np.int64]:
        """See `Backend`."""
        sizes = self.layout.vocab.slot_sizes
        return self.decoder.dream_action(states, ArraySampler(samplings, sources, len(sizes), max(sizes)))

    def _rows(self, graph: str, name: str, batch: NDArray[Any]) -> NDArray[Any]:
        """Run a graph picture by picture: a batch leaves the processor's cache, and takes longer."""
        return np.concatenate(
            self._sessions[graph].run(lambda session, row: session.run(None, {name: row})[0], list(batch[:, None]))
        )
