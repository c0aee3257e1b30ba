"""Dreaming on from a prompt: three modes, one loop over what is given and what is dreamed.

    engine = Engine(load_model(folder))
    for step in dreamer.dream(prompt, mode="world", steps=10, actions_SA=held):
        show(step.frame_HWC)

    session = dreamer.open(prompt)             # or one step at a time, for as long as you like,
    step = session.step("forward")             # alone, or with others:
    steps = dreamer.advance([StepInput(session, action_A), ...])

Frames leave unmarked: marking is the exits' business, so that the mark never enters a context.

One dream that goes on for as long as somebody wants it to; a thin handle, the dreamer does the work.

One step of many sessions: those that are given something apart from those that dream it, each kind as one batch.

Owns grouping, noise and what happens when memory runs out; decoders do the work, the tokenizer the pixels.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from playloom.actions.codec import Schema, check_values
from playloom.actions.script import Action, action_values
from playloom.device import generator
from playloom.errors import BadInputError, ResourceError
from playloom.inference.batch_cache import CacheSlot
from playloom.inference.decoder import CachedDecoder
from playloom.inference.reference_decoder import ReferenceDecoder
from playloom.inference.sampling import BatchSampler, Sampling, noise
from playloom.inference.threads import ThreadTuner
from playloom.inference.types import GenerationRequest, Mode, Prompt, StepResult
from playloom.models.checkpoint import WorldModel
from playloom.models.decode_order import schedule
from playloom.models.sequence import StepLayout


class PromptStep(NamedTuple):
    """One step of a prompt that a session has still to see."""

    codes_N: Tensor | None
    """The frame's codes; None: seen already, and to be answered."""
    values_A: Tensor | None
    """The action taken after it; None: the last frame, not yet answered."""


class PendingAction(NamedTuple):
    """The action of a step whose frame is still to come."""

    action_A: NDArray[np.uint8]
    """Action values, uint8 [16]."""
    given: bool
    """Whether it was given, not dreamed."""


class Session:
    """A dream with its own context, sampling and random source. Made by `Engine.open` or `Session.fork`."""

    def __init__(
        self,
        dreamer: Engine,
        state: CacheSlot,
        *,
        sampling: Sampling,
        source: torch.Generator,
        pending: deque[PromptStep] | None = None,
        index: int = 0,
    ) -> None:
        self.dreamer, self.state, self.sampling, self.source = dreamer, state, sampling, source
        self.pending: deque[PromptStep] = deque() if pending is None else pending
        self.index = index
        """Number of the next step, from 0."""
        self.closed = False
        self.pending_action: PendingAction | None = None
        """Set while a step is half done: the next turn goes on with this action, whatever it brings itself."""
        self.ended = False
        """Whether its last turn had no frame: nothing can follow."""

    @property
    def ready(self) -> bool:
        """Whether the whole prompt has been seen."""
        return not self.pending

    @property
    def bytes(self) -> int:
        """Memory of its cache; a fork that has not moved on shares it with its parent."""
        return 0 if self.closed else self.dreamer.bytes_per_session

    def __repr__(self) -> str:
        state = "closed" if self.closed else "ended" if self.ended else f"at step {self.index}"
        return f"Session({self.dreamer.model.config.name}, {state})"

    def step(
        self,
        action: Action | None = None,
        frame: NDArray[np.uint8] | Literal["dream"] | None = "dream",
        *,
        schema: Schema | None = None,
    ) -> StepResult:
        """Advance this session alone by one step.

        Args:
            action: "forward", {"right_stick_x": 1.0}, a `ControllerState` or action values uint8 [16]; None: the model
                chooses it.
            frame: see `StepInput`.
            schema: encoding of 16 raw numbers, `named` or `binned`.

        Raises:
            ActionError: see `playloom.actions.script.action_values`.
            PlayloomError: see `Engine.advance`.
        """
        values_A = None if action is None else action_values(action, schema)
        return self.dreamer.advance([StepInput(self, values_A, frame)])[0]

    def sample_action(self) -> NDArray[np.uint8]:
        """The action it takes next, before the frame that follows is known; see `Engine.sample_action`."""
        return self.dreamer.sample_action([self])[0]

    def prefill(self) -> bool:
        """See one step of the prompt; returns `ready`. For callers that must not wait for all of it at once."""
        self.dreamer.prefill([self])
        return self.ready

    def fork(self, seed: int | None = None) -> Session:
        """A branch that goes on from here on its own; without a seed it would draw what this one draws."""
        return self.dreamer.fork(self, seed)

    def close(self) -> None:
        """Give its memory back; closing twice does nothing."""
        self.dreamer.close(self)


class StepInput(NamedTuple):
    """What one session does next."""

    session: Session
    """Whose turn."""
    action_A: NDArray[np.uint8] | None = None
    """The action taken, uint8 [16]; None: it is dreamed."""
    frame: NDArray[np.uint8] | Literal["dream"] | None = "dream"
    """The frame that follows, uint8 [H, W, 3], where it is known; "dream"; or None: none follows, the session ends and
    can only be closed."""


Seen = tuple[NDArray[np.uint8] | None, NDArray[np.int64] | None]
"""A frame, uint8 [H, W, 3], and its codes, int64 [N]; or neither."""
_T = TypeVar("_T")


class Stepper:
    """Runs turns of sessions whose prompts have been seen."""

    def __init__(self, model: WorldModel, decoder: CachedDecoder | ReferenceDecoder) -> None:
        self.model, self.decoder, self.layout = model, decoder, model.config.layout

    def look(self, sessions: Sequence[Session]) -> None:
        """Every session sees one more step of its prompt."""
        self._by_kind(
            [StepInput(s) for s in sessions if s.pending[0].codes_N is not None], lambda _: "frame", self._show
        )
        answered = [StepInput(s) for s in sessions if s.pending and s.pending[0].codes_N is None]
        self._by_kind(answered, lambda _: "action", self._answer)

    def act(self, turns: Sequence[StepInput]) -> None:
        """Every session takes its action, given or dreamed: see `Session.pending_action`."""
        self._by_kind(turns, lambda turn: "dream" if turn.action_A is None else "given", self._act)

    def see(self, turns: Sequence[StepInput]) -> list[Seen]:
        """The frame that follows every turn: given, dreamed, or none. All of them, or it can be asked again."""
        sources = [turn.session.source for turn in turns]
        before = [source.get_state() for source in sources]
        try:
            return self._by_kind(turns, _frame_kind, self._see)
        except BaseException:
            _restore(sources, before)
            raise

    def encode(self, frames_THWC: NDArray[np.uint8]) -> Tensor:
        """Codes of frames, int64 [T, N]."""
        return self.model.tokenizer.encode(torch.tensor(np.ascontiguousarray(frames_THWC))).cpu()

    def _show(self, turns: list[StepInput]) -> list[None]:
        codes = [codes_N for turn in turns if (codes_N := turn.session.pending[0].codes_N) is not None]
        self.decoder.give_frame([turn.session.state for turn in turns], torch.stack(codes))
        for turn in turns:
            values_A = turn.session.pending.popleft().values_A
            if values_A is not None:
                turn.session.pending.appendleft(PromptStep(None, values_A))
        return [None] * len(turns)

    def _answer(self, turns: list[StepInput]) -> list[None]:
        values = [values_A for turn in turns if (values_A := turn.session.pending[0].values_A) is not None]
        self.decoder.give_action([turn.session.state for turn in turns], torch.stack(values))
        for turn in turns:
            turn.session.pending.popleft()
        return [None] * len(turns)

    def _act(self, turns: list[StepInput]) -> list[None]:
        states = [turn.session.state for turn in turns]
        taken = [turn.action_A for turn in turns if turn.action_A is not None]
        given = bool(taken)
        if given:
            self.decoder.give_action(states, torch.as_tensor(np.stack(taken).astype(np.int64)))
        else:
            how = [turn.session.sampling.of_actions for turn in turns]
            draws = _draws(turns, how, self.layout.action_slots, max(self.layout.vocab.slot_sizes))
            taken = list(self.decoder.dream_action(states, draws).cpu().numpy().astype(np.uint8))
        for turn, action_A in zip(turns, taken, strict=True):
            turn.session.pending_action = PendingAction(action_A, given)
        return [None] * len(turns)

    def _see(self, turns: list[StepInput]) -> list[Seen]:
        if turns[0].frame is None:
            return [(None, None)] * len(turns)
        states = [turn.session.state for turn in turns]
        given = [turn.frame for turn in turns if isinstance(turn.frame, np.ndarray)]
        if given:
            codes_BN = self.encode(np.stack(given))
            self.decoder.give_frame(states, codes_BN)
            return list(zip(given, codes_BN.numpy(), strict=True))
        how = [turn.session.sampling for turn in turns]
        draws = _draws(turns, how, self.layout.image_slots, self.layout.vocab.codebook_size)
        codes_BN = self.decoder.dream_frame(states, draws)
        frames_BHWC = self.model.tokenizer.decode(codes_BN, checked=False).cpu().numpy()
        return list(zip(frames_BHWC, codes_BN.cpu().numpy(), strict=True))

    def _by_kind(
        self, turns: Sequence[StepInput], kind: Callable[[StepInput], str], work: Callable[[list[StepInput]], list[_T]]
    ) -> list[_T]:
        results: dict[int, _T] = {}
        for wanted in dict.fromkeys(map(kind, turns)):
            indices = [index for index, turn in enumerate(turns) if kind(turn) == wanted]
            order = self.decoder.arrange([turns[index].session.state for index in indices])
            indices = [indices[index] for index in order]
            results.update(zip(indices, self._in_parts([turns[index] for index in indices], work), strict=True))
        return [results[index] for index in range(len(turns))]

    def _in_parts(self, turns: list[StepInput], work: Callable[[list[StepInput]], list[_T]]) -> list[_T]:
        """`work` on all turns at once or, where the memory does not suffice, on halves, with the same noise."""
        sources = [turn.session.source for turn in turns]
        before = [source.get_state() for source in sources]
        try:
            return work(turns)
        except BaseException as error:
            _restore(sources, before)
            if not isinstance(error, torch.OutOfMemoryError):
                raise
            if len(turns) == 1:
                raise ResourceError(
                    f"a step of one dream does not fit the memory of {self.model.device} beside the open sessions; "
                    "close some, or use a smaller model"
                ) from error
        half = len(turns) // 2
        return self._in_parts(turns[:half], work) + self._in_parts(turns[half:], work)


def _draws(turns: Sequence[StepInput], samplings: Sequence[Sampling], slots: int, choices: int) -> BatchSampler:
    """All noise of one step, each dream's from its own source."""
    parts = [noise(how, (slots, choices), turn.session.source) for turn, how in zip(turns, samplings, strict=True)]
    return BatchSampler(samplings, torch.stack(parts))


def _restore(sources: Sequence[torch.Generator], before: Sequence[Tensor]) -> None:
    """What is asked again draws the same noise again."""
    for source, state in zip(sources, before, strict=True):
        source.set_state(state)


def _frame_kind(turn: StepInput) -> str:
    if turn.frame is None:
        return "none"
    return "given" if isinstance(turn.frame, np.ndarray) else "dream"


class Engine:
    """A model that dreams on from prompts: any number of sessions, batched frame by frame.

    Any thread may call it; what moves sessions is done one after the other.
    """

    def __init__(self, model: WorldModel, *, row_delay: int | None = None, naive: bool = False) -> None:
        """A dreamer over a loaded model.

        Args:
            model: see `playloom.models.checkpoint.load_model`.
            row_delay: row delay of the decoding order (see `playloom.models.decode_order`); None: raster.
            naive: decode without a cache; slow, for judging the cached decoder.

        Raises:
            ConfigError: when the model cannot decode in that order.
        """
        self.model, self.naive = model, naive
        self.layout = model.config.layout
        self.schedule = schedule(self.layout, row_delay)
        kind = ReferenceDecoder if naive else CachedDecoder
        self.decoder = kind(model.transformer, self.layout, self.schedule)
        self.stepper = Stepper(model, self.decoder)
        self.tuner = ThreadTuner(model.device)
        self._moving = threading.RLock()

    def __repr__(self) -> str:
        order = (
            "raster" if self.schedule.row_delay == self.layout.grid_width else f"row delay {self.schedule.row_delay}"
        )
        return f"Engine({self.model.config.name} on {self.model.device}, {order})"

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
        """One dream, step by step; the arguments are the fields of `GenerationRequest`."""
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
        """Dreams that advance together, each as it would alone; yields one step of every dream at a time.

        Raises:
            BadInputError: when the requests ask for different numbers of steps.
        """
        if len({request.steps for request in requests}) != 1:
            raise BadInputError("dreams of one batch need the same number of steps")
        return self._dream(requests)

    def open(self, prompt: Prompt, *, sampling: Sampling | None = None, seed: int = 0, warm: bool = True) -> Session:
        """A session that goes on from a prompt.

        Args:
            prompt: only its last steps count, as many as the model's context has.
            sampling: how tokens are drawn.
            seed: same prompt, same turns, same seed: same tokens.
            warm: prefill now; False leaves it to `Session.prefill` or to the first step.

        Raises:
            BadInputError: when the prompt's codes are no codes of this model.
            ResourceError: when there is no memory for another session.
        """
        prompt = prompt.last(self.model.config.transformer.context_steps)
        codes_TN = torch.as_tensor(self.codes(prompt))
        actions = [torch.as_tensor(values_A.astype(np.int64)) for values_A in prompt.actions_TA]
        session = Session(
            self,
            self.decoder.begin(),
            sampling=sampling or Sampling(),
            source=generator(seed, self.model.device),
            pending=deque(map(PromptStep, codes_TN, [*actions, None])),
        )
        try:
            while warm and not session.ready:
                self.prefill([session])
        except BaseException:
            self.close(session)  # nobody else could
            raise
        return session

    @torch.inference_mode()
    def fork(self, session: Session, seed: int | None = None) -> Session:
        """A branch of a session; see `Session.fork`."""
        source = generator(0 if seed is None else seed, self.model.device)
        with self._moving:
            if seed is None:
                source.set_state(session.source.get_state())
            branch = Session(
                self,
                self.decoder.fork(_open(session).state),
                sampling=session.sampling,
                source=source,
                pending=deque(session.pending),
                index=session.index,
            )
            branch.pending_action, branch.ended = session.pending_action, session.ended
        return branch

    @torch.inference_mode()
    def close(self, session: Session) -> None:
        """Give a session's memory back."""
        with self._moving:
            if not session.closed:
                self.decoder.close(session.state)
                session.closed = True

    @property
    def bytes_per_session(self) -> int:
        """Memory of one session's cache."""
        return self.decoder.bytes_each

    @torch.inference_mode()
    def prefill(self, sessions: Sequence[Session]) -> None:
        """Let each session see one more step of its prompt, together; what failed can be asked for again.

        Raises:
            ResourceError: when there is no memory for it.
        """
        with self._moving, self.tuner.call(("prompt", len(sessions))):
            self.stepper.look([_open(session) for session in sessions if not session.ready])

    @torch.inference_mode()
    def advance(self, turns: Sequence[StepInput]) -> list[StepResult]:
        """One step of every session, batched; each comes out as it would alone.

        A call that failed for want of memory can be made again, for any of its sessions: an action that was taken
        stays taken, and the frame after it is the one that would have come.

        Returns:
            A step per turn, in the order of the turns.

        Raises:
            BadInputError: for a session that was closed or has ended, two turns of one session, or an action that is
                none.
            PictureError: for a given frame of another size.
            ResourceError: when a step does not fit the memory even alone.
        """
        with self._moving, self.tuner.call(_kind_of_call(turns)):
            self._act(turns)
            seen = self.stepper.see(turns)
            return [_done(turn, frame_HWC, codes_N) for turn, (frame_HWC, codes_N) in zip(turns, seen, strict=True)]

    @torch.inference_mode()
    def sample_action(self, sessions: Sequence[Session]) -> list[NDArray[np.uint8]]:
        """The action each session takes next, dreamed before the frame that follows is known.

        For whoever acts with it first and has the frame only then, as in a real game. The step is half done: the
        session's next turn goes on with this action and brings the frame. Asked again, it says the same.

        Returns:
            Action values, uint8 [16], in the order of the sessions: those that a turn without an action would take.

        Raises:
            BadInputError: for a session that was closed or has ended, or came twice.
            ResourceError: when a step does not fit the memory even alone.
        """
        turns = [StepInput(session) for session in sessions]
        with self._moving, self.tuner.call(("decide", len(turns))):
            self._act(turns)
            return [
                session.pending_action.action_A.copy() for session in sessions if session.pending_action is not None
            ]

    def _act(self, turns: Sequence[StepInput]) -> None:
        """Every session takes its action, where it has not."""
        if len({id(turn.session) for turn in turns}) != len(turns):
            raise BadInputError("a session came twice; it can take one turn at a time")
        for turn in turns:
            self.check(turn)  # all of them before any is moved
        for turn in turns:
            while not turn.session.ready:
                self.prefill([turn.session])
        self.decoder.arrange([turn.session.state for turn in turns])  # room for all, before any is moved
        self.stepper.act([turn for turn in turns if turn.session.pending_action is None])

    def check(self, turn: StepInput) -> None:
        """Raise what `advance` would raise for this turn whatever the state of things, and move nothing."""
        if _open(turn.session).ended:
            raise BadInputError("this session ended with a turn that had no frame; open another one")
        if turn.action_A is not None:
            check_values(turn.action_A)
        if isinstance(turn.frame, np.ndarray):
            self.model.tokenizer.check_size(torch.tensor(turn.frame[None]))

    @torch.inference_mode()
    def codes(self, prompt: Prompt) -> NDArray[np.int64]:
        """The codes of a prompt's frames, int64 [T, N]: its own where it brings them, else encoded now.

        Raises:
            BadInputError: when its own are no codes of this model.
            PictureError: when its frames are of another size.
        """
        if prompt.codes_TN is not None:
            return _checked(prompt.codes_TN, self.layout)
        with self.tuner.call(("encode", len(prompt.frames_THWC))):
            return self.stepper.encode(prompt.frames_THWC).numpy()

    @torch.inference_mode()
    def frames(self, codes_TN: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The frames that codes stand for, uint8 [T, H, W, 3].

        Raises:
            BadInputError: when they are no codes of this model.
        """
        codes = torch.from_numpy(_checked(codes_TN, self.layout))
        with self.tuner.call(("decode", len(codes))):
            return self.model.tokenizer.decode(codes, checked=False).cpu().numpy()

    def _dream(self, requests: Sequence[GenerationRequest]) -> Iterator[list[StepResult]]:
        sessions = [self.open(r.prompt, sampling=r.sampling, seed=r.seed, warm=False) for r in requests]
        try:
            while not all(session.ready for session in sessions):
                self.prefill(sessions)
            for index in range(requests[0].steps):
                yield self.advance(
                    [
                        StepInput(
                            session,
                            request.action(index),
                            request.frame(index) if request.mode == "policy" else "dream",
                        )
                        for session, request in zip(sessions, requests, strict=True)
                    ]
                )
        finally:
            for session in sessions:
                session.close()


def _kind_of_call(turns: Sequence[StepInput]) -> tuple[str, int]:
    """Calls that cost about the same: by what is dreamed, and for how many sessions."""
    dreamed = sum(turn.frame is not None and not isinstance(turn.frame, np.ndarray) for turn in turns)
    return ("dream", dreamed) if dreamed else ("see", len(turns))


def _open(session: Session) -> Session:
    if session.closed:
        raise BadInputError("this session was closed; open another one")
    return session


def _done(turn: StepInput, frame_HWC: NDArray[np.uint8] | None, codes_N: NDArray[np.int64] | None) -> StepResult:
    """The step a session has made; it is ready for the next."""
    session = turn.session
    assert session.pending_action is not None, "every session has taken its action"
    (action_A, given), session.pending_action = session.pending_action, None
    session.ended = turn.frame is None
    session.index += 1
    return StepResult(
        index=session.index - 1, action_A=action_A, action_given=given, frame_HWC=frame_HWC, codes_N=codes_N
    )


def _checked(codes_TN: NDArray[np.int64], layout: StepLayout) -> NDArray[np.int64]:
    """Codes that can be looked up; a GPU would not survive others."""
    codebook, wanted = layout.vocab.codebook_size, layout.image_slots
    if codes_TN.ndim != 2 or codes_TN.shape[1] != wanted or not np.issubdtype(codes_TN.dtype, np.integer):
        raise BadInputError(
            f"codes are whole numbers [steps, {wanted}]; got {codes_TN.dtype} {list(codes_TN.shape)}: are they from "
            "another model?"
        )
    if codes_TN.size and not 0 <= codes_TN.min() <= codes_TN.max() < codebook:
        raise BadInputError(
            f"codes must be in 0 to {codebook - 1}; got {codes_TN.min()} to {codes_TN.max()}: are they from another "
            "model?"
        )
    return codes_TN.astype(np.int64)
