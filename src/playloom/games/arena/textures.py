"""Generated textures of the arena: walls, floors and the sky.

Bright, flat colours and large shapes, so that a small tokenizer can learn them and every place and heading can be told
apart. All tones are entries of the engine's palette of 256 colours.
"""

from __future__ import annotations

import io
import math

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SKY_NAME = "PLSKY"
"""Name of the sky texture, whose 1024 columns are 360 degrees."""
SKY_WIDTH, SKY_HEIGHT = 1024, 256
SKY_HORIZON = 200
"""Row of the sky texture in the middle of the picture at level pitch."""
WALL_SIZE, FLOOR_SIZE = 128, 256

Colour = tuple[int, int, int]
Picture = NDArray[np.uint8]


def _hex(code: str) -> Colour:
    return int(code[:2], 16), int(code[2:4], 16), int(code[4:], 16)


_ZONES: dict[str, tuple[str, str, str, str, str]] = {
    # wall, band, tower, floor light tile, floor dark tile
    "sand": ("ffb37b", "df670f", "f37317", "ffcfb3", "f7ab7b"),
    "sea": ("7373ff", "c7c7ff", "3737ff", "c7c7ff", "ababff"),
    "leaf": ("5bbf4f", "37732b", "3f832f", "b79f87", "9b7f6b"),
    "rose": ("e78f8f", "ffdbdb", "a33b3b", "ffb7b7", "db7b7b"),
    "mid": ("dbdbdb", "ababab", "efefef", "d3d3d3", "b3b3b3"),
}
ZONES: tuple[str, ...] = tuple(_ZONES)
"""The colour zones; every map cell belongs to one."""


def wall_name(zone: str) -> str:
    """Return the texture of the outer walls and blocks of a zone."""
    return f"W_{zone.upper()}"


def tower_name(zone: str) -> str:
    """Return the texture of the towers of a zone."""
    return f"T_{zone.upper()}"


def floor_name(zone: str) -> str:
    """Return the texture of the floor of a zone; one tile is 128 units."""
    return f"F_{zone.upper()}"


def all_textures() -> dict[str, bytes]:
    """Return every texture as PNG bytes by lump name (at most 8 characters)."""
    pictures: dict[str, Picture] = {}
    for zone, (wall, band, tower, light, dark) in _ZONES.items():
        pictures[wall_name(zone)] = _wall(zone, _hex(wall), _hex(band))
        pictures[tower_name(zone)] = _tower(_hex(tower), _hex(band))
        pictures[floor_name(zone)] = _tiles(_hex(light), _hex(dark))
    pictures["PILLAR"] = _tower(_hex("ffff8f"), _hex("ebdb57"))
    pictures["GATE"] = _gate(_hex("cf00cf"), _hex("ff7bff"))
    pictures["POOL"] = _tiles(_hex("8f8fff"), _hex("7373ff"))
    pictures["STEP"] = _flat(_hex("ffffff"), 32)
    pictures[SKY_NAME] = sky()
    return {name: png_bytes(picture) for name, picture in pictures.items()}


def png_bytes(picture_HWC: Picture) -> bytes:
    """Encode a picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(picture_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def _flat(colour: Colour, size: int) -> Picture:
    picture = np.empty((size, size, 3), np.uint8)
    picture[:] = colour
    return picture


def _wall(zone: str, base: Colour, band: Colour) -> Picture:
    """A flat colour with one large shape that differs from zone to zone; two map cells wide."""
    picture = np.hstack([_flat(base, WALL_SIZE)] * 2)
    y, x = np.mgrid[:WALL_SIZE, : 2 * WALL_SIZE]
    shapes = {
        "sand": (y >= 24) & (y < 48),
        "sea": (x >= 80) & (x < 176),
        "leaf": (x - 128) ** 2 + (y - 56) ** 2 < 42**2,
        "rose": np.abs(x - 128) * 0.8 + 8 > (112 - y),
        "mid": y >= 80,
    }
    picture[shapes[zone]] = band
    return picture


def _tower(base: Colour, band: Colour) -> Picture:
    picture = _flat(base, WALL_SIZE)
    picture[:20] = band
    return picture


def _gate(base: Colour, band: Colour) -> Picture:
    picture = _flat(base, WALL_SIZE)
    y, x = np.mgrid[:WALL_SIZE, :WALL_SIZE]
    picture[np.abs(x - 64) < y * 0.5] = band
    return picture


def _tiles(light: Colour, dark: Colour) -> Picture:
    picture = _flat(light, FLOOR_SIZE)
    half = FLOOR_SIZE // 2
    picture[:half, half:] = dark
    picture[half:, :half] = dark
    return picture


_SKY_BANDS = ("8f8fff", "ababff", "c7c7ff", "e7e7ff")
"""Blue overhead to pale at the horizon."""
_HILLS = (
    # heading of the summit in texture pixels, half width, height, colour, shape
    (60, 90, 96, "df9363", "peak"),
    (196, 120, 62, "67df5f", "round"),
    (330, 60, 120, "afafaf", "peak"),
    (452, 110, 50, "439337", "round"),
    (590, 84, 104, "bf5b5b", "mesa"),
    (716, 100, 58, "ebdb57", "round"),
    (836, 70, 112, "875733", "peak"),
    (944, 84, 66, "37732b", "round"),
)
_SUN = (516, 130, 30, "ffff6b")
"""Centre x, centre y, radius and colour of the sun."""


def sky() -> Picture:
    """Draw the sky, uint8 [256, 1024, 3]: pale gradient, coloured hills, a sun."""
    picture = np.empty((SKY_HEIGHT, SKY_WIDTH, 3), np.uint8)
    horizon = SKY_HORIZON
    for row in range(SKY_HEIGHT):
        band = min(len(_SKY_BANDS) - 1, row * len(_SKY_BANDS) // horizon)
        picture[row] = _hex(_SKY_BANDS[band])
    y, x = np.mgrid[:SKY_HEIGHT, :SKY_WIDTH]
    cx, cy, radius, colour = _SUN
    picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = _hex(colour)
    for summit, half, height, colour, shape in _HILLS:
        away = np.abs((x - summit + SKY_WIDTH // 2) % SKY_WIDTH - SKY_WIDTH // 2)
        picture[horizon - y <= _profile(away / half, height, shape)] = _hex(colour)
    picture[horizon:] = _hex("c7c7c7")
    return picture


def _profile(away: NDArray[np.float64], height: float, shape: str) -> NDArray[np.float64]:
    inside = np.clip(1 - away, 0, 1)
    if shape == "round":
        return height * np.sin(inside * math.pi / 2)
    if shape == "mesa":
        return height * np.minimum(1, inside * 2.5)
    return height * inside
