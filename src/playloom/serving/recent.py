"""The newest frames of one session as its dream has them: unmarked, with their codes. What a story can begin with."""

from __future__ import annotations

import threading
from collections import deque
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions import REST_VALUES
from playloom.engine import Prompt
from playloom.provenance import Manifest
from playloom.stories.tree import Presser


class Kept(NamedTuple):
    """One frame."""

    frame_HWC: NDArray[np.uint8]
    """RGB, uint8 [H, W, 3], unmarked."""
    codes_N: NDArray[np.int64]
    """Its codes."""
    action_A: NDArray[np.uint8]
    """The action that led to it, values uint8 [16]; of the first frame of all it says nothing."""
    pressed: Presser | None
    """Who pressed that; None: it was recorded."""
    manifest: Manifest | None
    """What made it; None: it is real."""


class Recent:
    """One thread adds, any may look."""

    def __init__(self, prompt: Prompt, frames: int) -> None:
        self._frames: deque[Kept] = deque(maxlen=frames)
        self._lock = threading.Lock()
        self._steps = 0
        self.restart(prompt)

    def restart(self, prompt: Prompt) -> None:
        """The session starts over from a prompt, which brings its codes."""
        assert prompt.codes_TN is not None, "a session's prompt brings its codes"
        actions = [REST_VALUES, *prompt.actions_TA]
        with self._lock:
            self._steps = 0
            self._frames.clear()
            for frame_HWC, codes_N, action_A in zip(prompt.frames_THWC, prompt.codes_TN, actions, strict=True):
                self._frames.append(Kept(frame_HWC, codes_N, action_A, None, None))

    def add(
        self,
        frame_HWC: NDArray[np.uint8],
        codes_N: NDArray[np.int64],
        action_A: NDArray[np.uint8],
        given: bool,
        manifest: Manifest,
    ) -> None:
        """The session has made a step; the oldest frame goes when there are too many."""
        with self._lock:
            self._steps += 1
            pressed: Presser = "player" if given else "model"
            made = manifest.at_step(self._steps)
            # Copies: what comes is a part of its whole batch, which would be kept with it.
            self._frames.append(Kept(frame_HWC.copy(), codes_N.copy(), action_A, pressed, made))

    def frames(self) -> list[Kept]:
        """Those kept, oldest first; at least one."""
        with self._lock:
            return list(self._frames)
