"""Contact sheets and animation frames: tiles with their input, each under a bar that says real, given or dreamed.

Generated tiles get the watermark here; the manifest is added when the file is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.errors import BadInputError
from playloom.provenance import MARK_TEXT, Manifest, stamp

_WIDTH, _HEIGHT = 120, 180
_FINE = 3  # drawn this many times larger, then scaled down, so that edges are smooth
_PAPER, _INK, _DARK = (24, 24, 26), (225, 225, 225), (16, 16, 18)
_BODY, _IDLE, _LIT = (52, 52, 58), (92, 92, 100), (90, 200, 250)
_FACES = {
    # centre, and colour when it is not 0
    "button_A": ((88, 136), (90, 200, 90)),
    "button_B": ((102, 122), (230, 80, 80)),
    "button_X": ((74, 122), (80, 130, 240)),
    "button_Y": ((88, 108), (240, 200, 60)),
}
_PADS = {
    # left, top, right, bottom
    "dpad_up": (27, 103, 37, 116),
    "dpad_down": (27, 128, 37, 141),
    "dpad_left": (13, 117, 26, 127),
    "dpad_right": (38, 117, 51, 127),
}
_BARS = {
    "trigger_LT": (12, 12, 52, 24),
    "trigger_RT": (68, 12, 108, 24),
    "skill_1": (12, 28, 52, 38),
    "skill_2": (68, 28, 108, 38),
}
_LABELS = {"trigger_LT": "LT", "trigger_RT": "RT", "skill_1": "LB", "skill_2": "RB"}
_STICKS = {"left_stick": (32, 70), "right_stick": (88, 70)}
_RADIUS, _THUMB, _REACH = 24, 9, 14


def draw_gamepad(values_A: NDArray[np.uint8], caption: str = "", height: int = _HEIGHT) -> NDArray[np.uint8]:
    """Draw action values [16] as a controller, uint8 RGB [height, 2/3 height, 3], read-only."""
    return _drawn(tuple(decode_values(values_A).tolist()), caption, height)


@lru_cache(maxsize=256)
def _drawn(state: tuple[float, ...], caption: str, height: int) -> NDArray[np.uint8]:
    """Cached because neighbouring frames mostly have the same input."""
    values = dict(zip((c.name for c in CONTROLS), state, strict=True))
    image = Image.new("RGB", (_WIDTH * _FINE, _HEIGHT * _FINE), _PAPER)
    draw = ImageDraw.Draw(image)
    _rounded(draw, (4, 6, 116, 150), _BODY, 10)
    for name, box in _BARS.items():
        _rounded(draw, box, _LIT if values[name] else _IDLE, 3)
        _text(draw, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), _LABELS[name], 8)
    for name, (centre, colour) in _FACES.items():
        _disc(draw, centre, 8, colour if values[name] else _IDLE)
        _text(draw, centre, name[-1], 9)
    for name, box in _PADS.items():
        _rounded(draw, box, _LIT if values[name] else _IDLE, 2)
    for name, centre in _STICKS.items():
        _stick(draw, centre, values[f"{name}_x"], values[f"{name}_y"])
    if caption:
        _text(draw, (_WIDTH / 2, 165), caption, 15)
    size = (round(_WIDTH * height / _HEIGHT), height)
    pixels = np.array(image.resize(size, Image.Resampling.BOX if height == _HEIGHT else Image.Resampling.LANCZOS))
    pixels.setflags(write=False)
    return pixels


def _stick(draw: ImageDraw.ImageDraw, centre: tuple[int, int], x: float, y: float) -> None:
    _disc(draw, centre, _RADIUS, _IDLE)
    _disc(draw, centre, _RADIUS - 3, _PAPER)
    at = (centre[0] + x * _REACH, centre[1] - y * _REACH)
    moved = x != 0 or y != 0
    if moved:
        ends = [value * _FINE for value in (*centre, *at)]
        draw.line(ends, fill=_LIT, width=4 * _FINE)
    _disc(draw, at, _THUMB, _LIT if moved else _IDLE)


def _rounded(
    draw: ImageDraw.ImageDraw, box: tuple[int, int, int, int], colour: tuple[int, int, int], radius: int
) -> None:
    draw.rounded_rectangle([value * _FINE for value in box], radius * _FINE, fill=colour)


def _disc(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, colour: tuple[int, int, int]) -> None:
    x, y = centre
    box = [value * _FINE for value in (x - radius, y - radius, x + radius, y + radius)]
    draw.ellipse(box, fill=colour)


def _text(draw: ImageDraw.ImageDraw, centre: tuple[float, float], text: str, size: int) -> None:
    place = (centre[0] * _FINE, centre[1] * _FINE)
    draw.text(place, text, font=_font(size * _FINE), fill=_INK, anchor="mm")


@lru_cache(maxsize=16)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(size=size)  # type: ignore[return-value]  # with a size it is a FreeType font


Kind = Literal["real", "given", "dreamed"]
"""`real`: recorded in the game. `given`: a picture of the user. `dreamed`: generated."""
BORDERS: dict[Kind, tuple[int, int, int]] = {
    "real": (70, 190, 90),
    "given": (110, 170, 250),
    "dreamed": (255, 150, 40),
}
"""Border colour by kind."""
_LEGEND: dict[Kind, str] = {
    "real": "REAL: recorded in the game",
    "given": "GIVEN: your own picture",
    "dreamed": "DREAMED: generated by the model",
}
_BORDER, _GAP = 2, 4
_LEAST_WIDTH = 300  # of a sheet: narrower ones would wrap their title after every word
_SHORT_MARK_BELOW = 150  # pixels of frame width


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One frame of a sheet or animation."""

    frame_HWC: NDArray[np.uint8]
    """RGB, any size; all tiles of a sheet have the same."""
    kind: Kind
    """Decides the border; a `dreamed` tile gets the watermark."""
    caption: str = ""
    """Text after the kind in the bar above the frame; cut off where it does not fit."""
    pads: Sequence[tuple[NDArray[np.uint8], str]] = ()
    """Actions (values [16], caption), each drawn as a controller on the right of the frame."""


def contact_sheet(
    rows: Sequence[Sequence[Tile]], *, title: str = "", tile_width: int = 150, kinds: Iterable[Kind] | None = None
) -> NDArray[np.uint8]:
    """Lay out rows of tiles, uint8 RGB [H, W, 3]; rows may differ in length.

    `tile_width` is that of a frame without its controllers. The legend explains `kinds` (None: those of the tiles).
    """
    tiles = [tile for row in rows for tile in row]
    if not tiles:
        raise BadInputError("a contact sheet is empty: expected at least one picture")
    height, width = tiles[0].frame_HWC.shape[:2]
    size = (tile_width, max(1, round(tile_width * height / width)))
    drawn = [[_draw_tile(tile, size) for tile in row] for row in rows]
    widths = [
        max(row[column].width for row in drawn if column < len(row)) + _GAP for column in range(max(map(len, drawn)))
    ]
    known = {tile.kind for tile in tiles} if kinds is None else set(kinds)
    legend = tuple(kind for kind in BORDERS if kind in known)
    whole = max(sum(widths) + _GAP, _LEAST_WIDTH)
    heading = _heading(title, legend, whole, max(_text_size(tile_width), min(18, whole // 90)))
    below = drawn[0][0].height + _GAP
    sheet = Image.new("RGB", (whole, heading.height + len(rows) * below), _PAPER)
    sheet.paste(heading, (0, 0))
    for down, row in enumerate(drawn):
        for across, picture in enumerate(row):
            sheet.paste(picture, (_GAP + sum(widths[:across]), heading.height + down * below))
    return np.array(sheet)


def film_frames(
    rows: Iterable[Sequence[Tile]], *, kinds: Iterable[Kind], title: str = "", enlarged: int = 1
) -> Iterator[NDArray[np.uint8]]:
    """Draw one frame of an animation for each row of tiles; only the last tile of a row keeps its controllers."""
    legend = tuple(kinds)
    for tiles in rows:
        row = [*(replace(tile, pads=()) for tile in tiles[:-1]), tiles[-1]]
        width = enlarged * row[0].frame_HWC.shape[1]
        yield contact_sheet([row], title=title, tile_width=width, kinds=legend)


def wrap(tiles: Sequence[Tile], columns: int = 10) -> list[list[Tile]]:
    """Arrange tiles in rows of `columns`, in reading order."""
    return [list(tiles[start : start + columns]) for start in range(0, len(tiles), columns)]


def title_of(manifest: Manifest) -> str:
    """Return a heading with model, prompt, mode, sampling and seed."""
    sampling = manifest.sampling
    warmth = sampling.get("temperature")
    if manifest.mode == "policy":
        warmth = sampling.get("action_temperature", warmth)
    parts = [
        f"playloom {manifest.model}",
        f"prompt {manifest.prompt}" if manifest.prompt else "",
        f"{manifest.mode} mode",
        "" if warmth is None else f"temperature {warmth:g}",
        f"seed {manifest.seed}",
    ]
    return ",  ".join(part for part in parts if part)


def held_inputs(values_A: NDArray[np.uint8]) -> str:
    """Return a short caption of one action [16]: `ly+1 rx-.38 RT`, or `rest`."""
    state = zip(CONTROLS, decode_values(values_A).tolist(), strict=True)
    words = []
    for control, value in state:
        if value and control.kind == "axis":
            words.append(control.name[0] + control.name[-1] + f"{value:+.2g}".replace("0.", "."))
        elif value:
            words.append(_LABELS.get(control.name) or control.name.rpartition("_")[2])
    return " ".join(words) or "rest"


def _text_size(tile_width: int) -> int:
    return min(20, max(12, tile_width // 28))


@lru_cache(maxsize=8)
def _heading(title: str, legend: tuple[Kind, ...], width: int, size: int) -> Image.Image:
    """Title and legend, cached because all frames of an animation have the same."""
    parts = [(part, _INK) for part in title.split(" ")] if title else []
    font, line, space = _font(size), round(1.35 * size), size * 0.3
    placed: list[tuple[float, int, str, tuple[int, int, int]]] = []
    left, top = float(_GAP), 2
    for text, colour in [*parts, *((_LEGEND[kind], BORDERS[kind]) for kind in legend)]:
        gap = space if colour == _INK else 3 * space
        if left > _GAP and left + gap + font.getlength(text) > width - _GAP:
            left, top = float(_GAP), top + line
        left += gap if left > _GAP else 0
        placed.append((left, top, text, colour))
        left += font.getlength(text)
    image = Image.new("RGB", (width, top + line + 2 if placed else _GAP), _PAPER)
    draw = ImageDraw.Draw(image)
    for left, top, text, colour in placed:
        draw.text((left, top), text, font=font, fill=colour)
    return image


def _draw_tile(tile: Tile, size: tuple[int, int]) -> Image.Image:
    text_size = _text_size(size[0])
    bar = round(1.35 * text_size)
    pads = [draw_gamepad(values_A, caption, size[1]) for values_A, caption in tile.pads]
    width = size[0] + sum(pad.shape[1] for pad in pads)
    image = Image.new("RGB", (width + 2 * _BORDER, bar + size[1] + _BORDER), BORDERS[tile.kind])
    draw, font = ImageDraw.Draw(image), _font(text_size)
    text = f"{tile.kind.upper()}  {tile.caption}"
    while font.getlength(text) > width - 2:
        text = text[:-1]
    draw.text((_BORDER + 2, bar / 2), text, font=font, fill=_DARK, anchor="lm")
    small = Image.fromarray(tile.frame_HWC)
    small_HWC = np.array(small if small.size == size else small.resize(size, Image.Resampling.LANCZOS))
    if tile.kind == "dreamed":
        small_HWC = stamp(small_HWC, "AI" if size[0] < _SHORT_MARK_BELOW else MARK_TEXT)
    image.paste(Image.fromarray(np.hstack([small_HWC, *pads])), (_BORDER, bar))
    return image
