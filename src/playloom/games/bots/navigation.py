"""Path finding in an arena: shortest-path fields and lines of sight on a grid of 32-unit squares."""

from __future__ import annotations

import heapq
import math

import numpy as np
from numpy.typing import NDArray

from playloom.games.arena.maps import CELL, Variant

Point = tuple[float, float]
"""A place in map units: x east, y north."""
Node = tuple[int, int]
"""A square of the grid: row, column."""

_PER_CELL = 4
_SQUARE = CELL / _PER_CELL
_SOLID = "#TPGW"
_NEAR_WALL = 4.0
"""Extra cost factor beside walls, so that paths leave room for the camera."""
_STEPS: tuple[tuple[int, int, float], ...] = (
    (0, 1, 1.0), (0, -1, 1.0), (1, 0, 1.0), (-1, 0, 1.0),
    (1, 1, 1.42), (1, -1, 1.42), (-1, 1, 1.42), (-1, -1, 1.42),
)  # fmt: skip


class Navigation:
    """Paths in one arena."""

    def __init__(self, variant: Variant) -> None:
        columns, rows = variant.size
        self._shape = (rows * _PER_CELL, columns * _PER_CELL)
        self._open = np.zeros(self._shape, bool)
        self.items: list[Point] = []
        for row, column in np.ndindex(self._shape):
            cell = variant.cell(column // _PER_CELL, row // _PER_CELL)
            self._open[row, column] = cell not in _SOLID
        for name, column, row in variant.items:
            if name.startswith(("torch", "column")):
                self._open[self._node(*cell_centre(column, row))] = False
            else:
                self.items.append(cell_centre(column, row))
        self._walkable = self._open & ~_touching(~self._open, edge=True)
        self._cramped = _touching(~self._walkable, edge=True) | ~self._walkable
        self.nodes: list[Node] = [(int(r), int(c)) for r, c in np.argwhere(self._walkable)]
        self._fields: dict[Node, NDArray[np.float64]] = {}

    def random_point(self, rng: np.random.Generator) -> Point:
        """Draw a walkable place uniformly."""
        return self._point(self.nodes[int(rng.integers(len(self.nodes)))])

    def next_waypoint(self, start: Point, goal: Point) -> Point | None:
        """Return the farthest place on the shortest path in straight walking line; None at the goal."""
        distances = self._field(self.nearest(goal))
        node = self.nearest(start)
        best: Point | None = None
        for _ in range(24):
            following = min(self._around(node), key=lambda n: distances[n], default=node)
            if distances[following] >= distances[node]:
                break
            node = following
            spot = self._point(node)
            if best is not None and not self.clear_line(start, spot):
                break
            best = spot
        return best

    def distance(self, start: Point, goal: Point) -> float:
        """Return the cost of the shortest path: map units, higher beside walls; infinite when there is none."""
        return float(self._field(self.nearest(goal))[self.nearest(start)]) * _SQUARE

    def clear_line(self, start: Point, end: Point) -> bool:
        """Return True if one can walk straight from one place to the other."""
        return self._line(self._walkable, start, end, skip=1)

    def visible(self, start: Point, end: Point) -> bool:
        """Return True if no wall stands between two places."""
        return self._line(self._open, start, end, skip=0)

    def nearest(self, spot: Point) -> Node:
        """Return the walkable square nearest to a place."""
        node = self._node(*spot)
        if self._walkable[node]:
            return node
        return min(self.nodes, key=lambda n: (n[0] - node[0]) ** 2 + (n[1] - node[1]) ** 2)

    def _line(self, passable: NDArray[np.bool_], start: Point, end: Point, skip: int) -> bool:
        length = math.dist(start, end)
        count = max(2, int(length / (_SQUARE / 2)))
        for index in range(skip, count + 1):
            part = index / count
            x, y = start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part
            if not passable[self._node(x, y)]:
                return False
        return True

    def _node(self, x: float, y: float) -> Node:
        row, column = int(-y // _SQUARE), int(x // _SQUARE)
        return min(max(row, 0), self._shape[0] - 1), min(max(column, 0), self._shape[1] - 1)

    def _point(self, node: Node) -> Point:
        return (node[1] + 0.5) * _SQUARE, -(node[0] + 0.5) * _SQUARE

    def _around(self, node: Node) -> list[Node]:
        row, column = node
        found = []
        for down, right, _ in _STEPS:
            other = row + down, column + right
            if self._passes(node, other):
                found.append(other)
        return found

    def _passes(self, node: Node, other: Node) -> bool:
        if not (0 <= other[0] < self._shape[0] and 0 <= other[1] < self._shape[1] and self._walkable[other]):
            return False
        return bool(self._walkable[node[0], other[1]] and self._walkable[other[0], node[1]])

    def _field(self, goal: Node) -> NDArray[np.float64]:
        if goal in self._fields:
            return self._fields[goal]
        distances = np.full(self._shape, np.inf)
        distances[goal] = 0
        queue: list[tuple[float, Node]] = [(0.0, goal)]
        while queue:
            length, node = heapq.heappop(queue)
            if length > distances[node]:
                continue
            for down, right, cost in _STEPS:
                other = node[0] + down, node[1] + right
                if self._passes(node, other):
                    longer = length + cost * (_NEAR_WALL if self._cramped[other] else 1.0)
                    if longer < distances[other]:
                        distances[other] = longer
                        heapq.heappush(queue, (longer, other))
        self._fields[goal] = distances
        return distances


def cell_centre(column: float, row: float) -> Point:
    """Return the middle of a map cell in map units."""
    return column * CELL + CELL / 2, -row * CELL - CELL / 2


def _touching(mask: NDArray[np.bool_], edge: bool) -> NDArray[np.bool_]:
    padded = np.pad(mask, 1, constant_values=edge)
    rows, columns = mask.shape
    touched = np.zeros_like(mask)
    for down in range(3):
        for right in range(3):
            touched |= padded[down : down + rows, right : right + columns]
    return touched
