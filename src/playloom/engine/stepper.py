"""One step of many sessions: those that are given something apart from those that dream it, each kind as one batch.

Owns grouping, noise and what happens when memory runs out; decoders do the work, the tokenizer the pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from playloom.checkpoint import Model
from playloom.engine.cached import CachedDecoder
from playloom.engine.naive import NaiveDecoder
from playloom.engine.sampling import Draws, Sampling, noise
from playloom.engine.session import PromptStep, Session, Taken, Turn
from playloom.errors import ResourceError

Seen = tuple[NDArray[np.uint8] | None, NDArray[np.int64] | None]
"""A frame, uint8 [H, W, 3], and its codes, int64 [N]; or neither."""
_T = TypeVar("_T")


class Stepper:
    """Runs turns of sessions whose prompts have been seen."""

    def __init__(self, model: Model, decoder: CachedDecoder | NaiveDecoder) -> None:
        self.model, self.decoder, self.layout = model, decoder, model.config.layout

    def look(self, sessions: Sequence[Session]) -> None:
        """Every session sees one more step of its prompt."""
        self._by_kind([Turn(s) for s in sessions if s.pending[0].codes_N is not None], lambda _: "frame", self._show)
        answered = [Turn(s) for s in sessions if s.pending and s.pending[0].codes_N is None]
        self._by_kind(answered, lambda _: "action", self._answer)

    def act(self, turns: Sequence[Turn]) -> None:
        """Every session takes its action, given or dreamed: see `Session.taken`."""
        self._by_kind(turns, lambda turn: "dream" if turn.action_A is None else "given", self._act)

    def see(self, turns: Sequence[Turn]) -> list[Seen]:
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

    def _show(self, turns: list[Turn]) -> list[None]:
        codes = [codes_N for turn in turns if (codes_N := turn.session.pending[0].codes_N) is not None]
        self.decoder.give_frame([turn.session.state for turn in turns], torch.stack(codes))
        for turn in turns:
            values_A = turn.session.pending.popleft().values_A
            if values_A is not None:
                turn.session.pending.appendleft(PromptStep(None, values_A))
        return [None] * len(turns)

    def _answer(self, turns: list[Turn]) -> list[None]:
        values = [values_A for turn in turns if (values_A := turn.session.pending[0].values_A) is not None]
        self.decoder.give_action([turn.session.state for turn in turns], torch.stack(values))
        for turn in turns:
            turn.session.pending.popleft()
        return [None] * len(turns)

    def _act(self, turns: list[Turn]) -> list[None]:
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
            turn.session.taken = Taken(action_A, given)
        return [None] * len(turns)

    def _see(self, turns: list[Turn]) -> list[Seen]:
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
        self, turns: Sequence[Turn], kind: Callable[[Turn], str], work: Callable[[list[Turn]], list[_T]]
    ) -> list[_T]:
        results: dict[int, _T] = {}
        for wanted in dict.fromkeys(map(kind, turns)):
            indices = [index for index, turn in enumerate(turns) if kind(turn) == wanted]
            order = self.decoder.arrange([turns[index].session.state for index in indices])
            indices = [indices[index] for index in order]
            results.update(zip(indices, self._in_parts([turns[index] for index in indices], work), strict=True))
        return [results[index] for index in range(len(turns))]

    def _in_parts(self, turns: list[Turn], work: Callable[[list[Turn]], list[_T]]) -> list[_T]:
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


def _draws(turns: Sequence[Turn], samplings: Sequence[Sampling], slots: int, choices: int) -> Draws:
    """All noise of one step, each dream's from its own source."""
    parts = [noise(how, (slots, choices), turn.session.source) for turn, how in zip(turns, samplings, strict=True)]
    return Draws(samplings, torch.stack(parts))


def _restore(sources: Sequence[torch.Generator], before: Sequence[Tensor]) -> None:
    """What is asked again draws the same noise again."""
    for source, state in zip(sources, before, strict=True):
        source.set_state(state)


def _frame_kind(turn: Turn) -> str:
    if turn.frame is None:
        return "none"
    return "given" if isinstance(turn.frame, np.ndarray) else "dream"
