"""Networks run by onnxruntime on a CPU, from the graphs of `playloom export onnx`."""

from __future__ import annotations

import copy
from collections.abc import Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.device import check_seed, cpu_threads
from playloom.errors import BadInputError, CheckpointError, MissingExtraError
from playloom.inference.array_sampling import ArraySampler
from playloom.inference.backend import ChosenBackend, GeneratedFrames
from playloom.inference.batch_cache import CacheSlot
from playloom.inference.sampling import Sampling
from playloom.json_io import read_json
from playloom.models.decode_order import Schedule
from playloom.models.folder import ModelDescription, check_fingerprint
from playloom.models.heads import StepPrediction, predictions
from playloom.models.onnx import DESCRIPTION

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtraError("onnxruntime is not installed; get it with: pip install onnxruntime") from error

from playloom.inference.onnx_decoder import OnnxDecoder


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
        names = ["step", *(["heads"] if with_heads else [])]
        self._sessions = {name: _session(model.folder / f"{name}.onnx") for name in names}
        self._pictures = {name: _PictureSessions(model.folder / f"{name}.onnx") for name in ("encoder", "decoder")}
        self.decoder = OnnxDecoder(
            _session(model.folder / f"transformer{'_int8' if int8 else ''}.onnx"),
            self._sessions["step"],
            model.config.transformer,
            self.layout,
            schedule,
            with_features=with_heads,
        )

    def call(self, kind: Hashable) -> AbstractContextManager[None]:
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
        return self._pictures["encoder"].run(frames_THWC)

    def decode(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `Backend`."""
        return self._pictures["decoder"].run(codes_TN)

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
            outputs_BO = self._run("heads", features=self.decoder.features(states))
            found = predictions(heads, outputs_BO.astype(np.float64))
        nats_B = [None] * len(states) if draws.entropy_BS is None else draws.entropy_BS.mean(axis=1).tolist()
        return GeneratedFrames(codes_BN, nats_B, found)

    def dream_action(
        self, states: Sequence[CacheSlot], samplings: Sequence[Sampling], sources: Sequence[np.random.Generator]
    ) -> NDArray[np.int64]:
        """See `Backend`."""
        sizes = self.layout.vocab.slot_sizes
        return self.decoder.dream_action(states, ArraySampler(samplings, sources, len(sizes), max(sizes)))

    def _run(self, name: str, **inputs: NDArray[np.generic]) -> NDArray:  # type: ignore[type-arg]
        return self._sessions[name].run(None, inputs)[0]


class _PictureSessions:
    """A graph of the tokenizer, run picture by picture: a batch leaves the processor's cache, and takes longer.

    All threads work on one picture, or each on its own of several. Each way has a copy of the weights, and most dreams
    need one way only, so a session is made on its first use.
    """

    def __init__(self, graph: Path) -> None:
        if not graph.is_file():
            raise CheckpointError(f"{graph} is missing; playloom export onnx again")
        self._graph, self._threads = graph, ThreadPoolExecutor(cpu_threads())

    @cached_property
    def _one(self) -> onnxruntime.InferenceSession:
        return _session(self._graph)

    @cached_property
    def _each(self) -> onnxruntime.InferenceSession:
        return _session(self._graph, threads=1)

    def run(self, batch: NDArray[Any]) -> NDArray[Any]:
        """Run the graph on the rows of a batch."""
        session = self._one if len(batch) == 1 else self._each
        name = session.get_inputs()[0].name
        rows = self._threads.map(lambda row: session.run(None, {name: row})[0], batch[:, None])
        return np.concatenate(list(rows))


def _session(graph: Path, threads: int | None = None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or cpu_threads()
    # Idle threads that spin hold the cores that others need: on a busy machine a frame takes twice as long.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its classes are not public
        raise CheckpointError(f"{graph} is missing or damaged ({error}); playloom export onnx again") from error
