"""Sessions at the start of their episodes, cheaply: each prompt is encoded and seen once, then forked.

Owns the warmed sessions, of which a bounded number is kept: those that were asked for last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.engine import Dreamer, Prompt, Sampling, Session
from playloom.env.prompts import Source

KEPT = 16
"""Warmed sessions that are kept; each holds a cache of `Dreamer.bytes_per_session`."""


class Beginning(NamedTuple):
    """A prompt that has been seen."""

    session: Session
    """Only ever forked, never stepped."""
    frame_HWC: NDArray[np.uint8]
    """The prompt's last frame, uint8 [H, W, 3]."""
    codes_N: NDArray[np.int64]
    """Its codes."""
    dreamed: bool
    """Whether that frame was dreamed."""


class Beginnings:
    """Opens dreams on prompts, by number."""

    def __init__(self, dreamer: Dreamer, sources: Sequence[Source], sampling: Sampling, kept: int = KEPT) -> None:
        self._dreamer, self._sources, self._sampling, self._kept = dreamer, sources, sampling, kept
        self._warm: OrderedDict[int, Beginning] = OrderedDict()
        self._codes: dict[int, NDArray[np.int32]] = {}  # of every prompt that was ever asked for: a few kilobytes each

    def __len__(self) -> int:
        return len(self._sources)

    def begin(self, index: int, seed: int) -> tuple[Session, Beginning]:
        """A session of its own on prompt `index`, with that seed; and the prompt.

        Raises:
            ResourceError: when there is no memory for it.
        """
        found = self._warm.get(index)
        if found is None:
            found = self._warm[index] = self._open(index)
        self._warm.move_to_end(index)
        session = found.session.fork(seed)
        while len(self._warm) > self._kept:
            self._warm.popitem(last=False)[1].session.close()
        return session, found

    def close(self) -> None:
        """Give the memory of all warmed sessions back; they are warmed again when they are asked for."""
        while self._warm:
            self._warm.popitem()[1].session.close()

    def _open(self, index: int) -> Beginning:
        prompt, dreamed = self._sources[index].read()
        prompt = prompt.last(self._dreamer.model.config.transformer.context_steps)
        if index not in self._codes:
            self._codes[index] = self._dreamer.codes(prompt).astype(np.int32)
        codes_TN = self._codes[index].astype(np.int64)
        known = Prompt(frames_THWC=prompt.frames_THWC, actions_TA=prompt.actions_TA, codes_TN=codes_TN)
        session = self._dreamer.open(known, sampling=self._sampling)
        return Beginning(session, prompt.frames_THWC[-1].copy(), codes_TN[-1], dreamed)
