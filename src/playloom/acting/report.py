"""What came of a run of acting: every game's figures, and every player's means beside each other.

Owns the report's two forms, rows of a table and JSON. Knows nothing of the game or of models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from playloom.acting.figures import PlayFigures, Summary, play_figures, summary
from playloom.acting.play import Played


class Column(NamedTuple):
    """One figure of the table."""

    name: str
    """Its key in JSON."""
    title: str
    """Above the column."""
    scale: float
    """What it is multiplied by for people."""
    digits: int
    """After the point."""


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
"""The table from left to right."""


@dataclass(frozen=True, kw_only=True)
class Game:
    """One game of one player."""

    player: str
    """Who played."""
    seed: int
    """Of the game."""
    steps: int
    """Inputs the player gave."""
    figures: PlayFigures | None
    """What it did; None when it was stopped before two steps."""
    steps_per_second: float | None
    """Speed of its steps, the game's own time in them; None for scripted players, who play inside the game."""
    files: tuple[Path, ...]
    """Recording, and sheet and film where they were made."""

    @classmethod
    def of(cls, player: str, played: Played, lead: int, files: tuple[Path, ...]) -> Game:
        """The figures of what came after the first lead."""
        states, actions_TA, own_T = played.episode.states[lead:], played.episode.actions_TA[lead:], played.own_T[lead:]
        steps = int(own_T.sum())
        return cls(
            player=player,
            seed=played.episode.meta.seed,
            steps=steps,
            figures=play_figures(states, actions_TA, own_T) if len(states) > 1 else None,
            steps_per_second=steps / played.seconds if played.seconds else None,
            files=files,
        )

    def value(self, name: str) -> float | None:
        """A figure by its name in `COLUMNS`."""
        if name == "steps_per_second":
            return self.steps_per_second
        return None if self.figures is None else float(getattr(self.figures, name))


@dataclass(frozen=True, kw_only=True)
class ActReport:
    """Every game, in the order played."""

    folder: Path
    """Where everything lies; not there when nothing was played."""
    facts: Mapping[str, Any]
    """What the figures belong to; JSON can hold it."""
    games: list[Game] = field(default_factory=list)
    """Those that were played."""

    def add(self, game: Game) -> None:
        """One more."""
        self.games.append(game)

    @property
    def players(self) -> list[str]:
        """Everybody who played, in order."""
        return list(dict.fromkeys(game.player for game in self.games))

    def mean(self, player: str, name: str) -> Summary | None:
        """A player's figure over its games; None where no game has it."""
        values = [game.value(name) for game in self.games if game.player == player]
        known = [value for value in values if value is not None]
        return summary(known) if known else None

    def head(self) -> tuple[str, ...]:
        """Titles of the table."""
        return "player", "games", *(column.title for column in COLUMNS)

    def lines(self) -> list[tuple[str, ...]]:
        """A line a player: mean ± standard error over its games."""
        return [
            (player, str(self._count(player)), *(_cell(self.mean(player, c.name), c) for c in COLUMNS))
            for player in self.players
        ]

    def means(self) -> dict[str, Any]:
        """Facts and means, without the single games; JSON can hold it."""
        players = {
            player: {"games": self._count(player)}
            | {c.name: None if (m := self.mean(player, c.name)) is None else m._asdict() for c in COLUMNS}
            for player in self.players
        }
        return {**self.facts, "players": players}

    def to_dict(self) -> dict[str, Any]:
        """Everything; JSON can hold it."""
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
