"""What a player did in the arena, in figures: how far it came, how it turned, how it fared.

Owns the figures of one game and their mean over several. Works on state rows and actions alone; knows nothing of
files, pictures, models or the engine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions import CONTROLS, REST_VALUES, decode_values
from playloom.data.recording import STATE_COLUMNS
from playloom.errors import RecordingError
from playloom.games.maps import CELL

STEPS_PER_SECOND = 10
_FORWARD = [control.name for control in CONTROLS].index("left_stick_y")
_PRESSED = 0.375
"""Least forward stick that counts as walking."""
_STUCK = 2.0
"""Map units a step: who presses forward and moves less stands against something."""


@dataclass(frozen=True, kw_only=True)
class PlayFigures:
    """Figures of one game; over the player's own steps in which it is alive, where not said otherwise."""

    steps: int
    """Those steps."""
    way: float
    """Map units walked a second."""
    cells: int
    """Floor tiles visited."""
    blocked: float
    """Share: the left stick is forward (0.375 or more) and the body hardly moves (under 2 units)."""
    turning: float
    """Degrees turned a second, to either side."""
    changes: float
    """Share of steps whose input is not that of the step before."""
    resting: float
    """Share of steps in which nothing is touched."""
    frags: float
    """Others beaten, less the times it beat itself, as the game counts; whoever pressed. A fall takes none away."""
    deaths: float
    """How often the player fell; whoever pressed."""
    dead: float
    """Share of all steps of the game spent lying."""


class Summary(NamedTuple):
    """One figure over several games."""

    mean: float
    """Over the games."""
    error: float | None
    """Standard error of the mean; None with one game."""


def play_figures(
    states: NDArray[np.float32], actions_TA: NDArray[np.uint8], own_T: NDArray[np.bool_] | None = None
) -> PlayFigures:
    """The figures of a stretch of play.

    Args:
        states: state rows [T, 9], see `STATE_COLUMNS`; row t is measured when frame t is seen.
        actions_TA: action values, uint8 [T, 16]; action t leads from row t to row t + 1.
        own_T: which steps are the player's own; None: all.

    Raises:
        RecordingError: when there are fewer than two steps, or not as many actions as rows.
    """
    if len(states) < 2 or len(states) != len(actions_TA):
        raise RecordingError(
            f"figures of play need two steps or more, a state and an action each; got {len(states)} states and "
            f"{len(actions_TA)} actions"
        )
    dead_T = _column(states, "dead") > 0
    own_T = ~dead_T if own_T is None else own_T & ~dead_T
    moving = own_T[:-1] & ~dead_T[1:]
    way = np.hypot(np.diff(_column(states, "x")), np.diff(_column(states, "y")))[moving]
    turned = ((np.diff(_column(states, "yaw")) + 180) % 360 - 180)[moving]
    forward = decode_values(actions_TA)[:-1, _FORWARD][moving] >= _PRESSED
    changed = (actions_TA[1:] != actions_TA[:-1]).any(1)[own_T[1:] & own_T[:-1]]
    frags = _column(states, "frags")
    return PlayFigures(
        steps=int(own_T.sum()),
        way=_mean(way) * STEPS_PER_SECOND,
        cells=len(_cells(states[own_T])),
        blocked=_mean(forward & (way < _STUCK)),
        turning=_mean(np.abs(turned)) * STEPS_PER_SECOND,
        changes=_mean(changed),
        resting=_mean((actions_TA == REST_VALUES).all(1)[own_T]),
        frags=float(frags[-1] - frags[0]),
        deaths=float((dead_T[1:] & ~dead_T[:-1]).sum()),
        dead=_mean(dead_T),
    )


def summary(values: Sequence[float]) -> Summary:
    """Mean and standard error of one figure over games; at least one."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Summary(mean, None)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Summary(mean, spread / math.sqrt(len(values)))


def _column(states: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    return states[:, STATE_COLUMNS.index(name)].astype(np.float64)


def _cells(states: NDArray[np.float32]) -> set[tuple[int, int]]:
    """Column and row of every floor tile that was stood on."""
    return {(math.floor(x / CELL), math.floor(y / CELL)) for x, y in states[:, :2].tolist()}


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else 0.0
