"""Networks run by onnxruntime on a CPU, from the graphs of `playloom export onnx`. See `StepDecoder`.

The transformer's graph writes new keys and values into NumPy arrays, in place.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from playloom.device import check_seed, cpu_threads
from playloom.errors import BadInputError, CheckpointError, MissingExtraError
from playloom.inference.backend import ChosenBackend, GeneratedFrames, memory_errors
from playloom.inference.decoder import Batch, CacheSlot, Chunk, Memory, StepDecoder
from playloom.inference.sampling import ArraySampler, Sampling
from playloom.json_io import read_json
from playloom.models.config import ModelConfig
from playloom.models.decode_order import Schedule
from playloom.models.folder import ModelDescription, check_fingerprint
from playloom.models.heads import StepPrediction, predictions
from playloom.models.onnx import DESCRIPTION

try:
    import onnxruntime
except ImportError as error:
    raise MissingExtraError("onnxruntime is not installed; get it with: pip install onnxruntime") from error

Part = TypeVar("Part")
Result = TypeVar("Result")
_NONE = np.zeros(0, np.int64)
# Upper bounds of attention scores. exp(-60) is nothing beside a visible score, and an ordinary number: of smaller ones
# the processor computes with thirty times the effort.
_VISIBLE, _HIDDEN = np.float32(np.inf), np.float32(-60.0)


class GraphSessions:
    """Sessions of one graph. Threads that each run a part of a batch do not wait for each other after every operator.

    Each way has a copy of the weights, and most dreams need one way only, so a session is made on its first use.
    """

    def __init__(self, graph: Path) -> None:
        if not graph.is_file():
            raise CheckpointError(f"{graph} is missing; playloom export onnx again")
        self._graph, self._count = graph, cpu_threads()
        self._threads = ThreadPoolExecutor(self._count)

    @cached_property
    def together(self) -> onnxruntime.InferenceSession:
        """The session whose runs have all threads."""
        return self._open(self._count)

    @cached_property
    def apart(self) -> onnxruntime.InferenceSession:
        """The session whose runs have one thread."""
        return self._open(1)

    def run(self, work: Callable[[onnxruntime.InferenceSession, Part], Result], parts: Sequence[Part]) -> list[Result]:
        """Call `work` with a session and each part of a batch, at the same time; a single part has all threads."""
        if len(parts) == 1:
            return [work(self.together, parts[0])]
        futures = [self._threads.submit(work, self.apart, part) for part in parts]
        try:
            return [future.result() for future in futures]
        finally:
            wait(futures)  # after an error too: a part that still runs would write into the next try

    def parts(self, size: int) -> list[slice]:
        """Divide a batch of a size among the threads."""
        count = min(size, self._count)
        return [slice(*pair) for pair in pairwise(size * number // count for number in range(count + 1))]

    def _open(self, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle threads that spin hold the cores that others need: on a busy machine a frame takes twice as long.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            return onnxruntime.InferenceSession(str(self._graph), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its classes are not public
            raise CheckpointError(f"{self._graph} is damaged ({error}); playloom export onnx again") from error


class _Step:
    """Inputs of the graph that stay the same for all passes of a step, bound once."""

    def __init__(self, decoder: OnnxDecoder, session: onnxruntime.InferenceSession, batch: Batch) -> None:
        self.batch, self._decoder, self._session, self.key = batch, decoder, session, decoder.step_key(batch)
        self._binding = session.io_binding()
        self._arrays: dict[str, NDArray[Any]] = {}
        config, layout = decoder.config, decoder.layout
        for layer in range(config.layers):
            for kind, arrays in (("keys", batch.cache.keys), ("values", batch.cache.values)):
                value = onnxruntime.OrtValue.ortvalue_from_numpy(arrays[layer])
                self._binding.bind_ortvalue_input(f"{kind}_{layer}", value)
                self._binding.bind_ortvalue_output(f"new_{kind}_{layer}", value)
        steps = [state.past for state in batch.states]
        inputs = {"steps": np.array(steps), "positions": decoder.schedule.order_P}
        if config.action_condition:
            inputs["previous"] = batch.previous_BA
        for name, table in zip(decoder.tables, decoder.step_session.run(decoder.tables, inputs), strict=True):
            self._bind(name, table)
        self._past: list[NDArray[np.float32]] = []
        self._start_IB = np.zeros((len(decoder.windows), len(steps)), np.int64)
        for index, window in enumerate(decoder.windows):
            seen_B = np.array([window.past_count(step) for step in steps])[:, None]
            place_S = np.arange((window.capacity + 1) * layout.positions)
            hidden_BS = (place_S < (window.capacity - seen_B) * layout.positions) | (
                place_S >= window.capacity * layout.positions
            )
            self._past.append(np.where(hidden_BS, _HIDDEN, _VISIBLE)[:, None, None])
            self._bind(f"start_{index}", self._start_IB[index])

    def run(self, chunk: Chunk, *, logits: bool = True) -> list[NDArray[np.float32]]:
        """Run the positions of a chunk; returns logits [B, R, V] (R is 0 without), then hidden states if wanted."""
        config, layout, batch = self._decoder.config, self._decoder.layout, self.batch
        row_R = chunk.row_R if logits else _NONE
        self._bind("ids", batch.tokens_BC.take(chunk.column_Q, axis=1))
        self._bind("order", chunk.order_Q)
        self._bind("rows", row_R)
        for index, (window, past_B11S) in enumerate(zip(self._decoder.windows, self._past, strict=True)):
            start = window.capacity * layout.positions
            self._start_IB[index] = start + chunk.first
            own = slice(start, start + chunk.last)
            past_B11S[..., own] = _VISIBLE
            mask = past_B11S
            if chunk.own_QL is not None:  # query heads that share keys are more queries
                queries = np.tile(chunk.own_QL, (config.heads // config.key_value_heads, 1))
                mask = np.repeat(past_B11S, len(queries), axis=2)
                mask[..., own] = np.where(queries, _VISIBLE, _HIDDEN)
            self._bind(f"mask_{index}", mask)
        shapes = {"logits": (len(row_R), layout.vocab.size)}
        if self._decoder.with_features:
            shapes["hidden"] = (len(chunk.order_Q), config.width)
        found = [np.empty((len(batch.states), *shape), np.float32) for shape in shapes.values()]
        for name, array in zip(shapes, found, strict=True):
            self._binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
        self._session.run_with_iobinding(self._binding)
        return found

    def run_and_draw(self, passes: Sequence[Chunk], draws: ArraySampler) -> list[NDArray[np.float32]]:
        """Run passes one after the other, write the tokens that each draws, and return hidden states if wanted."""
        found: list[NDArray[np.float32]] = []
        for chunk in passes:
            logits_BRV, *hidden = self.run(chunk, logits=chunk.group is not None)
            found += hidden
            if chunk.group is not None:
                first, last = chunk.group.first_id, chunk.group.last_id
                ids_BR = draws.sample(logits_BRV[..., first:last], chunk.draw_R) + first
                self.batch.tokens_BC[:, chunk.slot_R] = ids_BR
        return found

    def _bind(self, name: str, array: NDArray[Any]) -> None:
        self._arrays[name] = array  # onnxruntime reads it where it is, but does not keep it
        self._binding.bind_cpu_input(name, array)


class OnnxDecoder(StepDecoder):
    """Steps of any number of dreams with onnxruntime."""

    def __init__(
        self, sessions: GraphSessions, step_session: onnxruntime.InferenceSession, config: ModelConfig, order: Schedule
    ) -> None:
        """Make a decoder of the transformer's graphs; for a model with heads it keeps their input, see `features`."""
        super().__init__(config.transformer, config.layout, order, Memory("cpu", np.dtype(np.float32)))
        self.sessions, self.step_session = sessions, step_session
        self.tables = [value.name for value in step_session.get_outputs()]
        self.windows = list(dict.fromkeys(self.rows.cache.windows))
        self.with_features = config.heads is not None
        self._features_BF = np.zeros((0, 2 * config.transformer.width), np.float32)
        self._steps: dict[int, _Step] = {}  # those that were opened last, by their first row

    def dream_frame(self, states: Sequence[CacheSlot], draws: ArraySampler) -> NDArray[np.int64]:
        """Open a step in every dream with a generated frame; returns its codes [B, N]."""
        batch = self.open_step(states)
        self._steps = {}

        def run(session: onnxruntime.InferenceSession, part: slice) -> list[NDArray[np.float32]]:
            step = self._step(session, states[part])
            own = draws if len(step.batch.states) == len(states) else draws.part(part)
            return step.run_and_draw(self.plan.frame_passes, own)

        parts = self.sessions.run(run, self.sessions.parts(len(states)))
        if self.with_features:
            hidden_BQD = np.concatenate([np.concatenate(hidden, axis=1) for hidden in parts])
            self._features_BF = np.concatenate([hidden_BQD.mean(axis=1), hidden_BQD[:, -1]], axis=-1)
        return batch.tokens_BC[:, : self.layout.image_slots].copy()

    def features(self, states: Sequence[CacheSlot]) -> NDArray[np.float32]:
        """Return the heads' input [B, F] after the frames that `dream_frame` has just generated."""
        assert len(self._features_BF) == len(states)
        return self._features_BF

    def run_given(self, batch: Batch, chunk: Chunk) -> None:
        """See `StepDecoder.run_given`."""
        if chunk is self.plan.frame:
            self._steps = {}

        def run(session: onnxruntime.InferenceSession, part: slice) -> None:
            self._step(session, batch.states[part]).run(chunk, logits=False)

        self.sessions.run(run, self.sessions.parts(len(batch.states)))

    def run_passes(self, batch: Batch, passes: Sequence[Chunk], draws: ArraySampler) -> None:
        """See `StepDecoder.run_passes`."""
        _Step(self, self.sessions.together, batch).run_and_draw(passes, draws)

    def _step(self, session: onnxruntime.InferenceSession, states: Sequence[CacheSlot]) -> _Step:
        """Return the step that was opened last, if it is of the same dreams in the same rows, else another."""
        batch = self.batch(states)
        step = self._steps.get(batch.first)
        if step is None or step.key != self.step_key(batch):
            step = self._steps[batch.first] = _Step(self, session, batch)
        return step

    def step_key(self, batch: Batch) -> tuple[Any, ...]:
        """Return what must be equal for a step to go on in the same memory."""
        return self.rows.generation, batch.first, list(batch.states), [state.past for state in batch.states]


class OnnxBackend:
    """Networks of one model, as of `TorchBackend`. Graphs and weights are read from the model's folder."""

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
        transformer = "transformer_int8" if int8 else "transformer"
        names = ["encoder", "decoder", "step", transformer, *([] if model.config.heads is None else ["heads"])]
        self._sessions = {name: GraphSessions(model.folder / f"{name}.onnx") for name in names}
        step_session = self._sessions["step"].together
        self.decoder = OnnxDecoder(self._sessions[transformer], step_session, model.config, schedule)

    def call(self) -> AbstractContextManager[None]:
        """See `TorchBackend`."""
        return memory_errors(self.device)

    def source(self, seed: int) -> np.random.Generator:
        """See `TorchBackend`."""
        return np.random.default_rng(check_seed(seed))

    def copy_source(self, source: np.random.Generator) -> np.random.Generator:
        """See `TorchBackend`."""
        return copy.deepcopy(source)

    def encode(self, frames_THWC: NDArray[np.uint8]) -> NDArray[np.int64]:
        """See `TorchBackend`."""
        return self._rows("encoder", "frames", frames_THWC)

    def decode(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """See `TorchBackend`."""
        return self._rows("decoder", "codes", codes_TN)

    def dream_frame(
        self,
        states: Sequence[CacheSlot],
        samplings: Sequence[Sampling],
        sources: Sequence[np.random.Generator],
        *,
        entropy: bool,
    ) -> GeneratedFrames:
        """See `TorchBackend`."""
        codes = self.layout.vocab.codebook_size
        draws = ArraySampler(samplings, sources, self.layout.image_slots, codes, entropy=entropy, risk=self._risk)
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
        """See `TorchBackend`."""
        sizes = self.layout.vocab.slot_sizes
        return self.decoder.dream_action(states, ArraySampler(samplings, sources, len(sizes), max(sizes)))

    def _risk(self, logits_BRK: NDArray[np.float32]) -> NDArray[np.float32]:
        (risk_BRK,) = self._risk_sessions.apart.run(None, {"logits": logits_BRK})
        return cast("NDArray[np.float32]", risk_BRK)

    @cached_property
    def _risk_sessions(self) -> GraphSessions:
        assert self.model.folder is not None
        return GraphSessions(self.model.folder / "risk.onnx")

    def _rows(self, graph: str, name: str, batch: NDArray[Any]) -> NDArray[Any]:
        """Run a graph picture by picture: a batch leaves the processor's cache, and takes longer."""
        return np.concatenate(
            self._sessions[graph].run(lambda session, row: session.run(None, {name: row})[0], list(batch[:, None]))
        )
