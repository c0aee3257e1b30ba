"""What recorded players did, in figures: how smoothly they turned, which controls they used.

Works on actions and states alone. Knows nothing of files, pictures or the engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.actions import CONTROLS, decode_values
from playloom.data.recording import STATE_COLUMNS, Episode

_NAMES = [control.name for control in CONTROLS]
_STEPS_PER_SECOND = 10
_LONG_TURN = 5
"""Steps of full stick that count as a long turn."""


@dataclass(frozen=True, kw_only=True)
class PlayStatistics:
    """Figures of some episodes together; shares are of all steps."""

    steps: int
    """All steps."""
    reversals_a_second: float
    """How often the turn stick changed sides, rests between ignored."""
    turning_standing: float
    """Share: right stick x in use, left stick at rest."""
    turning_walking: float
    """Share: right stick x in use, left stick forward."""
    walking_straight: float
    """Share: left stick forward, right stick x at rest."""
    backward: float
    """Share: left stick back."""
    sideways: float
    """Share: left stick sideways only."""
    at_rest: float
    """Share: no control touched."""
    full_turns: float
    """Share: inside a run of at least five steps of full right stick x to one side."""
    off_level: float
    """Share: gaze more than 2 degrees off level."""
    dead: float
    """Share: lying dead."""
    usage: dict[str, float]
    """Share of steps each control was used in, by name."""


def play_statistics(episodes: Sequence[Episode]) -> PlayStatistics:
    """The figures of all these episodes together; at least one."""
    pads = [decode_values(episode.actions_TA) for episode in episodes]
    pad = np.concatenate(pads)
    states = np.concatenate([episode.states for episode in episodes])
    side, forward, turn = (pad[:, _NAMES.index(n)] for n in ("left_stick_x", "left_stick_y", "right_stick_x"))
    turns = [episode_pad[:, _NAMES.index("right_stick_x")] for episode_pad in pads]
    used = pad != 0

    def share(mask: NDArray[np.bool_]) -> float:
        return float(mask.mean())

    return PlayStatistics(
        steps=len(pad),
        reversals_a_second=sum(_reversals(t) for t in turns) / len(pad) * _STEPS_PER_SECOND,
        turning_standing=share((turn != 0) & (forward == 0) & (side == 0)),
        turning_walking=share((turn != 0) & (forward > 0)),
        walking_straight=share((turn == 0) & (forward > 0)),
        backward=share(forward < 0),
        sideways=share((forward == 0) & (side != 0)),
        at_rest=share(~used.any(1)),
        full_turns=sum(_in_long_runs(t == s) for t in turns for s in (-1, 1)) / len(pad),
        off_level=share(np.abs(states[:, STATE_COLUMNS.index("pitch")]) > 2),
        dead=share(states[:, STATE_COLUMNS.index("dead")] > 0),
        usage={name: share(used[:, index]) for index, name in enumerate(_NAMES)},
    )


def _reversals(turn_T: NDArray[np.float32]) -> int:
    sides = np.sign(turn_T)
    sides = sides[sides != 0]
    return int((sides[1:] != sides[:-1]).sum())


def _in_long_runs(mask_T: NDArray[np.bool_]) -> int:
    """How many steps lie in runs of at least `_LONG_TURN` True steps."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask_T.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= _LONG_TURN].sum())
