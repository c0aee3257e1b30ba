"""Edited episodes: the exact replay of a recording, with foreign objects added that touch nothing.

The objects are things of the map that the engine's simulation ignores, so states and actions stay those of the
recording. Their places follow from its states.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from playloom.data.recording import STATE_COLUMNS, Episode
from playloom.errors import GameError
from playloom.games.arena.env import GAME_NAME, render_episode
from playloom.games.arena.maps import CELL, Variant, variant_of
from playloom.games.arena.wad import ForeignObject

_FOCAL = 120.0  # pixels
_BEHIND = 80.0  # distance of the camera behind the player, map units
_WIDTH = 300
_BODY, _EDGE = 35.0, 140.0  # columns from the middle between which an object begins
_DISTANCES = (100.0, 400.0)  # from the player, map units
_PASSING = 60.0  # least distance of player and camera from an object, map units
_HEIGHTS = (36.0, 100.0)  # of an object, map units
_STAY = (20, 80)  # steps; an object leaves out of sight between them, at the latest after the second
_GAP = 16  # mean of the steps between two objects
_SEQUENCES = 2  # independent sequences of objects
_TRIES = 60
_POSE = [STATE_COLUMNS.index(name) for name in ("x", "y", "yaw")]

Row = NDArray[np.float64]


def render_edited(episode: Episode) -> Iterator[NDArray[np.uint8]]:
    """Render an episode with the objects of `plan_objects`; frames uint8 [180, 300, 3].

    Raises:
        GameError: The episode is of another game, or a state differs from the recorded one.
    """
    if episode.meta.game != GAME_NAME:
        raise GameError(
            f"a recording cannot be edited: it is of the game {episode.meta.game!r}, expected {GAME_NAME!r}; "
            "leave out --edited"
        )
    return render_episode(episode, objects=plan_objects(episode))


def plan_objects(episode: Episode) -> tuple[ForeignObject, ...]:
    """Choose the objects of an episode from its seed: each begins in sight, beside the player's body, on open ground.

    About half of all frames show at least one.
    """
    random = np.random.default_rng((episode.meta.seed, 1))
    variant = variant_of(episode.meta.variant)
    poses = episode.states[:, _POSE].astype(np.float64)
    objects = []
    for _ in range(_SEQUENCES):
        step = int(random.integers(_GAP))
        while step < len(poses):
            height, width = random.uniform(*_HEIGHTS) * np.array([1, random.uniform(0.7, 1.2)])
            place, seed = _place(variant, poses[step], random), int(random.integers(2**31))
            later = poses[step : step + _STAY[1]]
            if place is None or min(_nearest(pose, place) for pose in later) < _PASSING:
                step += 1
                continue
            outside = [_column(pose, place, width / 2) > _WIDTH / 2 for pose in later[_STAY[0] :]]
            steps = _STAY[0] + (outside.index(True) if True in outside else len(outside))
            size = {"height": float(height), "width": float(width)}
            objects.append(ForeignObject(x=place[0], y=place[1], start=step, steps=steps, seed=seed, **size))
            step += steps + int(random.exponential(_GAP))
    return tuple(objects)


def _place(variant: Variant, pose: Row, random: np.random.Generator) -> tuple[float, float] | None:
    """A random place in sight of a pose; None after too many tries."""
    for _ in range(_TRIES):
        angle, distance = random.uniform(-180, 180), np.exp(random.uniform(*np.log(_DISTANCES)))
        x, y = pose[:2] + distance * _ahead(angle)
        if _BODY <= _column(pose, (x, y)) <= _EDGE and _open(variant, pose, (x, y)):
            return float(x), float(y)
    return None


def _column(pose: Row, place: tuple[float, float], half_width: float = 0.0) -> float:
    """Columns from the picture's middle to a place, less half a width in map units; infinite behind the camera."""
    ahead = _ahead(pose[2])
    offset = place - pose[:2]
    depth = float(offset @ ahead) + _BEHIND
    side = abs(float(offset @ (ahead[1], -ahead[0]))) - half_width
    return side * _FOCAL / depth if depth > 0 else math.inf


def _nearest(pose: Row, place: tuple[float, float]) -> float:
    """Distance from the nearer of player and camera to a place, map units."""
    bodies = pose[:2] - np.outer((0, _BEHIND), _ahead(pose[2]))
    return float(np.hypot(*(bodies - place).T).min())


def _open(variant: Variant, pose: Row, place: tuple[float, float]) -> bool:
    """Return True if there is only low ground between the player and a place."""
    points = np.linspace(pose[:2], place, 25)
    cells = np.floor(points / (CELL, -CELL)).astype(int)
    return all(variant.cell(column, row) in ".ab~" for column, row in cells.tolist())


def _ahead(yaw: float) -> Row:
    """Unit vector of a clockwise yaw in degrees."""
    return np.array([math.cos(math.radians(yaw)), -math.sin(math.radians(yaw))])
