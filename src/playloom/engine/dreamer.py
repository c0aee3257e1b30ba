"""Dreaming on from a prompt: three modes, one loop over what is given and what is dreamed.

    dreamer = Dreamer(load_model(folder))
    for step in dreamer.dream(prompt, mode="world", steps=10, actions_SA=held):
        show(step.frame_HWC)

    session = dreamer.open(prompt)             # or one step at a time, for as long as you like,
    step = session.step(action_A)              # alone or with others: dreamer.advance([Turn(session, action_A), ...])

Frames leave unmarked: marking is the exits' business, so that the mark never enters a context.
"""

from __future__ import annotations

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
from playloom.errors import BadInputError
from playloom.runtime import generator
from playloom.sequence import schedule


class Dreamer:
    """A model that dreams on from prompts: any number of sessions, batched frame by frame."""

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
        while warm and not session.ready:
            self.warm([session])
        return session

    @torch.inference_mode()
    def fork(self, session: Session, seed: int | None = None) -> Session:
        """A branch of a session; see `Session.fork`."""
        source = generator(0 if seed is None else seed, self.model.device)
        if seed is None:
            source.set_state(session.source.get_state())
        return Session(
            self,
            self.decoder.fork(_open(session).state),
            sampling=session.sampling,
            source=source,
            pending=deque(session.pending),
            index=session.index,
        )

    @torch.inference_mode()
    def close(self, session: Session) -> None:
        """Give a session's memory back."""
        if not session.closed:
            self.decoder.close(session.state)
            session.closed = True

    @property
    def bytes_per_session(self) -> int:
        """Memory of one session's cache."""
        return self.decoder.bytes_each

    @torch.inference_mode()
    def warm(self, sessions: Sequence[Session]) -> None:
        """Let each session see one more step of its prompt, together."""
        waiting = [_open(session) for session in sessions if not session.ready]
        if not waiting:
            return
        waiting = [waiting[index] for index in self.decoder.arrange([s.state for s in waiting])]
        self.decoder.give_frame([s.state for s in waiting], torch.stack([s.pending[0].codes_N for s in waiting]))
        answered = [s for s in waiting if s.pending[0].values_A is not None]
        if answered:
            answered = [answered[index] for index in self.decoder.arrange([s.state for s in answered])]
            values = [values_A for s in answered if (values_A := s.pending[0].values_A) is not None]
            self.decoder.give_action([s.state for s in answered], torch.stack(values))
        for session in waiting:
            session.pending.popleft()

    @torch.inference_mode()
    def advance(self, turns: Sequence[Turn]) -> list[DreamStep]:
        """One step of every session, batched; each comes out as it would alone.

        Returns:
            A step per turn, in the order of the turns.

        Raises:
            BadInputError: for a closed session, two turns of one session, or an action that is none.
            PictureError: for a given frame of another size.
            ResourceError: when a step does not fit the memory even alone.
        """
        if len({id(turn.session) for turn in turns}) != len(turns):
            raise BadInputError("a session came twice; it can take one turn at a time")
        for turn in turns:
            self.check(turn)  # all of them before any is moved
        for turn in turns:
            while not turn.session.ready:
                self.warm([turn.session])
        taken = self.stepper.act(turns)
        seen = self.stepper.see(turns)
        steps = []
        for turn, action_A, (frame_HWC, codes_N) in zip(turns, taken, seen, strict=True):
            steps.append(
                DreamStep(
                    index=turn.session.index,
                    action_A=action_A,
                    action_given=turn.action_A is not None,
                    frame_HWC=frame_HWC,
                    codes_N=codes_N,
                )
            )
            turn.session.index += 1
        return steps

    def check(self, turn: Turn) -> None:
        """Raise what `advance` would raise for this turn whatever the state of things, and move nothing."""
        _open(turn.session)
        if turn.action_A is not None:
            check_values(turn.action_A)
        if isinstance(turn.frame, np.ndarray):
            self.model.tokenizer.check_size(torch.as_tensor(turn.frame[None]))

    @torch.inference_mode()
    def codes(self, prompt: Prompt) -> NDArray[np.int64]:
        """The codes of a prompt's frames, int64 [T, N]: its own where it brings them, else encoded now."""
        if prompt.codes_TN is not None:
            return prompt.codes_TN.astype(np.int64)
        return self.stepper.encode(prompt.frames_THWC).numpy()

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


def _open(session: Session) -> Session:
    if session.closed:
        raise BadInputError("this session was closed; open another one")
    return session
