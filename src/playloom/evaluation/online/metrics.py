"""Metrics of play: per episode, their means by player, and statistics of recordings."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.recording import STATE_COLUMNS, Episode
from playloom.errors import RecordingError
from playloom.evaluation.online.rollout import EpisodeResult
from playloom.games.arena.maps import CELL

STEPS_PER_SECOND = 10
_FORWARD = [control.name for control in CONTROLS].index("left_stick_y")
_PRESSED = 0.375
"""Least forward stick that counts as walking."""
_STUCK = 2.0
"""Map units per step below which a player who walks forward is blocked."""


@dataclass(frozen=True, kw_only=True)
class EpisodeMetrics:
    """Metrics of one game, over the player's own steps in which it is alive, unless said otherwise."""

    steps: int
    """Own steps alive."""
    way: float
    """Map units walked per second."""
    cells: int
    """Floor tiles visited."""
    blocked: float
    """Share of steps with the left stick forward (0.375 or more) and the body nearly still (under 2 units)."""
    turning: float
    """Degrees turned per second, to either side."""
    changes: float
    """Share of steps whose input differs from that of the step before."""
    resting: float
    """Share of steps with every control at rest."""
    frags: float
    """Frags as reported by the game (suicides subtract), scripted steps included."""
    deaths: float
    """Number of deaths, scripted steps included."""
    dead: float
    """Share of all steps of the game spent dead."""


class Summary(NamedTuple):
    """Mean and error of one metric over several games."""

    mean: float
    error: float | None
    """Standard error of the mean; None with one game."""


def episode_metrics(
    states: NDArray[np.float32], actions_TA: NDArray[np.uint8], own_T: NDArray[np.bool_] | None = None
) -> EpisodeMetrics:
    """Compute the metrics of a stretch of play.

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
    return EpisodeMetrics(
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
    """Return mean and standard error of one metric over at least one game."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return Summary(mean, None)
    spread = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))
    return Summary(mean, spread / math.sqrt(len(values)))


def _column(states: NDArray[np.float32], name: str) -> NDArray[np.float64]:
    return states[:, STATE_COLUMNS.index(name)].astype(np.float64)


def _cells(states: NDArray[np.float32]) -> set[tuple[int, int]]:
    return {(math.floor(x / CELL), math.floor(y / CELL)) for x, y in states[:, :2].tolist()}


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


class Column(NamedTuple):
    """One metric of the table."""

    name: str
    """Key in JSON."""
    title: str
    """Heading."""
    scale: float
    """Factor applied for display."""
    digits: int
    """Digits after the point."""


COLUMNS = (
    Column("way", "way units/s", 1, 0),
    Column("cells", "cells", 1, 1),
    Column("blocked", "blocked %", 100, 1),
    Column("turning", "turning deg/s", 1, 1),
    Column("changes", "changes %", 100, 1),
    Column("resting", "resting %", 100, 1),
    Column("frags", "frags", 1, 2),
    Column("deaths", "deaths", 1, 2),
    Column("dead", "dead %", 100, 1),
    Column("steps_per_second", "steps_per_second", 1, 1),
)
"""Columns of the table, from left to right."""


@dataclass(frozen=True, kw_only=True)
class Game:
    """One game of one player."""

    player: str
    seed: int
    steps: int
    """Inputs given by the player."""
    figures: EpisodeMetrics | None
    """Metrics; None when the game was stopped before two steps."""
    steps_per_second: float | None
    """Steps per second, the game's own time included; None for scripted players, which run inside the game."""
    files: tuple[Path, ...]
    """Recording, contact sheet and video, as far as written."""

    @classmethod
    def of(cls, player: str, played: EpisodeResult, lead: int, files: tuple[Path, ...]) -> Game:
        """Return the metrics of the steps after the first warm-up."""
        states, actions_TA, own_T = played.episode.states[lead:], played.episode.actions_TA[lead:], played.own_T[lead:]
        steps = int(own_T.sum())
        return cls(
            player=player,
            seed=played.episode.meta.seed,
            steps=steps,
            figures=episode_metrics(states, actions_TA, own_T) if len(states) > 1 else None,
            steps_per_second=steps / played.seconds if played.seconds else None,
            files=files,
        )

    def value(self, name: str) -> float | None:
        """Return a metric by its name in `COLUMNS`."""
        if name == "steps_per_second":
            return self.steps_per_second
        return None if self.figures is None else float(getattr(self.figures, name))


@dataclass(frozen=True, kw_only=True)
class ActReport:
    """Metrics of all games, in the order played."""

    folder: Path
    """Output folder; absent when nothing was played."""
    facts: Mapping[str, Any]
    """Settings and machine, JSON values."""
    games: list[Game] = field(default_factory=list)

    def add(self, game: Game) -> None:
        """Append a game."""
        self.games.append(game)

    @property
    def players(self) -> list[str]:
        """Names of all players, in order."""
        return list(dict.fromkeys(game.player for game in self.games))

    def mean(self, player: str, name: str) -> Summary | None:
        """Return a player's metric over its games; None where no game has it."""
        values = [game.value(name) for game in self.games if game.player == player]
        known = [value for value in values if value is not None]
        return summary(known) if known else None

    def head(self) -> tuple[str, ...]:
        """Return the titles of the table."""
        return "player", "games", *(column.title for column in COLUMNS)

    def lines(self) -> list[tuple[str, ...]]:
        """Return one row per player: mean ± standard error over its games."""
        return [
            (player, str(self._count(player)), *(_cell(self.mean(player, c.name), c) for c in COLUMNS))
            for player in self.players
        ]

    def means(self) -> dict[str, Any]:
        """Return facts and means as JSON values."""
        players = {
            player: {"games": self._count(player)}
            | {c.name: None if (m := self.mean(player, c.name)) is None else m._asdict() for c in COLUMNS}
            for player in self.players
        }
        return {**self.facts, "players": players}

    def to_dict(self) -> dict[str, Any]:
        """Return facts, means and games as JSON values."""
        return {**self.means(), "games": [self._game(game) for game in self.games]}

    def _game(self, game: Game) -> dict[str, Any]:
        files = [str(path.relative_to(self.folder)) for path in game.files]
        return {**dataclasses.asdict(game), "files": files}

    def _count(self, player: str) -> int:
        return sum(game.player == player for game in self.games)


def _cell(value: Summary | None, column: Column) -> str:
    if value is None:
        return "-"
    mean = f"{value.mean * column.scale:.{column.digits}f}"
    return mean if value.error is None else f"{mean} ± {value.error * column.scale:.{column.digits}f}"


_NAMES = [control.name for control in CONTROLS]
_STEPS_PER_SECOND = 10
_LONG_TURN = 5
"""Steps of full stick that count as a long turn."""


@dataclass(frozen=True, kw_only=True)
class PlayStatistics:
    """Statistics of some episodes together; shares are of all steps."""

    steps: int
    reversals_a_second: float
    """Changes of side of the turn stick per second, rests between ignored."""
    turning_standing: float
    """Right stick x in use, left stick at rest."""
    turning_walking: float
    """Right stick x in use, left stick forward."""
    walking_straight: float
    """Left stick forward, right stick x at rest."""
    backward: float
    """Left stick back."""
    sideways: float
    """Left stick sideways only."""
    at_rest: float
    """Every control at rest."""
    full_turns: float
    """Inside a run of at least five steps of full right stick x to one side."""
    off_level: float
    """Pitch more than 2 degrees off level."""
    dead: float
    usage: dict[str, float]
    """Share of steps with each control in use, by name."""


def play_statistics(episodes: Sequence[Episode]) -> PlayStatistics:
    """Compute the statistics of at least one episode."""
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
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask_T.astype(np.int8), [0]])))
    lengths = edges[1::2] - edges[::2]
    return int(lengths[lengths >= _LONG_TURN].sum())
