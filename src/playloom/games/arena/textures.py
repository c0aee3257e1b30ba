"""Drawn pictures of the arena: textures of walls, floors and the sky, and sprites of foreign objects.

Textures have bright flat colours of the engine's palette, so that a small tokenizer can learn them and every place
looks different. A sprite has a shape, a pattern and two colours for every seed. The test objects of
`playloom.evaluation.persistency` (red ball, blue crate, yellow cone) are not among them.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Callable

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
Grid = NDArray[np.float64]
Draw = Callable[[Grid, Grid, np.random.Generator], tuple[NDArray[np.bool_], Grid]]
"""Converts coordinates in [-1, 1] (right, down) to a mask and the light on it, about 0.3 to 1.2."""
_PROFILES: dict[str, Callable[[Grid], Grid]] = {  # height of a hill, from 0 at its edge to 1 at its summit
    "peak": lambda inside: inside,
    "round": lambda inside: np.sin(inside * math.pi / 2),
    "mesa": lambda inside: np.minimum(1, inside * 2.5),
}
SIDE = 64  # height and width of a sprite in pixels


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
    y, x = np.mgrid[:SKY_HEIGHT, :SKY_WIDTH]
    horizon, bands = _SKY_HORIZON, np.array([_hex(code) for code in _SKY_BANDS], np.uint8)
    picture = bands[np.minimum(y * len(bands) // horizon, len(bands) - 1)]
    cx, cy, radius, colour = _SUN
    picture[(x - cx) ** 2 + (y - cy) ** 2 < radius**2] = _hex(colour)
    for summit, half, height, colour, shape in _HILLS:
        away = np.abs((x - summit + SKY_WIDTH // 2) % SKY_WIDTH - SKY_WIDTH // 2)
        picture[horizon - y <= height * _PROFILES[shape](np.clip(1 - away / half, 0, 1))] = _hex(colour)
    picture[horizon:] = _hex("c7c7c7")
    return picture


def draw_sprite(seed: int) -> NDArray[np.uint8]:
    """Draw the sprite of a seed: RGBA, uint8 [64, 64, 4], opacity 0 or 255."""
    random = np.random.default_rng(seed)
    name = str(random.choice(sorted(SHAPES)))
    middle = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = np.meshgrid(middle, middle, indexing="ij")
    inside, light = SHAPES[name](x, y, random)
    hues = random.random(2)
    if name in _TEST_HUES:  # no hue near that of a test object of the same shape
        hues = _TEST_HUES[name] + 0.17 + 0.66 * hues
    saturation, value = random.choice([0.15, 0.6, 0.95], 2, p=[0.2, 0.3, 0.5]), random.uniform(0.45, 1, 2)
    colours = zip(hues % 1, saturation, value, strict=True)
    main, other = np.array([colorsys.hsv_to_rgb(*hsv) for hsv in colours]) * 255
    second = _pattern(x, y, random)
    colour = np.where(second[..., None], other, main) * np.clip(light, 0.25, 1.25)[..., None]
    opacity = np.where(inside, 255, 0)
    return np.dstack([np.clip(colour, 0, 255), opacity]).astype(np.uint8)


def _pattern(x: Grid, y: Grid, random: np.random.Generator) -> NDArray[np.bool_]:
    """Mask of the second colour; in two of seven cases empty."""
    count = int(random.integers(2, 5))
    across, down = np.floor((x + 1) * count) % 2 > 0, np.floor((y + 1) * count) % 2 > 0
    dots = ((x * count) % 1 - 0.5) ** 2 + ((y * count) % 1 - 0.5) ** 2 < 0.1
    none = np.zeros_like(across)
    kinds = [none, none, across, down, across ^ down, dots, y > random.uniform(-0.5, 0.5)]
    return kinds[int(random.integers(len(kinds)))]


def _turned(half: Callable[[Grid], Grid]) -> Draw:
    """Solid of revolution with the half width `half` at height t, from 0 (top) to 1 (foot)."""

    def draw(x: Grid, y: Grid, _: np.random.Generator) -> tuple[NDArray[np.bool_], Grid]:
        width = np.maximum(half((y + 1) / 2), 1e-9)
        normal = np.clip(x / width, -1, 1)
        return np.abs(x) <= width, 0.3 + 0.8 * np.clip(np.sqrt(1 - normal**2) * 0.8 - 0.5 * normal, 0, 1)

    return draw


def _flat(radius: Callable[[Grid], Grid]) -> Draw:
    """Plate with a bright rim: the outline `radius` at angle a, 0 right and a quarter turn down."""

    def draw(x: Grid, y: Grid, _: np.random.Generator) -> tuple[NDArray[np.bool_], Grid]:
        share = np.hypot(x, y) / radius(np.arctan2(y, x))
        return share <= 1, np.where(share > 0.8, 1.15, 0.85 - 0.2 * y)

    return draw


def _box(lid: float) -> Draw:
    """Box seen from above, with an edge in front; its lid takes the share `lid` of the height."""

    def draw(x: Grid, y: Grid, random: np.random.Generator) -> tuple[NDArray[np.bool_], Grid]:
        edge = random.uniform(-0.5, 0.5)
        front, back = (2 * lid * np.abs(x - e) / (1 + np.sign(e - x) * e) / 2 for e in (edge, -edge))
        light = np.where(y + 1 < 2 * lid - front, 1.2, np.where(x < edge, 0.9, 0.55))
        return (y <= 1 - front) & (y >= back - 1), light

    return draw


def _pyramid(x: Grid, y: Grid, random: np.random.Generator) -> tuple[NDArray[np.bool_], Grid]:
    edge = random.uniform(-0.5, 0.5) * (y + 1) / 2
    return np.abs(x) <= (y + 1) / 2, np.where(x < edge, 1.0, 0.55)


def _blob(x: Grid, y: Grid, random: np.random.Generator) -> tuple[NDArray[np.bool_], Grid]:
    phases, angle = random.uniform(0, 2 * np.pi, 4), np.arctan2(y, x)
    radius = 0.78 + sum(0.09 * np.cos((k + 2) * angle + phase) for k, phase in enumerate(phases)) * 0.6
    share = np.hypot(x, y) / radius
    front = np.sqrt(np.clip(1 - share**2, 0, 1))
    return np.asarray(share <= 1), np.asarray(0.4 + 0.75 * np.clip(front - 0.35 * x - 0.35 * y, 0, 1))


def _glyph(x: Grid, y: Grid, random: np.random.Generator) -> tuple[NDArray[np.bool_], Grid]:
    """Block letter of no alphabet, symmetrical in half of the cases."""
    cells = random.random((6, 5)) < 0.6
    cells[-1, 1:4] = True
    if random.random() < 0.5:
        cells[:, 3:] = cells[:, 1::-1]
    row, column = ((y + 1) * 3).astype(int), ((x + 1) * 2.5).astype(int)
    return np.asarray(cells[row, column]), np.asarray(0.75 + 0.35 * ((x + 1) * 2.5 % 1 < 0.5))


def _sign(x: Grid, y: Grid, random: np.random.Generator) -> tuple[NDArray[np.bool_], Grid]:
    """Board with a glyph, on a post."""
    board = (np.abs(x) < 0.9) & (y < 0.25)
    mark, _ = _glyph(np.clip(x * 1.4, -1, 0.99), np.clip((y + 0.4) * 1.9, -1, 0.99), random)
    return board | (np.abs(x) < 0.12), np.where(board & mark, 0.3, np.where(board, 1.1, 0.6))


SHAPES: dict[str, Draw] = {
    "barrel": _turned(lambda t: 0.6 + 0.25 * np.sin(np.pi * t)),
    "beehive": _turned(lambda t: 0.85 * np.sqrt(np.sin(np.pi * (0.1 + 0.8 * t))) - 0.08 * (t * 10 % 1 < 0.3)),
    "bell": _turned(lambda t: 0.3 + 0.6 * t**3 + 0.15 * np.sqrt(t)),
    "bottle": _turned(lambda t: np.where(t < 0.35, 0.18, np.minimum(0.55, 0.18 + (t - 0.35) * 3))),
    "capsule": _turned(lambda t: 0.45 * np.sqrt(1 - np.clip(np.abs(2 * t - 1) * 2 - 1, 0, 1) ** 2)),
    "cone": _turned(lambda t: 0.85 * t),
    "cup": _turned(lambda t: np.where(t < 0.55, 0.8 - 0.6 * t, np.where(t < 0.85, 0.12, 0.5))),
    "egg": _turned(lambda t: 0.8 * np.sqrt(np.clip(4 * t * (1 - t), 0, 1)) * (0.75 + 0.25 * t)),
    "hourglass": _turned(lambda t: 0.2 + 1.1 * np.abs(t - 0.5)),
    "mushroom": _turned(lambda t: np.where(t < 0.5, 0.95 * np.sqrt(np.clip(4 * t * (1 - t), 0, 1)), 0.28)),
    "pawn": _turned(lambda t: np.where(t < 0.4, 1.8 * np.sqrt(np.clip(0.4 * t - t**2, 0, 1)), 0.15 + 0.6 * t**3)),
    "pillar": _turned(lambda t: np.where(np.abs(t - 0.5) > 0.42, 0.5, 0.34)),
    "pin": _turned(lambda t: 0.22 + 0.25 * np.sin(2 * np.pi * (t - 0.35)) ** 2 * t),
    "rings": _turned(lambda t: 0.35 + 0.5 * t + 0.12 * np.sin(25 * t)),
    "sphere": _turned(lambda t: np.sqrt(np.clip(4 * t * (1 - t), 0, 1))),
    "spindle": _turned(lambda t: 0.8 - 1.5 * np.abs(t - 0.5)),
    "tree": _turned(lambda t: np.where(t > 0.8, 0.15, 0.3 + 0.9 * (t * 2.5 % 1) * (0.4 + t))),
    "urn": _turned(lambda t: 0.5 + 0.28 * np.sin(5.5 * t)),
    "box": _box(0.2),
    "slab": _box(0.45),
    "pyramid": _pyramid,
    "clover": _flat(lambda a: 0.65 + 0.33 * np.abs(np.cos(2 * a))),
    "drop": _flat(lambda a: 0.7 + 0.28 * np.clip(-np.sin(a), 0, 1) ** 6),
    "flower": _flat(lambda a: 0.72 + 0.25 * np.cos(6 * a)),
    "gear": _flat(lambda a: np.where(np.cos(8 * a) > 0, 0.95, 0.72)),
    "heart": _flat(lambda a: 0.95 - 0.5 * np.clip(-np.sin(a), 0, 1) ** 8 - 0.15 * np.cos(a) ** 2),
    "hexagon": _flat(lambda a: 0.82 / np.cos((a + np.pi / 6) % (np.pi / 3) - np.pi / 6)),
    "star": _flat(lambda a: 0.4 + 0.55 * np.abs(((a + np.pi / 2) * 5 / (2 * np.pi)) % 1 * 2 - 1)),
    "blob": _blob,
    "glyph": _glyph,
    "sign": _sign,
}  # fmt: skip
# Hue of the test object that a shape resembles, [0, 1].
_TEST_HUES = {"sphere": 0.99, "egg": 0.99, "blob": 0.99, "box": 0.63, "slab": 0.63, "cone": 0.13, "pyramid": 0.13}
