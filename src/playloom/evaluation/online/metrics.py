"""Metrics of play: per episode, their means by player, and statistics of recordings."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, decode_values
from playloom.actions.controller import CONTROLS
from playloom.actions.script import STEPS_PER_SECOND
from playloom.data.recording import STATE_COLUMNS, Episode
from playloom.evaluation.online.rollout import EpisodeResult
from playloom.games.arena.maps import CELL

_NAMES = [control.name for control in CONTROLS]
_PRESSED = 0.375  # least forward stick that counts as walking
_STUCK = 2.0  # map units per step below which a player who walks forward is blocked
_LONG_TURN = 5  # steps of full stick


@dataclass(frozen=True, kw_only=True)
class EpisodeMetrics:
    """Metrics of one game, over the player's own steps in which it is alive, unless noted otherwise."""

    steps: int  # own steps alive
    way: float  # map units walked per second
    tiles: int  # floor tiles visited
    blocked: float  # share of steps with the left stick forward (`_PRESSED`) and the body nearly still (`_STUCK`)
    turning: float  # degrees turned per second, to either side
    changes: float  # share of steps whose input differs from that of the step before
    resting: float  # share of steps with every control at rest
    frags: float  # frags as reported by the game (suicides subtract), scripted steps included
    deaths: float  # number of deaths, scripted steps included
    dead: float  # share of all steps of the game spent dead


def episode_metrics(
    states: NDArray[np.float32], actions_TA: NDArray[np.uint8], own_T: NDArray[np.bool_] | None = None
) -> EpisodeMetrics:
    """Compute the metrics of a stretch of play.

    Row t of `states` [T, 9] is measured when frame t is seen; action t [T, 16] leads to row t + 1. `own_T` is True for
    the player's own steps; None: all.
    """
    state = dict(zip(STATE_COLUMNS, states.T.astype(np.float64), strict=True))
    dead_T, frags_T = state["dead"] > 0, state["frags"]
    own_T = ~dead_T if own_T is None else own_T & ~dead_T
    moving = own_T[:-1] & ~dead_T[1:]
    way = np.hypot(np.diff(state["x"]), np.diff(state["y"]))[moving]
    turned = ((np.diff(state["yaw"]) + 180) % 360 - 180)[moving]
    forward = decode_values(actions_TA)[:-1, _NAMES.index("left_stick_y")][moving] >= _PRESSED
    changed = (actions_TA[1:] != actions_TA[:-1]).any(1)[own_T[1:] & own_T[:-1]]
    return EpisodeMetrics(
        steps=int(own_T.sum()),
        way=_mean(way) * STEPS_PER_SECOND,
        tiles=len(np.unique(np.floor(states[own_T, :2] / CELL), axis=0)),
        blocked=_mean(forward & (way < _STUCK)),
        turning=_mean(np.abs(turned)) * STEPS_PER_SECOND,
        changes=_mean(changed),
        resting=_mean((actions_TA == REST_VALUES).all(1)[own_T]),
        frags=float(frags_T[-1] - frags_T[0]),
        deaths=float((dead_T[1:] & ~dead_T[:-1]).sum()),
        dead=_mean(dead_T),
    )


def summary(values: Sequence[float]) -> dict[str, float | None]:
    """Return the mean of one metric over at least one game, and its standard error (`error`; None with one game)."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {"mean": fmean(values), "error": error}


def _mean(values: NDArray[np.float64] | NDArray[np.bool_]) -> float:
    return float(np.mean(values)) if len(values) else 0.0


COLUMNS = {
    "way": ("way units/s", 1, 0),
    "tiles": ("tiles", 1, 1),
    "blocked": ("blocked %", 100, 1),
    "turning": ("turning deg/s", 1, 1),
    "changes": ("changes %", 100, 1),
    "resting": ("resting %", 100, 1),
    "frags": ("frags", 1, 2),
    "deaths": ("deaths", 1, 2),
    "dead": ("dead %", 100, 1),
    "steps_per_second": ("steps_per_second", 1, 1),
}
"""Columns of the table by metric: heading, factor for display, digits after the point."""


@dataclass(frozen=True, kw_only=True)
class Game:
    """One game of one player."""

    player: str
    seed: int
    steps: int  # inputs given by the player
    figures: EpisodeMetrics | None  # metrics; None when the game was stopped before two steps
    steps_per_second: float | None
    """Steps per second, the game's own time included; None for scripted players, which run inside the game."""
    files: tuple[Path, ...]  # recording, contact sheet and video, as far as written

    @classmethod
    def of(cls, player: str, result: EpisodeResult, warmup_steps: int, files: tuple[Path, ...]) -> Game:
        """Return the metrics of the steps after the first warm-up."""
        episode = result.episode
        states, own_T = episode.states[warmup_steps:], result.own_T[warmup_steps:]
        steps = int(own_T.sum())
        return cls(
            player=player,
            seed=episode.meta.seed,
            steps=steps,
            figures=episode_metrics(states, episode.actions_TA[warmup_steps:], own_T) if len(states) > 1 else None,
            steps_per_second=steps / result.seconds if result.seconds else None,
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

    folder: Path  # output folder; absent when nothing was played
    facts: Mapping[str, Any]  # settings and machine, JSON values
    games: list[Game] = field(default_factory=list)

    @property
    def players(self) -> list[str]:
        """Names of all players, in order."""
        return list(dict.fromkeys(game.player for game in self.games))

    def head(self) -> tuple[str, ...]:
        """Return the titles of the table."""
        return "player", "games", *(title for title, _, _ in COLUMNS.values())

    def lines(self) -> list[tuple[str, ...]]:
        """Return one row per player: mean ± standard error over its games."""
        return [
            (player, str(games["games"]), *(_cell(name, games[name]) for name in COLUMNS))
            for player, games in self.means()["players"].items()
        ]

    def means(self) -> dict[str, Any]:
        """Return facts, and by player the number of games and the means by their names in `COLUMNS`, as JSON values.

        A mean is None where no game has it.
        """
        players: dict[str, dict[str, Any]] = {}
        for player in self.players:
            games = [game for game in self.games if game.player == player]
            known = {name: [x for game in games if (x := game.value(name)) is not None] for name in COLUMNS}
            means = {name: summary(values) if values else None for name, values in known.items()}
            players[player] = {"games": len(games), **means}
        return {**self.facts, "players": players}

    def to_dict(self) -> dict[str, Any]:
        """Return facts, means and games as JSON values."""
        games = [
            {**dataclasses.asdict(game), "files": [str(path.relative_to(self.folder)) for path in game.files]}
            for game in self.games
        ]
        return {**self.means(), "games": games}


def _cell(name: str, value: Mapping[str, float | None] | None) -> str:
    _, scale, digits = COLUMNS[name]
    numbers = [number * scale for number in (value or {}).values() if number is not None]
    return " ± ".join(f"{number:.{digits}f}" for number in numbers) or "-"


def play_statistics(episodes: Sequence[Episode]) -> dict[str, float]:
    """Compute the statistics of at least one episode: shares of all steps, but for the first two.

    Then, by control, the share of steps with it in use.
    """
    controls = [decode_values(episode.actions_TA) for episode in episodes]
    all_TA = np.concatenate(controls)
    state = dict(zip(STATE_COLUMNS, np.concatenate([episode.states for episode in episodes]).T, strict=True))
    side, forward, turn = (all_TA[:, _NAMES.index(n)] for n in ("left_stick_x", "left_stick_y", "right_stick_x"))
    used, reversals, full = all_TA != 0, 0, 0
    for control_TA in controls:
        turn_T = control_TA[:, _NAMES.index("right_stick_x")]
        reversals += int(np.count_nonzero(np.diff(np.sign(turn_T[turn_T != 0]))))  # rests between are ignored
        runs = [(value, len(list(run))) for value, run in itertools.groupby(turn_T.tolist())]
        full += sum(steps for value, steps in runs if abs(value) == 1 and steps >= _LONG_TURN)
    return {
        "steps": len(all_TA),
        "reversals a second": reversals / len(all_TA) * STEPS_PER_SECOND,
        "turning standing": _mean((turn != 0) & (forward == 0) & (side == 0)),
        "turning walking": _mean((turn != 0) & (forward > 0)),
        "walking straight": _mean((turn == 0) & (forward > 0)),
        "backward": _mean(forward < 0),
        "sideways": _mean((forward == 0) & (side != 0)),
        "at rest": _mean(~used.any(1)),
        "full turns": full / len(all_TA),
        "off level": _mean(np.abs(state["pitch"]) > 2),
        "dead": _mean(state["dead"] > 0),
        **{name: _mean(used[:, index]) for index, name in enumerate(_NAMES)},
    }
