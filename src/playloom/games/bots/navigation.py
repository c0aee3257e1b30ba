"""Path finding in an arena: shortest-path fields and lines of sight on a grid of 32-unit squares."""

from __future__ import annotations

import functools
import math

import numpy as np
from numpy.typing import NDArray

from playloom.games.arena.maps import CELL, SOLID, Variant

Point = tuple[float, float]  # a place in map units: x east, y north
Node = tuple[int, int]  # a square of the grid: row, column

_PER_CELL = 4
_SQUARE = CELL / _PER_CELL
_NEAR_WALL = 4.0  # extra cost factor beside walls, so that paths leave room for the camera
_STEPS: tuple[tuple[int, int, float], ...] = (
    (0, 1, 1.0), (0, -1, 1.0), (1, 0, 1.0), (-1, 0, 1.0),
    (1, 1, 1.42), (1, -1, 1.42), (-1, 1, 1.42), (-1, -1, 1.42),
)  # fmt: skip


class Navigation:
    """Paths in one arena."""

    def __init__(self, variant: Variant) -> None:
        from scipy.ndimage import binary_dilation
        from scipy.sparse import csr_array

        grid = np.array([list(row) for row in variant.grid])
        solid = np.isin(grid, list(SOLID)).repeat(_PER_CELL, 0).repeat(_PER_CELL, 1)
        self._shape = solid.shape
        self.items: list[Point] = []
        for name, column, row in variant.items:
            if name.startswith(("torch", "column")):
                solid[self._node(*cell_centre(column, row))] = True
            else:
                self.items.append(cell_centre(column, row))
        around = np.ones((3, 3), bool)
        self._open = ~solid
        self._walkable = ~binary_dilation(solid, around, border_value=1)
        self._cost = np.where(binary_dilation(~self._walkable, around, border_value=1), _NEAR_WALL, 1.0)
        self.nodes: list[Node] = [(int(r), int(c)) for r, c in np.argwhere(self._walkable)]
        rows, columns = self._shape
        padded = np.pad(self._walkable, 1)

        def moved(down: int, right: int) -> NDArray[np.bool_]:
            return padded[1 + down : 1 + down + rows, 1 + right : 1 + right + columns]

        # For every step the squares it can be taken from: it must not cut a corner [8, rows, columns].
        self._passable = np.stack([moved(0, 0) & moved(d, r) & moved(0, r) & moved(d, 0) for d, r, _ in _STEPS])
        step, row_from, column_from = np.nonzero(self._passable)
        down, right, cost = np.array(_STEPS).T[:, step]
        places = (row_from, column_from), (row_from + down.astype(int), column_from + right.astype(int))
        ends = tuple(np.ravel_multi_index(place, self._shape) for place in places)
        self._graph = csr_array((cost * self._cost[places[1]], ends), shape=(self._open.size,) * 2)
        self._field = functools.cache(self._distances)

    def random_point(self, rng: np.random.Generator) -> Point:
        """Draw a walkable place uniformly."""
        return self._point(self.nodes[int(rng.integers(len(self.nodes)))])

    def next_waypoint(self, start: Point, goal: Point) -> Point | None:
        """Return the farthest place on the shortest path in straight walking line; None at the goal."""
        distances = self._field(self.nearest(goal))
        node = self.nearest(start)
        best: Point | None = None
        for _ in range(24):
            around = [
                (node[0] + down, node[1] + right)
                for passable, (down, right, _) in zip(self._passable[:, node[0], node[1]], _STEPS, strict=True)
                if passable
            ]
            following = min(around, key=lambda n: distances[n], default=node)
            if distances[following] >= distances[node]:
                break
            node = following
            spot = self._point(node)
            if best is not None and not self.clear_line(start, spot):
                break
            best = spot
        return best

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
        count = max(2, int(math.dist(start, end) / (_SQUARE / 2)))
        parts = (index / count for index in range(skip, count + 1))
        spots = ((start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part) for part in parts)
        return all(passable[self._node(x, y)] for x, y in spots)

    def _node(self, x: float, y: float) -> Node:
        row, column = int(-y // _SQUARE), int(x // _SQUARE)
        return min(max(row, 0), self._shape[0] - 1), min(max(column, 0), self._shape[1] - 1)

    def _point(self, node: Node) -> Point:
        return (node[1] + 0.5) * _SQUARE, -(node[0] + 0.5) * _SQUARE

    def _distances(self, goal: Node) -> NDArray[np.float64]:
        from scipy.sparse.csgraph import dijkstra

        start = np.ravel_multi_index(goal, self._shape)
        return np.asarray(dijkstra(self._graph, indices=start).reshape(self._shape))


def cell_centre(column: float, row: float) -> Point:
    """Return the middle of a map cell in map units."""
    return column * CELL + CELL / 2, -row * CELL - CELL / 2
