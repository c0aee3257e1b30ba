"""The arenas as character grids.

`.` floor, `a` `b` steps of 16 and 24, `~` pool, `#` block, `T` tower, `P` light pillar, `G` gate (sinks when used).
"""

from __future__ import annotations

from dataclasses import dataclass

from playloom.errors import ConfigError, did_you_mean

CELL = 128  # width of a grid cell in map units; one floor tile
_SOLID = "#TPG"

Point = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One arena."""

    name: str
    grid: tuple[str, ...]  # rows from north to south, all of one length
    zones: tuple[str, ...]  # zone letters, same shape: s(and), e (sea), l(eaf), r(ose), m(id)
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
        letter = self.zones[min(max(row, 0), rows - 1)][min(max(column, 0), columns - 1)]
        return {"s": "sand", "e": "sea", "l": "leaf", "r": "rose", "m": "mid"}[letter]


def _quarters(columns: int, rows: int, middle: int) -> tuple[str, ...]:

    def letter(x: int, y: int) -> str:
        if abs(2 * x + 1 - columns) <= middle and abs(2 * y + 1 - rows) <= middle:
            return "m"
        return ("s" if x * 2 < columns else "e") if y * 2 < rows else ("l" if x * 2 < columns else "r")

    return tuple("".join(letter(x, y) for x in range(columns)) for y in range(rows))


def _stripes(columns: int, rows: int) -> tuple[str, ...]:
    return tuple("".join("lser"[min(3, x * 4 // columns)] for x in range(columns)) for _ in range(rows))


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
        Variant(name="plaza", grid=_PLAZA, zones=_quarters(12, 12, 4), items=_PLAZA_ITEMS),
        Variant(name="court", grid=_COURT, zones=_quarters(12, 13, 2), items=_COURT_ITEMS),
        Variant(name="canyon", grid=_CANYON, zones=_stripes(16, 10), items=_CANYON_ITEMS, heldout=True),
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
    return [(x, y) for y in range(rows) for x in range(columns) if variant.grid[y][x] not in _SOLID]
