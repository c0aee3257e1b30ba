"""Three objects to paste into pictures: a shaded ball, a crate, a cone. Drawn here from formulas, in any size.

Owns how they look and where they stand. Knows nothing of models or of what is measured. H W of the whole picture, D of
the object's square box.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

HEIGHT = 0.3
"""An object's height, as a share of the picture's: 54 pixels of 180."""
GROUND = 0.84
"""Where it stands: the lower end of its box, as a share of the picture's height."""
_SIDES = (0.2, 0.8)
"""Left and right of the player's body: the middle of the box, as a share of the picture's width."""
_LIGHT = np.array([-0.45, -0.65, 0.61])
"""Where light comes from: left, above, in front. Length 1."""
_FINE = 4
"""Points drawn along each side of a pixel, for soft edges."""

Grid = NDArray[np.float64]


class Box(NamedTuple):
    """A part of a picture."""

    rows: slice
    """Its rows."""
    columns: slice
    """Its columns."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Drawn:
    """One object in one size."""

    colour_DDC: NDArray[np.float64]
    """RGB in [0, 255], float64 [D, D, 3]."""
    cover_DD: NDArray[np.float64]
    """How much of the picture behind it hides, float64 [D, D] in [0, 1]."""


def draw(name: str, size: int) -> Drawn:
    """The object of `OBJECTS` with this name in a box of `size` x `size` pixels."""
    fine = size * _FINE
    middle = (np.arange(fine) + 0.5) / fine * 2 - 1
    y, x = np.meshgrid(middle, middle, indexing="ij")
    colour, cover = OBJECTS[name](x, y)
    colour = np.where(cover[..., None], colour, 0.0)
    blocks = (size, _FINE, size, _FINE)
    share = cover.reshape(blocks).mean((1, 3))
    summed = colour.reshape(*blocks, 3).mean((1, 3))
    return Drawn(colour_DDC=summed / np.maximum(share, 1e-9)[..., None], cover_DD=share)


def place(height: int, width: int, side: int) -> Box:
    """The box an object stands in, left (`side` even) or right (odd) of the middle of a picture."""
    size = min(max(2, round(HEIGHT * height)), width)
    bottom = max(size, round(GROUND * height))
    left = round(_SIDES[side % 2] * width - size / 2)
    left = min(max(0, left), width - size)
    return Box(slice(bottom - size, bottom), slice(left, left + size))


def paste(frames_THWC: NDArray[np.uint8], name: str, box: Box) -> NDArray[np.uint8]:
    """The same pictures, uint8 [T, H, W, 3], with the object in the box of each."""
    drawn = draw(name, box.rows.stop - box.rows.start)
    edited = np.array(frames_THWC)
    behind = edited[:, box.rows, box.columns].astype(np.float64)
    cover = drawn.cover_DD[..., None]
    edited[:, box.rows, box.columns] = np.rint(behind * (1 - cover) + drawn.colour_DDC * cover).astype(np.uint8)
    return edited


def _ball(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    """A red ball with a soft highlight."""
    inside = x**2 + y**2 <= 1
    front = np.sqrt(np.clip(1 - x**2 - y**2, 0, 1))
    lit = np.clip(x * _LIGHT[0] + y * _LIGHT[1] + front * _LIGHT[2], 0, 1)
    return _shade((215, 25, 35), 0.35 + 0.65 * lit) + 120 * (lit**12)[..., None] * [0.3, 1, 1], inside


def _crate(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    """A blue crate: a frame, a crossbar, planks, and a lighter lid."""
    planks = 0.62 + 0.1 * (np.floor((x + 1) * 3) % 2)
    bar = (np.abs(x + y) < 0.25) | (np.maximum(np.abs(x), np.abs(y)) > 0.78)
    light = np.where(y < -0.78, 1.15, np.where(bar, 0.95, planks))
    return _shade((30, 70, 205), light), np.ones_like(x, dtype=bool)


def _cone(x: Grid, y: Grid) -> tuple[Grid, NDArray[np.bool_]]:
    """A yellow cone on a foot, lit from the left."""
    half = 0.08 + 0.84 * (y + 1) / 2
    inside = (np.abs(x) <= half) | (y > 0.82)
    lit = np.where(y > 0.82, 0.75, 0.95 - 0.35 * np.clip(x / half, -1, 1))
    return _shade((250, 200, 0), lit), inside


def _shade(colour: tuple[int, int, int], light: Grid) -> Grid:
    return np.asarray(np.clip(np.array(colour, np.float64) * light[..., None], 0, 255))


OBJECTS: dict[str, Callable[[Grid, Grid], tuple[Grid, NDArray[np.bool_]]]] = {
    "red ball": _ball,
    "blue crate": _crate,
    "yellow cone": _cone,
}
"""What can be pasted, by name: from places in [-1, 1] (right, down) to a colour and whether the object is there."""
