"""Contact sheets: many small frames on one picture, each with a caption and a border for real or dreamed.

Owns their look. Dreamed tiles are marked here; whoever writes the sheet adds the manifest.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.errors import BadInputError
from playloom.provenance import stamp

Kind = Literal["real", "dreamed"]

BORDERS: dict[Kind, tuple[int, int, int]] = {"real": (70, 190, 90), "dreamed": (255, 150, 40)}
"""Border colour by kind: green is real, orange is dreamed."""
_PAPER, _INK = (24, 24, 26), (225, 225, 225)
_BORDER, _GAP, _LINE = 2, 4, 13
_SHORT = {
    "left_stick_x": "lx",
    "left_stick_y": "ly",
    "right_stick_x": "rx",
    "right_stick_y": "ry",
    "dpad_up": "up",
    "dpad_down": "down",
    "dpad_left": "left",
    "dpad_right": "right",
    "skill_1": "LB",
    "skill_2": "RB",
}


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One frame of a sheet."""

    frame_HWC: NDArray[np.uint8]
    """RGB, any size; all tiles of a sheet have the same."""
    kind: Kind
    """Decides the border, and whether the tile is marked as generated."""
    caption: str = ""
    """One line below the frame; cut off where it does not fit."""


def contact_sheet(rows: Sequence[Sequence[Tile]], *, title: str = "", tile_width: int = 150) -> NDArray[np.uint8]:
    """Lay out rows of tiles.

    Args:
        rows: tiles from left to right, rows from top to bottom; rows may differ in length.
        title: a line on top; the meaning of the colours is added to it.
        tile_width: width of a frame on the sheet, in pixels.

    Returns:
        The sheet, uint8 RGB [H, W, 3].

    Raises:
        BadInputError: when there is no tile.
    """
    tiles = [tile for row in rows for tile in row]
    if not tiles:
        raise BadInputError("a contact sheet needs at least one picture")
    height, width = tiles[0].frame_HWC.shape[:2]
    tile_size = (tile_width, max(1, round(tile_width * height / width)))
    cell = (tile_size[0] + 2 * _BORDER + _GAP, tile_size[1] + 2 * _BORDER + _LINE + _GAP)
    columns = max(len(row) for row in rows)
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, len(rows) * cell[1] + _GAP + _LINE), _PAPER)
    draw = ImageDraw.Draw(sheet)
    _draw_title(draw, title, {tile.kind for tile in tiles})
    for down, row in enumerate(rows):
        for across, tile in enumerate(row):
            corner = (_GAP + across * cell[0], _GAP + _LINE + down * cell[1])
            _draw_tile(sheet, draw, tile, corner, tile_size)
    return np.array(sheet)


def wrap(tiles: Sequence[Tile], columns: int = 10) -> list[list[Tile]]:
    """Tiles in rows of `columns`, in reading order."""
    return [list(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]


def held_inputs(values_A: NDArray[np.uint8]) -> str:
    """What one action [16] holds, short enough for a caption: `ly+1 rx-.38 RT`; `rest` for nothing."""
    state = decode_values(values_A).tolist()
    held = [
        _short(control.name) + (f"{value:+.2g}".replace("0.", ".") if control.kind == "axis" else "")
        for control, value in zip(CONTROLS, state, strict=True)
        if value
    ]
    return " ".join(held) or "rest"


def _short(name: str) -> str:
    return _SHORT.get(name) or name.rpartition("_")[2]


def _draw_title(draw: ImageDraw.ImageDraw, title: str, kinds: set[Kind]) -> None:
    left = float(_GAP)
    if title:
        draw.text((left, 2), title, font=_font(), fill=_INK)
        left += draw.textlength(title, font=_font()) + 12
    for kind in (kind for kind in BORDERS if kind in kinds):
        draw.text((left, 2), kind, font=_font(), fill=BORDERS[kind])
        left += draw.textlength(kind, font=_font()) + 12


def _draw_tile(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, tile: Tile, corner: tuple[int, int], size: tuple[int, int]
) -> None:
    left, top = corner
    right, bottom = left + size[0] + 2 * _BORDER, top + size[1] + 2 * _BORDER
    draw.rectangle((left, top, right - 1, bottom - 1), fill=BORDERS[tile.kind])
    small = np.array(Image.fromarray(tile.frame_HWC).resize(size, Image.Resampling.LANCZOS))
    marked = stamp(small, "AI") if tile.kind == "dreamed" else small
    sheet.paste(Image.fromarray(marked), (left + _BORDER, top + _BORDER))
    caption = tile.caption
    while caption and draw.textlength(caption, font=_font()) > size[0] + 2 * _BORDER:
        caption = caption[:-1]
    draw.text((left, bottom), caption, font=_font(), fill=_INK)


@lru_cache(maxsize=1)
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=10)
