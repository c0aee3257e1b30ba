"""One dream as an episode: where it is, and whether it is over. Single and batched environments step the same."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.engine import DreamStep, Session
from playloom.env.beginnings import Beginnings
from playloom.env.transition import Transition
from playloom.errors import BadInputError
from playloom.provenance import stamp

Info = dict[str, Any]
PROMPT_OPTION = "prompt"
"""The option of `reset` that chooses the prompt by its number."""


class Episode:
    """A place for one dream after another. Not begun: `frame_HWC` raises."""

    def __init__(self) -> None:
        self.session: Session | None = None
        self.steps = 0
        """Steps made in this episode."""
        self.over = False
        """Ended or cut off: it takes no step before it has begun anew."""
        self.fresh = False
        """Begun anew, and its first frame is still to be handed out."""
        self._frame_HWC: NDArray[np.uint8] | None = None
        self._generated = False
        self._first: Info = {}

    @property
    def frame_HWC(self) -> NDArray[np.uint8]:
        """What is seen now, uint8 [H, W, 3], unmarked and not to be written to.

        Raises:
            BadInputError: before the first episode.
        """
        if self._frame_HWC is None:
            raise BadInputError("this environment has not begun; call reset() before step()")
        return self._frame_HWC

    def running(self) -> Session:
        """The dream that can be stepped.

        Raises:
            BadInputError: when there is none, or the episode is over.
        """
        if self.session is None:
            raise BadInputError("this environment has not begun; call reset() before step()")
        if self.over:
            raise BadInputError(f"this episode is over after {self.steps} steps; call reset() to begin another")
        return self.session

    def begin(self, beginnings: Beginnings, source: np.random.Generator, prompt: int | None = None) -> None:
        """Begin anew, with draws from `source`; where that fails, the source and the old episode stay as they were.

        Args:
            beginnings: the prompts.
            source: decides the prompt and the dream's seed.
            prompt: that prompt instead of a drawn one.

        Raises:
            ResourceError: when there is no memory for another dream.
        """
        before = source.bit_generator.state
        drawn, seed = int(source.integers(len(beginnings))), int(source.integers(2**31))
        index = drawn if prompt is None else prompt
        try:
            session, found = beginnings.begin(index, seed)
        except BaseException:
            source.bit_generator.state = before
            raise
        self.close()
        self.session, self.steps, self.over, self.fresh = session, 0, False, True
        self._show(found.frame_HWC, found.dreamed)
        self._first = {"prompt": index, "dream_seed": seed, "codes": found.codes_N}

    def first(self) -> Info:
        """Hand out what is said at the beginning: number of the prompt, the dream's seed, the frame's codes."""
        self.fresh = False
        return {**self._first, "codes": self._first["codes"].copy()}

    def move(self, step: DreamStep) -> Transition:
        """Take in a step that the dream has made."""
        assert step.frame_HWC is not None, "a dreamed turn has a frame"
        before_HWC = self.frame_HWC
        action_A = step.action_A.copy()
        action_A.flags.writeable = False
        self._show(step.frame_HWC, generated=True)
        self.steps += 1
        return Transition(before_HWC=before_HWC, action_A=action_A, after_HWC=self.frame_HWC, step=self.steps - 1)

    def picture(self) -> NDArray[np.uint8] | None:
        """For people: a copy of what is seen, marked if it was dreamed; None before the first episode."""
        if self._frame_HWC is None:
            return None
        return stamp(self._frame_HWC) if self._generated else self._frame_HWC.copy()

    def close(self) -> None:
        """Give the dream's memory back."""
        if self.session is not None:
            self.session.close()
        self.session, self._frame_HWC = None, None

    def _show(self, frame_HWC: NDArray[np.uint8], generated: bool) -> None:
        self._frame_HWC = frame_HWC.copy()
        self._frame_HWC.flags.writeable = False
        self._generated = generated


def chosen_prompt(options: Info | None, prompts: int) -> int | None:
    """The prompt that the options of a `reset` choose.

    Raises:
        BadInputError: for a number there is not, or an option that is none.
    """
    options = options or {}
    unknown = sorted(set(options) - {PROMPT_OPTION})
    if unknown:
        raise BadInputError(f"unknown reset option {unknown[0]!r}; there is only {PROMPT_OPTION!r}")
    index = options.get(PROMPT_OPTION)
    if index is None:
        return None
    if not isinstance(index, int | np.integer) or not 0 <= index < prompts:
        raise BadInputError(f"the prompt is {index!r}; expected a whole number 0 to {prompts - 1}")
    return int(index)
