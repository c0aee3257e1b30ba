"""Who holds the controller when: a scripted player at the beginning of every life and while it lies, else the hand.

Owns the turns of the two within one game. A hand only ever sees one life: what lies between two is no play, and
training leaves it out.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from playloom.acting.hands import Hand
from playloom.actions import ACTION_SLOTS, encode_named
from playloom.data.recording import STATE_COLUMNS
from playloom.engine import Prompt
from playloom.games.doom import View
from playloom.games.maps import Variant
from playloom.games.players import ScriptedPlayer

LEAD_STYLE = "explorer"
"""Of the scripted player that begins every life: a hand that is to go on needs something to go on from."""
_DEAD = STATE_COLUMNS.index("dead")

Take = Callable[[Prompt, int], Hand]
"""Makes the hand that goes on from what was seen and done in this life; told which life it is, from 0."""


class Running(Protocol):
    """A game that is going on; see `playloom.games.process`."""

    frame_HWC: NDArray[np.uint8]
    """The frame now."""
    row: NDArray[np.float32]
    """The state now."""


class Pressed(NamedTuple):
    """An input, and whose it is."""

    values_A: NDArray[np.uint8]
    """Action values, uint8 [16]."""
    own: bool
    """Whether the hand pressed it, not the script."""


class Lives:
    """The lives of one game. For every step: `look`, `press`, and when the game has moved on, `see`."""

    def __init__(self, variant: Variant, seed: int, *, lead: int, take: Take) -> None:
        """Before the first step.

        Args:
            variant: the arena.
            seed: of the scripted player.
            lead: steps that it plays at the beginning of every life, blind to enemies.
            take: makes a hand after them.
        """
        self._script = ScriptedPlayer(variant, LEAD_STYLE, seed)
        self._lead, self._take = lead, take
        self._frames: list[NDArray[np.uint8]] = []
        self._actions: list[NDArray[np.uint8]] = []
        self._hand: Hand | None = None
        self._life = 0

    def look(self, game: Running) -> bool:
        """See what is to be answered; returns whether the hand will."""
        if game.row[_DEAD] > 0:
            self._frames, self._actions = [], []
        elif self._hand is None:
            self._frames.append(game.frame_HWC)
            if len(self._actions) == self._lead:
                self._hand = self._take(self._prompt(), self._life)
                self._life += 1
        return self._hand is not None

    def press(self, game: Running) -> Pressed:
        """The input that answers the frame now."""
        if self._hand is not None:
            return Pressed(self._hand.press(), True)
        values_A = encode_named(self._script.act(View(row=tuple(game.row.tolist()), enemies=())))
        if self._frames:
            self._actions.append(values_A)
        return Pressed(values_A, False)

    def see(self, game: Running) -> None:
        """The frame that followed; a hand that fell is done."""
        if self._hand is None:
            return
        if game.row[_DEAD] > 0:
            self.close()
        else:
            self._hand.see(game.frame_HWC)

    def close(self) -> None:
        """The hand, if one plays, is done."""
        if self._hand is not None:
            hand, self._hand = self._hand, None
            hand.close()

    def _prompt(self) -> Prompt:
        actions_TA = np.array(self._actions, np.uint8).reshape(-1, ACTION_SLOTS)
        return Prompt(frames_THWC=np.stack(self._frames), actions_TA=actions_TA)
