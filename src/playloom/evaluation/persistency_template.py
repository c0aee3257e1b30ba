"""How much of an object is in a picture: the change of colour it makes, and the share of it found in another change.

Pure. Only colour counts, not brightness: a dream that turns an object into a grey figure has lost it. H W C picture,
D the side of the object's box, P pixels of the object, S pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.evaluation.persistency_objects import Box, draw


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """What an object changes in a picture."""

    box: Box
    """Where it stands."""
    inside_DD: NDArray[np.bool_]
    """Which pixels of the box are its own."""
    change_PC: NDArray[np.float64]
    """The change of colour it makes at those P pixels, grey levels."""

    @classmethod
    def between(cls, name: str, box: Box, with_HWC: NDArray[np.uint8], without_HWC: NDArray[np.uint8]) -> Template:
        """From one picture with the object of this name in the box, and the same one without it."""
        inside = draw(name, box.rows.stop - box.rows.start).cover_DD > 0.5
        return cls(box=box, inside_DD=inside, change_PC=_change(box, inside, with_HWC[None], without_HWC[None])[0])

    def share(self, after_SHWC: NDArray[np.uint8], before_SHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
        """The share of the object that came into each picture, float64 [S]: the projection of the change onto its own.

        Args:
            after_SHWC: pictures, uint8, that may hold it.
            before_SHWC: the same pictures without it.

        Returns:
            1 for all of it, 0 for none, less for the opposite colour; NaN when the object itself changes nothing.
        """
        energy = float((self.change_PC**2).sum())
        found_SPC = _change(self.box, self.inside_DD, after_SHWC, before_SHWC)
        if not energy:
            return np.full(len(found_SPC), np.nan)
        return np.asarray((found_SPC * self.change_PC).sum((-2, -1)) / energy)


def _change(
    box: Box, inside_DD: NDArray[np.bool_], after_SHWC: NDArray[np.uint8], before_SHWC: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Change of colour at the object's pixels [S, P, 3]: each channel less the mean of the three."""
    where = (slice(None), box.rows, box.columns)
    change_SPC = (after_SHWC[where].astype(np.float64) - before_SHWC[where])[:, inside_DD]
    return np.asarray(change_SPC - change_SPC.mean(-1, keepdims=True))
