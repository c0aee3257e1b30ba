"""The arenas as character grids, and as PWAD archives: a UDMF text map with our textures and actors.

In a grid: `.` floor, `a` `b` steps of 16 and 24, `~` pool, `#` block, `T` tower, `P` light pillar, `G` gate (sinks when
used). The engine builds its own nodes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from playloom.errors import ConfigError, did_you_mean
from playloom.games.arena import textures
from playloom.media.images import encode_png

CELL = 128  # width of a grid cell in map units; one floor tile
SOLID = "#TPG"  # kinds of cells that nobody walks through

Point = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One arena."""

    name: str
    grid: tuple[str, ...]  # rows from north to south, all of one length
    middle: int | None  # width of the zone `mid` between four quarters, in cells; None: four stripes
    items: tuple[tuple[str, float, float], ...]  # (item, column, row) of each item
    heldout: bool = False

    @property
    def size(self) -> Point:
        """Columns, rows."""
        return len(self.grid[0]), len(self.grid)

    def cell(self, column: int, row: int) -> str:
        """Return the grid's character, or `W` (the outer wall) outside it."""
        columns, rows = self.size
        return self.grid[row][column] if 0 <= column < columns and 0 <= row < rows else "W"

    def zone(self, column: int, row: int) -> str:
        """Return the zone's name; outside the grid that of the nearest cell."""
        columns, rows = self.size
        x, y = min(max(column, 0), columns - 1), min(max(row, 0), rows - 1)
        if self.middle is None:
            return ("leaf", "sand", "sea", "rose")[x * 4 // columns]
        if abs(2 * x + 1 - columns) <= self.middle and abs(2 * y + 1 - rows) <= self.middle:
            return "mid"
        north, south = ("sand", "sea"), ("leaf", "rose")
        return (north if 2 * y < rows else south)[2 * x >= columns]


_PLAZA = (
    "............",
    "............",
    "..##....##..",
    "..#......T..",
    "....P.......",
    "....a~~a....",
    "....a~~a....",
    ".......P....",
    "..T......#..",
    "..##....G#..",
    "............",
    "............",
)
_COURT = (
    "............",
    "............",
    "..T..##..#..",
    ".....##.....",
    "............",
    "..##.bb.##..",
    "..#G.bb.G#..",
    "............",
    "............",
    "..P..~~..T..",
    ".....~~.....",
    "............",
    "............",
)
_CANYON = (
    "................",
    "................",
    "..##.......##...",
    "...#..T....#..P.",
    "......aa........",
    "......aa..T.....",
    ".P.#..........#.",
    "..##...~~.....#.",
    ".......~~..G....",
    "................",
)
# fmt: off
_PLAZA_ITEMS = (
    ("medikit", 1, 3), ("medikit", 10, 8), ("stimpack", 3, 10), ("stimpack", 8, 1), ("green_armor", 5.5, 2),
    ("soulsphere", 5.5, 5.5), ("cells", 0, 6), ("rockets", 11, 5), ("shells", 6, 9), ("cells", 3.5, 4),
    ("torch_red", 11, 11), ("torch_blue", 11, 0), ("torch_green", 0, 11), ("column", 0, 0),
)
_COURT_ITEMS = (
    ("medikit", 0.5, 6), ("medikit", 10.5, 6), ("stimpack", 4, 4), ("stimpack", 7, 8), ("green_armor", 5.5, 5.5),
    ("soulsphere", 5.5, 9.5), ("cells", 3, 12), ("rockets", 8, 0), ("shells", 4, 1), ("cells", 8, 10),
    ("torch_red", 11, 12), ("torch_blue", 11, 0), ("torch_green", 0, 12), ("column", 0, 0),
)
_CANYON_ITEMS = (
    ("medikit", 1, 4), ("medikit", 13, 5), ("stimpack", 8, 1), ("stimpack", 5, 8), ("green_armor", 6.5, 4.5),
    ("soulsphere", 7.5, 7.5), ("cells", 0, 0), ("rockets", 15, 9), ("shells", 9, 4), ("torch_blue", 15, 0),
    ("column", 0, 9),
)
# fmt: on
VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant(name="plaza", grid=_PLAZA, middle=4, items=_PLAZA_ITEMS),
        Variant(name="court", grid=_COURT, middle=2, items=_COURT_ITEMS),
        Variant(name="canyon", grid=_CANYON, middle=None, items=_CANYON_ITEMS, heldout=True),
    )
}


def variant_of(name: str) -> Variant:
    """Return the arena of that name."""
    if name not in VARIANTS:
        raise ConfigError(f"unknown arena variant {name!r}; {did_you_mean(name, VARIANTS)}")
    return VARIANTS[name]


def free_cells(variant: Variant) -> list[Point]:
    """Return (column, row) of every walkable cell."""
    columns, rows = variant.size
    return [(x, y) for y in range(rows) for x in range(columns) if variant.grid[y][x] not in SOLID]


_HEADER = struct.Struct("<4sii")
_ENTRY = struct.Struct("<ii8s")


def pwad_bytes(lumps: Sequence[tuple[str, bytes]]) -> bytes:
    """Return a PWAD file with the given (name, content) lumps in order; an empty content makes a marker."""
    body, directory = bytearray(), bytearray()
    for name, content in lumps:
        directory += _ENTRY.pack(_HEADER.size + len(body), len(content), name.encode("ascii"))
        body += content
    return _HEADER.pack(b"PWAD", len(lumps), _HEADER.size + len(body)) + bytes(body) + bytes(directory)


# DECORATE lump: actors, bots, and weapons with one alternate fire and reload, visible at any time.
_ACTORS = Path(__file__).with_name("actors.txt")
_MAPINFO = b"""
gameinfo { PlayerClasses = "LoomPlayer", "LoomBot" }
map MAP01 "Arena" { sky1 = "PLSKY", 0.0 }
"""
_SKY_CEILING = 512
_WALL_HEIGHT = 88
_HEIGHTS = {".": 0, "a": 16, "b": 24, "~": -20, "#": 80, "T": 216, "P": 120, "G": 80}
_ITEM_TYPES = {
    "medikit": 2012, "stimpack": 2011, "green_armor": 2018, "soulsphere": 2013, "cells": 17, "rockets": 2046,
    "shells": 2049, "torch_red": 46, "torch_blue": 44, "torch_green": 45, "column": 48,
}  # fmt: skip
_DEATHMATCH_START = 11
_PLAYER_START = 1
_TICS_BEFORE = 1 + 3 * 14  # tics from the map's begin to step 0; six more in some games
_FIRST_NUMBER = 31000  # editor number of the first foreign object
_FOREIGN = """
ACTOR Foreign{index} {number}
{{
  XScale {x_scale} YScale {y_scale} Radius 1 Height 1
  +NOINTERACTION +NOBLOCKMAP +NOGRAVITY +SYNCHRONIZED +NOTELEPORT +DONTSPLASH
  States
  {{
  Spawn:
    TNT1 A {wait}
    {sprite} A {tics}
    Stop
  }}
}}
"""


@dataclass(frozen=True, kw_only=True)
class ForeignObject:
    """A drawn object on the ground that nothing in the game touches, sees or waits for."""

    x: float  # map units
    y: float
    start: int  # first step of the episode that shows it, up to two steps early
    steps: int  # number of steps that it stays
    height: float  # map units
    width: float
    seed: int  # seed of its sprite, see `draw_sprite`


def arena_wad(variant: Variant, objects: Sequence[ForeignObject] = ()) -> bytes:
    """Return the PWAD of an arena: actors, textures, sky, map and foreign objects; the same bytes every time."""
    actors, sprites = _ACTORS.read_bytes(), []
    for index, item in enumerate(objects):
        name = f"X{index:03d}"
        sprites.append((f"{name}A0", _sprite_png(item.seed)))
        actors += _FOREIGN.format(
            index=index,
            number=_FIRST_NUMBER + index,
            x_scale=round(item.width / textures.SIDE, 4),
            y_scale=round(item.height / textures.SIDE, 4),
            wait=_TICS_BEFORE + 3 * item.start,
            tics=3 * item.steps,
            sprite=name,
        ).encode()
    lumps: list[tuple[str, bytes]] = [
        ("DECORATE", actors),
        ("MAPINFO", _MAPINFO),
        *([("S_START", b""), *sprites, ("S_END", b"")] if sprites else []),
        ("TX_START", b""),
        *sorted(textures.all_textures().items()),
        ("TX_END", b""),
        ("MAP01", b""),
        ("TEXTMAP", _Udmf(variant, objects).text().encode()),
        ("ENDMAP", b""),
    ]
    return pwad_bytes(lumps)


@dataclass
class _Udmf:
    variant: Variant
    objects: Sequence[ForeignObject]
    vertices: dict[Point, int] = field(default_factory=dict)
    sectors: dict[tuple[str, str, int], int] = field(default_factory=dict)
    sides: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)

    def text(self) -> str:
        columns, rows = self.variant.size
        for y in range(-1, rows + 2):
            for x in range(-1, columns + 2):
                if x <= columns:
                    self._edge((x, y), (x + 1, y), (x, y), (x, y - 1))
                if y <= rows:
                    self._edge((x, y + 1), (x, y), (x, y), (x - 1, y))
        parts = ['namespace = "zdoom";']
        parts += [f"vertex{{x={x * CELL}.0;y={-y * CELL}.0;}}" for x, y in self.vertices]
        parts += self.lines + self.sides + [self._sector(*key) for key in self.sectors]
        cells = free_cells(self.variant)
        spots = [c for i, c in enumerate(cells) if self.variant.cell(*c) == "." and i % 7 == 3]
        # Towards the middle of the arena, in whole eighths of a turn (0 east, 90 north).
        facing = {(True, True): 45, (False, True): 135, (False, False): 225, (True, False): 315}
        parts += [_thing(_DEATHMATCH_START, x, y, facing[x * 2 < columns, y * 2 >= rows]) for x, y in spots]
        parts += [_thing(_PLAYER_START + i, *cells[i], 270) for i in range(4)]
        parts += [_thing(_ITEM_TYPES[kind], x, y, 0) for kind, x, y in self.variant.items]
        places = [(item.x / CELL - 0.5, -item.y / CELL - 0.5) for item in self.objects]
        parts += [_thing(_FIRST_NUMBER + index, *place, 0) for index, place in enumerate(places)]
        return "\n".join(parts)

    def _key(self, column: int, row: int) -> tuple[str, str, int] | None:
        columns, rows = self.variant.size
        if not (-1 <= column <= columns and -1 <= row <= rows):
            return None
        kind = self.variant.cell(column, row)
        tag = 1 + row * columns + column if kind == "G" else 0
        return kind, self.variant.zone(column, row), tag

    def _edge(self, start: Point, end: Point, right: Point, left: Point) -> None:
        """Line from `start` to `end` between the cells on its right and left, where they differ."""
        front, back = self._key(*right), self._key(*left)
        if front == back:
            return
        if front is None:
            start, end, front, back = end, start, back, front
        assert front is not None
        first, last = (self.vertices.setdefault(point, len(self.vertices)) for point in (start, end))
        if back is None:
            side = self._side(front, front, start)
            self.lines.append(f"linedef{{v1={first};v2={last};sidefront={side};blocking=true;}}")
            return
        if front[0] == "G":
            # A line is used from its front, so the gate has to be at its back.
            start, end, first, last, front, back = end, start, last, first, back, front
        sides = f"sidefront={self._side(front, back, start)};sideback={self._side(back, front, end)};"
        line = f"v1={first};v2={last};{sides}twosided=true;"
        if back[0] == "G":
            # 62 Plat_DownWaitUpStay (tag, speed, wait): the block sinks, waits three seconds, comes back.
            line += f"special=62;arg0={back[2]};arg1=64;arg2=105;playeruse=true;repeatspecial=true;"
        self.lines.append(f"linedef{{{line}}}")

    def _side(self, own: tuple[str, str, int], other: tuple[str, str, int], start: Point) -> int:
        """Side of a line that shows the face of `other`; seen from it the line begins at `start`."""
        sector = self.sectors.setdefault(own, len(self.sectors))
        self.sectors.setdefault(other, len(self.sectors))
        kind, zone, _ = other
        wall, tower = (textures.texture_name(surface, zone) for surface in "WT")
        texture = {"#": wall, "W": wall, "T": tower, "P": "PILLAR", "G": "GATE"}.get(kind, "STEP")
        # Wall textures are two cells wide: every second line begins in their middle.
        offset = CELL * (sum(start) % 2)
        self.sides.append(
            f'sidedef{{sector={sector};offsetx={offset};texturetop="-";texturebottom="{texture}";'
            f'texturemiddle="{"-" if own != other else texture}";}}'
        )
        return len(self.sides) - 1

    def _sector(self, kind: str, zone: str, tag: int) -> str:
        floor = _WALL_HEIGHT if kind == "W" else _HEIGHTS[kind]
        # The wall around has a sky ceiling just above its top: between two skies the engine draws only sky.
        ceiling = _WALL_HEIGHT + 8 if kind == "W" else _SKY_CEILING
        name = "POOL" if kind == "~" else textures.texture_name("F", zone)
        return (
            f'sector{{heightfloor={floor};heightceiling={ceiling};texturefloor="{name}";'
            f'textureceiling="F_SKY1";lightlevel=224;id={tag};}}'
        )


def _sprite_png(seed: int) -> bytes:
    """PNG with the engine's chunk `grAb`, the place of the foot, after the header's 33 bytes."""
    picture = textures.draw_sprite(seed)
    foot = int(np.flatnonzero(picture[..., 3].any(1))[-1]) + 1
    png, offset = encode_png(picture), b"grAb" + struct.pack(">ii", textures.SIDE // 2, foot)
    return png[:33] + struct.pack(">I", 8) + offset + struct.pack(">I", zlib.crc32(offset)) + png[33:]


def _thing(kind: int, column: float, row: float, angle: int) -> str:
    x, y = column * CELL + CELL / 2, -row * CELL - CELL / 2
    skills = "".join(f"skill{i}=true;" for i in range(1, 6))
    return f"thing{{x={x};y={y};angle={angle};type={kind};{skills}single=true;coop=true;dm=true;}}"
