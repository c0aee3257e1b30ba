"""Whole runs of acting: what a user asks for, validated, as the plans of its games.

Owns the choice of players and of games. Playing them is the business of `acting.run`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from playloom.acting.figures import STEPS_PER_SECOND
from playloom.data.recording import Mode, Split
from playloom.engine import Dreamer, Sampling
from playloom.engine.opening import open_dreamer
from playloom.errors import BadInputError, ConfigError, nearest
from playloom.games.doom import FRAME_SHAPE, MODES
from playloom.games.maps import free_cells, variant_of
from playloom.games.players import HELDOUT_STYLE, STYLES
from playloom.games.recorder import EpisodePlan, plan_episode

MODEL, REPEAT, RANDOM = "model", "repeat", "random"
PLAYERS = (MODEL, REPEAT, RANDOM, *STYLES)
"""Everybody who can hold the controller."""
COMPARED = (MODEL, REPEAT, RANDOM, *(style for style in STYLES if style != HELDOUT_STYLE))
"""The model, and all that it is measured beside: the styles that training sees."""
DEFAULT_LEAD = 9
"""Steps of the scripted player before a game without a model; with one, its context decides."""
_LEAST_SECONDS = 2 / STEPS_PER_SECOND


@dataclass(frozen=True, kw_only=True)
class ActJob:
    """Who plays which games, all of it as a user says it.

    Raises:
        BadInputError: when a number is out of range.
        ConfigError: when a player, arena or mode is unknown.
    """

    players: tuple[str, ...] = (MODEL,)
    """Of `PLAYERS`; all of them play the same games."""
    model: str | None = None
    """A bundled model's name or a folder; None: the first bundled one."""
    variant: str = "plaza"
    """The arena."""
    mode: Mode = "ffa"
    """Everyone for themselves, or four against four."""
    seconds: float = 30.0
    """How long each plays a game; the scripted steps before come on top."""
    games: int = 1
    """How many games each plays."""
    seed: int = 1000
    """Of the first game and all that is drawn in it; the others follow one by one. The bundled models' games end before
    200."""
    temperature: float = 1.0
    """Divides the logits of the inputs, 0 is greedy; 1: as the model learned them. A cold player hardly ever
    lets go of what it holds."""
    top_k: int | None = None
    """Only the k most likely values of a control."""
    top_p: float | None = None
    """Only the likeliest values that reach p together."""
    device: str = "auto"
    """Where the model computes."""
    out: Path = Path("out/act")
    """The folder to write; numbered if it is taken."""
    films: int | None = None
    """Of how many games of each player a sheet and a film are made; None: all."""
    timestamp: bool = False
    """Whether manifests carry the time; without it equal jobs give equal files."""

    def __post_init__(self) -> None:
        for player in self.players:
            if player not in PLAYERS:
                raise ConfigError(f"unknown player {player!r}; {nearest(player, PLAYERS)}")
        variant_of(self.variant)
        if self.mode not in MODES:
            raise ConfigError(f"unknown game mode {self.mode!r}; {nearest(self.mode, MODES)}")
        if not (math.isfinite(self.seconds) and self.seconds >= _LEAST_SECONDS):
            raise BadInputError(f"seconds is {self.seconds:g}; expected {_LEAST_SECONDS:g} or more")
        for name, value, least in (("games", self.games, 1), ("seed", self.seed, 0), ("films", self.films, 0)):
            if value is not None and value < least:
                raise BadInputError(f"{name} is {value}; expected a whole number from {least}")
        _ = self.sampling  # says what is out of range

    @property
    def steps(self) -> int:
        """Inputs that a player gives in one game."""
        return round(self.seconds * STEPS_PER_SECOND)

    def plans(self, style: str, lead: int) -> Iterator[EpisodePlan]:
        """The games in order; a seed is of the same split here as in a recording."""
        for seed in range(self.seed, self.seed + self.games):
            split: Split = "heldout" if variant_of(self.variant).heldout else plan_episode(seed).split
            yield EpisodePlan(
                seed=seed, variant=self.variant, mode=self.mode, style=style, split=split, steps=lead + self.steps
            )

    @property
    def sampling(self) -> Sampling:
        """How the model's inputs are drawn."""
        return Sampling(temperature=self.temperature, top_k=self.top_k, top_p=self.top_p)

    def dreamer(self) -> Dreamer | None:
        """The model that is to play; None where nobody asked for it.

        Raises:
            CheckpointError: when it cannot be loaded.
            BadInputError: when it was made for pictures of another size.
        """
        if MODEL not in self.players:
            return None
        dreamer = open_dreamer(self.model, device=self.device)
        sizes = dreamer.model.config.tokenizer
        if (sizes.frame_height, sizes.frame_width) != FRAME_SHAPE[:2]:
            raise BadInputError(
                f"the model {dreamer.model.config.name} sees pictures of {sizes.frame_width} x {sizes.frame_height}; "
                f"the game's are {FRAME_SHAPE[1]} x {FRAME_SHAPE[0]}: choose a model that learned from its recordings"
            )
        return dreamer


def floor_tiles(variant: str) -> int:
    """How many tiles of an arena can be stood on: all but blocks, towers, pillars and gates."""
    return len(free_cells(variant_of(variant)))
