"""Run sessions of a world model: any number of them, batched frame by frame.

Frames have no watermark: it must never enter a context. Output code adds it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.device import cpu_threads
from playloom.errors import ActionError, BadInputError
from playloom.inference.backend import BackendName, choose_backend
from playloom.inference.decoder import CacheSlot
from playloom.inference.sampling import Sampling
from playloom.inference.session import (
    GenerationRequest,
    Mode,
    PendingAction,
    Prompt,
    PromptStep,
    Session,
    StepInput,
    StepResult,
)
from playloom.models.decode_order import schedule
from playloom.models.folder import ModelDescription
from playloom.models.heads import StepPrediction

if TYPE_CHECKING:
    from playloom.inference.onnx_backend import OnnxBackend
    from playloom.inference.torch_backend import TorchBackend

_T = TypeVar("_T")
Frame = tuple[NDArray[np.uint8] | None, NDArray[np.int64] | None, float | None, StepPrediction | None]
"""A frame, uint8 [H, W, 3], its codes, int64 [N], their entropy, and the heads' prediction; None: missing."""


class Engine:
    """A model that continues prompts. Any thread may call it; calls that advance sessions run one after the other.

    Invalid inputs raise BadInputError before any session moves, too little memory a ResourceError.
    """

    def __init__(self, model: ModelDescription, *, row_delay: int | None = None, backend: BackendName = "auto") -> None:
        """Make an engine for a `WorldModel`, or with onnx for a `ModelDescription`; see `open_engine`.

        `row_delay` None: raster.
        """
        self.model, self.layout = model, model.config.layout
        self.schedule = schedule(self.layout, row_delay)
        chosen = choose_backend(backend, model)
        self.backend: TorchBackend | OnnxBackend
        if chosen == "torch":
            from playloom.inference.torch_backend import TorchBackend
            from playloom.models.checkpoint import require_networks

            self.backend = TorchBackend(require_networks(model), self.schedule)
        else:
            from playloom.inference.onnx_backend import OnnxBackend

            self.backend = OnnxBackend(model, self.schedule, int8=chosen == "onnx-int8")
        self.decoder = self.backend.decoder
        self.device = self.backend.device
        """Device of the networks."""
        self._lock, self._pixels, self._threads = threading.RLock(), self.executor(), cpu_threads()

    def __repr__(self) -> str:
        delay = self.schedule.row_delay
        order = "raster" if delay == self.layout.grid_width else f"row delay {delay}"
        return f"Engine({self.model.config.name} with {self.backend.name} on {self.device}, {order})"

    @property
    def bytes_per_session(self) -> int:
        """Memory of one session's cache."""
        return int(self.decoder.rows.bytes_each)

    def step(self, inputs: Sequence[StepInput], *, entropy: bool = False, decode: bool = True) -> list[StepResult]:
        """Advance sessions by one step, as one batch, in order, each as it would be alone.

        `entropy`: measure it. `decode` False: generated frames are codes only, which is faster.
        """
        return self.step_async(inputs, entropy=entropy, decode=decode).result()

    def step_async(
        self, inputs: Sequence[StepInput], *, entropy: bool = False, decode: bool = True
    ) -> Future[list[StepResult]]:
        """Advance sessions like `step`; return a future of the results as soon as their codes are known.

        With onnxruntime, a batch that leaves a thread free decodes its frames there, while the next step may run.
        """
        with self._lock, self.backend.call():
            self._prepare(inputs)
            actions = self._actions(inputs)
            parts = zip(inputs, actions, self._frames(inputs, entropy), strict=True)
            steps = [StepResult(i.session.index, action.action_A, action.given, *frame) for i, action, frame in parts]
            beside = len(inputs) < self._threads  # else the passes need all threads
            done = (self._pixels if beside else _InlineExecutor()).submit(self._decode, steps, decode)
            if done.done():
                done.result()  # its error comes before the sessions move, so that the step can be repeated
            for item in inputs:
                session = item.session
                session.pending_action, session.finished, session.index = None, item.frame is None, session.index + 1
            return done

    def executor(self) -> Executor:
        """Return an executor for work of the model beside the caller's, with one thread.

        With torch it runs the work at once: two threads that compute slow each other down, see
        `playloom.device.run_in_temporary_thread`.
        """
        return _InlineExecutor() if self.backend.name == "torch" else ThreadPoolExecutor(1, "playloom-engine")

    def sample_action(self, sessions: Sequence[Session]) -> list[NDArray[np.uint8]]:
        """Sample each session's next action, uint8 [16], as for a policy in the real game; its next step takes it."""
        with self._lock, self.backend.call():
            inputs = [StepInput(session) for session in sessions]
            self._prepare(inputs)
            return [action.action_A.copy() for action in self._actions(inputs)]

    def prefill(self, sessions: Sequence[Session]) -> None:
        """Prefill one more step of each session's prompt, as one batch."""
        with self._lock, self.backend.call():
            _check_once(sessions)
            for session in sessions:
                self._check_open(session)
            inputs = [StepInput(s, s.pending[0].action_A) for s in sessions if not s.ready]
            self._actions([item for item in inputs if item.action_A is not None])
            for batch in self._batches(inputs):
                self.decoder.give_frame(_states(batch), np.stack([i.session.pending[0].codes_N for i in batch]))
            for item in inputs:
                item.session.pending.popleft()
                item.session.pending_action = None

    def check(self, item: StepInput) -> None:
        """Validate one input of `step`; raises what `step` would raise, and moves nothing."""
        self._check_open(item.session)
        if item.session.finished:
            raise BadInputError("the session is finished: its last step had no frame; open another one")
        if item.action_A is not None and check_values(item.action_A).ndim != 1:
            raise ActionError(f"a step has one action of 16 numbers: got an array of shape {np.shape(item.action_A)}")
        if isinstance(item.frame, np.ndarray):
            self.model.config.tokenizer.check_size(item.frame[None])
        elif item.frame is not None and item.frame != "dream":
            raise BadInputError(f"the frame of a step is {item.frame!r:.60}: expected an array, 'dream' or None")

    def open(self, prompt: Prompt, *, sampling: Sampling | None = None, seed: int = 0, prefill: bool = True) -> Session:
        """Open a session on the last steps of a prompt; `prefill` False leaves its prefill to the first step."""
        prompt = prompt.last(self.model.config.transformer.context_steps)
        session = Session(
            engine=self,
            state=self.decoder.begin(),
            sampling=sampling or Sampling(),
            source=self.backend.source(seed),
            pending=deque(map(PromptStep, [None, *prompt.actions_TA], self.codes(prompt))),
        )
        try:
            while prefill and not session.ready:
                self.prefill([session])
        except BaseException:
            self.close(session)  # the caller never gets it
            raise
        return session

    def fork(self, session: Session, seed: int | None = None) -> Session:
        """Return a branch of a session; see `Session.fork`."""
        source = None if seed is None else self.backend.source(seed)
        with self._lock, self.backend.call():
            self._check_open(session)
            source = source or self.backend.copy_source(session.source)
            state = self.decoder.fork(session.state)
            return replace(session, state=state, source=source, pending=deque(session.pending))

    def close(self, session: Session) -> None:
        """Free a session's memory."""
        with self._lock, self.backend.call():
            self._check_own(session)
            if not session.closed:
                self.decoder.close(session.state)
                session.closed = True

    def codes(self, prompt: Prompt) -> NDArray[np.int64]:
        """Return the codes of a prompt's frames, int64 [T, N]: the prompt's own, else encoded now."""
        if prompt.codes_TN is not None:
            return self._check_codes(prompt.codes_TN)
        self.model.config.tokenizer.check_size(prompt.frames_THWC)
        with self.backend.call():
            return self.backend.encode(prompt.frames_THWC)

    def frames(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Decode codes into frames, uint8 [T, H, W, 3]."""
        codes_TN = self._check_codes(codes_TN)
        with self.backend.call():
            return self.backend.decode(codes_TN)

    def dream(
        self,
        prompt: Prompt,
        *,
        mode: Mode = "world",
        steps: int = 10,
        actions_SA: NDArray[np.uint8] | None = None,
        frames_SHWC: NDArray[np.uint8] | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Iterator[StepResult]:
        """Yield the steps of one dream; the arguments are the fields of `GenerationRequest`."""
        request = GenerationRequest(
            prompt=prompt,
            mode=mode,
            steps=steps,
            actions_SA=actions_SA,
            frames_SHWC=frames_SHWC,
            sampling=sampling or Sampling(),
            seed=seed,
        )
        for (step,) in self.dream_batch([request]):
            yield step

    def dream_batch(self, requests: Sequence[GenerationRequest]) -> Iterator[list[StepResult]]:
        """Yield one step of every dream at a time; each gives the tokens that it would give alone."""
        if len({request.steps for request in requests}) != 1:
            raise BadInputError("dreams of one batch need the same number of steps")
        sessions = [self.open(r.prompt, sampling=r.sampling, seed=r.seed, prefill=False) for r in requests]
        try:
            while not all(session.ready for session in sessions):
                self.prefill(sessions)
            waiting = deque[Future[list[StepResult]]]()
            for index in range(requests[0].steps):
                pairs = zip(sessions, requests, strict=True)
                waiting.append(self.step_async([StepInput(s, *r.step(index)) for s, r in pairs]))
                while waiting and (len(waiting) > 1 or waiting[0].done()):
                    yield waiting.popleft().result()
            for steps in waiting:
                yield steps.result()
        finally:
            for session in sessions:
                session.close()

    def _check_codes(self, codes_TN: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return codes as int64 [T, N] after a check of their range: one out of range crashes CUDA."""
        codebook, slots = self.layout.vocab.codebook_size, self.layout.image_slots
        got, wanted = f"{codes_TN.dtype} {list(codes_TN.shape)}", f"integers [T, {slots}]"
        if codes_TN.ndim == 2 and codes_TN.shape[1] == slots and np.issubdtype(codes_TN.dtype, np.integer):
            if not codes_TN.size or 0 <= codes_TN.min() <= codes_TN.max() < codebook:
                return codes_TN.astype(np.int64)
            got, wanted = f"{codes_TN.min()} to {codes_TN.max()}", f"0 to {codebook - 1}"
        raise BadInputError(f"codes are of another model: got {got}, expected {wanted}")

    def _check_own(self, session: Session) -> None:
        if session.engine is not self:
            raise BadInputError("the session is of another engine; use its own")

    def _check_open(self, session: Session) -> None:
        self._check_own(session)
        if session.closed:
            raise BadInputError("the session was closed; open another one")

    def _prepare(self, inputs: Sequence[StepInput]) -> None:
        """Check all inputs before any session moves, and prefill the rest of their prompts."""
        _check_once([item.session for item in inputs])
        for item in inputs:
            self.check(item)
        for item in inputs:
            while not item.session.ready:
                self.prefill([item.session])

    def _actions(self, inputs: Sequence[StepInput]) -> list[PendingAction]:
        new = [item for item in inputs if item.session.pending_action is None]
        for batch in self._batches(new, lambda item: item.action_A is None):
            given = batch[0].action_A is not None
            if given:
                values_BA = np.stack([i.action_A for i in batch if i.action_A is not None]).astype(np.int64)
                self.decoder.give_action(_states(batch), values_BA)
            else:
                samplings = [item.session.sampling.of_actions for item in batch]
                values_BA = self.backend.dream_action(_states(batch), samplings, _sources(batch))
            for item, values_A in zip(batch, values_BA.astype(np.uint8), strict=True):
                item.session.pending_action = PendingAction(values_A, given)
        return [item.session.pending_action for item in inputs if item.session.pending_action is not None]

    def _frames(self, inputs: Sequence[StepInput], entropy: bool) -> list[Frame]:
        frames: dict[Session, Frame] = {}
        for batch in self._batches(inputs, lambda item: isinstance(item.frame, np.ndarray) or item.frame):
            given = [item.frame for item in batch if isinstance(item.frame, np.ndarray)]
            if batch[0].frame is None:
                found: Sequence[Frame] = [(None, None, None, None)] * len(batch)
            elif given:
                codes_BN = self.backend.encode(np.stack(given))
                self.decoder.give_frame(_states(batch), codes_BN)
                found = [(frame, codes_N, None, None) for frame, codes_N in zip(given, codes_BN, strict=True)]
            else:
                samplings = [item.session.sampling for item in batch]
                generated = self.backend.dream_frame(_states(batch), samplings, _sources(batch), entropy=entropy)
                found = list(zip([None] * len(batch), *generated, strict=True))
            frames |= zip((item.session for item in batch), found, strict=True)
        return [frames[item.session] for item in inputs]

    def _decode(self, steps: list[StepResult], decode: bool) -> list[StepResult]:
        codes = {i: s.codes_N for i, s in enumerate(steps) if decode and s.frame_HWC is None and s.codes_N is not None}
        if codes:
            for index, frame_HWC in zip(codes, self.frames(np.stack([*codes.values()])), strict=True):
                steps[index] = replace(steps[index], frame_HWC=frame_HWC)
        return steps

    def _batches(
        self, inputs: Sequence[StepInput], kind: Callable[[StepInput], Hashable] = lambda _: None
    ) -> Iterator[list[StepInput]]:
        """Yield the inputs of one kind at a time, in the order of their rows in the cache."""
        for wanted in dict.fromkeys(map(kind, inputs)):
            batch = [item for item in inputs if kind(item) == wanted]
            yield [batch[index] for index in self.decoder.arrange(_states(batch))]


class _InlineExecutor(Executor):
    def submit(self, work: Callable[..., _T], /, *args: Any, **options: Any) -> Future[_T]:
        future: Future[_T] = Future()
        try:
            future.set_result(work(*args, **options))
        except Exception as error:  # for whoever reads the future, as of any executor
            future.set_exception(error)
        return future


def _check_once(sessions: Sequence[Session]) -> None:
    if len({*sessions}) != len(sessions):
        raise BadInputError("a session appears twice in one batch; it takes one step at a time")


def _states(batch: Sequence[StepInput]) -> list[CacheSlot]:
    return [item.session.state for item in batch]


def _sources(batch: Sequence[StepInput]) -> list[Any]:
    return [item.session.source for item in batch]
