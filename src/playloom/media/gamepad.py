"""A controller state as a small picture.

Owns the look of the drawn controller. Knows nothing of what the controls do in any game.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from playloom.actions import CONTROLS, decode_values

_WIDTH, _HEIGHT = 120, 180
_FINE = 3
"""Drawn this many times larger, then scaled down, so that edges are smooth."""
_PAPER, _BODY, _IDLE, _LIT, _INK = (24, 24, 26), (52, 52, 58), (92, 92, 100), (90, 200, 250), (225, 225, 225)
_FACES = {
    # control: centre and colour when pressed
    "button_A": ((88, 136), (90, 200, 90)),
    "button_B": ((102, 122), (230, 80, 80)),
    "button_X": ((74, 122), (80, 130, 240)),
    "button_Y": ((88, 108), (240, 200, 60)),
}
_PADS = {
    # control: left, top, right, bottom
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
    """Draw one action as a controller, uint8 RGB [height, 2/3 height, 3], read-only.

    Args:
        values_A: uint8 [16] in slot order.
        caption: one short line below it.
        height: in pixels.

    Raises:
        ActionError: when a value is out of range.
    """
    return _drawn(tuple(decode_values(values_A).tolist()), caption, height)


@lru_cache(maxsize=256)
def _drawn(state: tuple[float, ...], caption: str, height: int) -> NDArray[np.uint8]:
    """Cached because neighbouring frames of a film mostly hold the same input."""
    held = dict(zip((c.name for c in CONTROLS), state, strict=True))
    image = Image.new("RGB", (_WIDTH * _FINE, _HEIGHT * _FINE), _PAPER)
    draw = ImageDraw.Draw(image)
    _rounded(draw, (4, 6, 116, 150), _BODY, 10)
    for name, box in _BARS.items():
        _rounded(draw, box, _LIT if held[name] else _IDLE, 3)
        _text(draw, ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2), _LABELS[name], 8)
    for name, (centre, colour) in _FACES.items():
        _disc(draw, centre, 8, colour if held[name] else _IDLE)
        _text(draw, centre, name[-1], 9)
    for name, box in _PADS.items():
        _rounded(draw, box, _LIT if held[name] else _IDLE, 2)
    for name, centre in _STICKS.items():
        _stick(draw, centre, held[f"{name}_x"], held[f"{name}_y"])
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


@lru_cache(maxsize=8)
def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
