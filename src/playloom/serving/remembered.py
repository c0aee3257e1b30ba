"""The pictures that were sent out, by their pixels: the tokens each was made of, and what made it; bounded.

Clients of the hosted endpoint send our pictures back as context without their tokens. Encoded again they would drift,
and the visible mark would enter the dream. A picture whose pixels came back unchanged is known here, and goes on from
its tokens.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from playloom.provenance.manifest import Manifest, frames_hash


class Remembered:
    """The newest pictures sent; any thread may ask."""

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._known: OrderedDict[str, tuple[NDArray[np.int32], Manifest]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, marked_HWC: NDArray[np.uint8], codes_N: NDArray[np.int64], manifest: Manifest) -> None:
        """Remember what a picture was made of; the longest unused goes when there are too many."""
        with self._lock:
            self._known[frames_hash(marked_HWC)] = codes_N.astype(np.int32), manifest
            while len(self._known) > self._pictures:
                self._known.popitem(last=False)

    def codes(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.int64] | None:
        """The tokens of a picture we sent, int64 [N]; None for any other."""
        known = self._look(frame_HWC)
        return None if known is None else known[0].astype(np.int64)

    def manifest(self, frame_HWC: NDArray[np.uint8]) -> Manifest | None:
        """What made a picture we sent; None for any other."""
        known = self._look(frame_HWC)
        return None if known is None else known[1]

    def _look(self, frame_HWC: NDArray[np.uint8]) -> tuple[NDArray[np.int32], Manifest] | None:
        name = frames_hash(frame_HWC)
        with self._lock:
            known = self._known.get(name)
            if known is not None:
                self._known.move_to_end(name)
            return known
