"""Dreaming on from a prompt: three modes, one loop over what is given and what is dreamed.

    dreamer = Dreamer(load_model(folder))
    for step in dreamer.dream(prompt, mode="world", steps=10, actions_SA=held):
        show(step.frame_HWC)

    session = dreamer.open(prompt)             # or one step at a time, for as long as you like,
    step = session.step(action_A)              # alone or with others: dreamer.advance([Turn(session, action_A), ...])

Frames leave unmarked: marking is the exits' business, so that the mark never enters a context.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.actions.codec import check_values
from playloom.checkpoint import Model
from playloom.engine.cached import CachedDecoder
from playloom.engine.naive import NaiveDecoder
from playloom.engine.requests import DreamRequest, DreamStep, Mode, Prompt
from playloom.engine.sampling import Sampling
from playloom.engine.session import PromptStep, Session, Turn
from playloom.engine.stepper import Stepper
from playloom.engine.threads import ThreadTuner
from playloom.errors import BadInputError
from playloom.runtime import generator
from playloom.sequence import StepLayout, schedule


class Dreamer:
    """A model that dreams on from prompts: any number of sessions, batched frame by frame.

    Any thread may call it; what moves sessions is done one after the other.
    """

    def __init__(self, model: Model, *, lag: int | None = None, naive: bool = False) -> None:
        """A dreamer over a loaded model.

        Args:
            model: see `playloom.checkpoint.load_model`.
            lag: row lag of the decoding order (see `playloom.sequence.schedule`); None: raster.
            naive: decode without a cache; slow, for judging the cached decoder.

        Raises:
            ConfigError: when the model cannot decode in that order.
        """
        self.model, self.naive = model, naive
        self.layout = model.config.layout
        self.schedule = schedule(self.layout, lag)
        kind = NaiveDecoder if naive else CachedDecoder
        self.decoder = kind(model.transformer, self.layout, self.schedule)
        self.stepper = Stepper(model, self.decoder)
        self.tuner = ThreadTuner(model.device)
        self._moving = threading.RLock()

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
    ) -> Iterator[DreamStep]:
        """One dream, step by step; the arguments are the fields of `DreamRequest`."""
        request = DreamRequest(
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

    def dream_batch(self, requests: Sequence[DreamRequest]) -> Iterator[list[DreamStep]]:
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
            warm: see the whole prompt now. False: leave it to `Session.warm`, a step at a time, or to the first turn.

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
                self.warm([session])
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
            branch.taken, branch.ended = session.taken, session.ended
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
    def warm(self, sessions: Sequence[Session]) -> None:
        """Let each session see one more step of its prompt, together; what failed can be asked for again.

        Raises:
            ResourceError: when there is no memory for it.
        """
        with self._moving, self.tuner.call(("prompt", len(sessions))):
            self.stepper.look([_open(session) for session in sessions if not session.ready])

    @torch.inference_mode()
    def advance(self, turns: Sequence[Turn]) -> list[DreamStep]:
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
    def decide(self, sessions: Sequence[Session]) -> list[NDArray[np.uint8]]:
        """The action each session takes next, dreamed before the frame that follows is known.

        For whoever acts with it first and has the frame only then, as in a real game. The step is half done: the
        session's next turn goes on with this action and brings the frame. Asked again, it says the same.

        Returns:
            Action values, uint8 [16], in the order of the sessions: those that a turn without an action would take.

        Raises:
            BadInputError: for a session that was closed or has ended, or came twice.
            ResourceError: when a step does not fit the memory even alone.
        """
        turns = [Turn(session) for session in sessions]
        with self._moving, self.tuner.call(("decide", len(turns))):
            self._act(turns)
            return [session.taken.action_A.copy() for session in sessions if session.taken is not None]

    def _act(self, turns: Sequence[Turn]) -> None:
        """Every session takes its action, where it has not."""
        if len({id(turn.session) for turn in turns}) != len(turns):
            raise BadInputError("a session came twice; it can take one turn at a time")
        for turn in turns:
            self.check(turn)  # all of them before any is moved
        for turn in turns:
            while not turn.session.ready:
                self.warm([turn.session])
        self.decoder.arrange([turn.session.state for turn in turns])  # room for all, before any is moved
        self.stepper.act([turn for turn in turns if turn.session.taken is None])

    def check(self, turn: Turn) -> None:
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

    def _dream(self, requests: Sequence[DreamRequest]) -> Iterator[list[DreamStep]]:
        sessions = [self.open(r.prompt, sampling=r.sampling, seed=r.seed, warm=False) for r in requests]
        try:
            while not all(session.ready for session in sessions):
                self.warm(sessions)
            for index in range(requests[0].steps):
                yield self.advance(
                    [
                        Turn(
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


def _kind_of_call(turns: Sequence[Turn]) -> tuple[str, int]:
    """Calls that cost about the same: by what is dreamed, and for how many sessions."""
    dreamed = sum(turn.frame is not None and not isinstance(turn.frame, np.ndarray) for turn in turns)
    return ("dream", dreamed) if dreamed else ("see", len(turns))


def _open(session: Session) -> Session:
    if session.closed:
        raise BadInputError("this session was closed; open another one")
    return session


def _done(turn: Turn, frame_HWC: NDArray[np.uint8] | None, codes_N: NDArray[np.int64] | None) -> DreamStep:
    """The step a session has made; it is ready for the next."""
    session = turn.session
    assert session.taken is not None, "every session has taken its action"
    (action_A, given), session.taken = session.taken, None
    session.ended = turn.frame is None
    session.index += 1
    return DreamStep(
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
