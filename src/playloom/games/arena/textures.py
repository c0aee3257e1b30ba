"""Generated textures of the arena: walls, floors and the sky.

Bright flat colours of the engine's palette, so that a small tokenizer can learn them and every place looks different.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from playloom.media.images import encode_png

SKY_NAME = "PLSKY"  # name of the sky texture, whose 1024 columns are 360 degrees
SKY_WIDTH, SKY_HEIGHT = 1024, 256
_SKY_HORIZON = 200  # row of the sky texture in the middle of the picture at level pitch
_WALL, _FLOOR = 128, 256  # sides of the wall and floor textures; walls are two cells wide
_ZONES = {
    # wall, band, tower, floor light tile, floor dark tile
    "sand": ("ffb37b", "df670f", "f37317", "ffcfb3", "f7ab7b"),
    "sea": ("7373ff", "c7c7ff", "3737ff", "c7c7ff", "ababff"),
    "leaf": ("5bbf4f", "37732b", "3f832f", "b79f87", "9b7f6b"),
    "rose": ("e78f8f", "ffdbdb", "a33b3b", "ffb7b7", "db7b7b"),
    "mid": ("dbdbdb", "ababab", "efefef", "d3d3d3", "b3b3b3"),
}
_SKY_BANDS = ("8f8fff", "ababff", "c7c7ff", "e7e7ff")
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

Picture = NDArray[np.uint8]


def texture_name(kind: str, zone: str) -> str:
    """Return the texture of a zone: kind `W` (outer walls and blocks), `T` (towers) or `F` (floor)."""
    return f"{kind}_{zone.upper()}"


def all_textures() -> dict[str, bytes]:
    """Return every texture as PNG bytes by lump name (at most 8 characters)."""
    y, x = np.mgrid[:_WALL, : 2 * _WALL]
    shapes = {
        "sand": (y >= 24) & (y < 48),
        "sea": (x >= 80) & (x < 176),
        "leaf": (x - 128) ** 2 + (y - 56) ** 2 < 42**2,
        "rose": np.abs(x - 128) * 0.8 + 8 > (112 - y),
        "mid": y >= 80,
    }
    y, x = np.mgrid[:_WALL, :_WALL]
    top, arrow = y < 20, np.abs(x - 64) < y * 0.5
    y, x = np.mgrid[:_FLOOR, :_FLOOR] >= _FLOOR // 2
    tiles = y != x
    pictures = {}
    for zone, (wall, band, tower, light, dark) in _ZONES.items():
        pictures[texture_name("W", zone)] = _two_tone(shapes[zone], wall, band)
        pictures[texture_name("T", zone)] = _two_tone(top, tower, band)
        pictures[texture_name("F", zone)] = _two_tone(tiles, light, dark)
    pictures["PILLAR"] = _two_tone(top, "ffff8f", "ebdb57")
    pictures["GATE"] = _two_tone(arrow, "cf00cf", "ff7bff")
    pictures["POOL"] = _two_tone(tiles, "8f8fff", "7373ff")
    pictures["STEP"] = _two_tone(np.zeros((32, 32), bool), "ffffff", "ffffff")
    pictures[SKY_NAME] = sky()
    return {name: encode_png(picture) for name, picture in pictures.items()}


def _two_tone(shape_HW: NDArray[np.bool_], base: str, other: str) -> Picture:
    return np.array([_hex(base), _hex(other)], np.uint8)[shape_HW.astype(int)]


def _hex(code: str) -> tuple[int, ...]:
    return tuple(bytes.fromhex(code))


def sky() -> Picture:
    """Draw the sky, uint8 [256, 1024, 3]: pale gradient, coloured hills, a sun."""
    picture = np.empty((SKY_HEIGHT, SKY_WIDTH, 3), np.uint8)
    horizon = _SKY_HORIZON
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
