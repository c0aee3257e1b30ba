"""The pictures that were sent out, by their pixels, and the tokens each was made of; bounded.

Clients of the hosted endpoint send our pictures back as context without their tokens. Encoded again they would drift,
and the visible mark would enter the dream. A picture whose pixels came back unchanged is known here, and goes on from
its tokens.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from playloom.provenance.manifest import frames_hash


class Remembered:
    """The newest pictures sent; any thread may ask."""

    def __init__(self, pictures: int) -> None:
        self._pictures = pictures
        self._codes: OrderedDict[str, NDArray[np.int32]] = OrderedDict()
        self._lock = threading.Lock()

    def keep(self, marked_HWC: NDArray[np.uint8], codes_N: NDArray[np.int64]) -> None:
        """Remember what a picture was made of; the longest unused goes when there are too many."""
        with self._lock:
            self._codes[frames_hash(marked_HWC)] = codes_N.astype(np.int32)
            while len(self._codes) > self._pictures:
                self._codes.popitem(last=False)

    def codes(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.int64] | None:
        """The tokens of a picture we sent, int64 [N]; None for any other."""
        name = frames_hash(frame_HWC)
        with self._lock:
            codes_N = self._codes.get(name)
            if codes_N is None:
                return None
            self._codes.move_to_end(name)
            return codes_N.astype(np.int64)
