"""One game, played by a hand: the frame is seen, an input pressed, the frame that really follows is seen next.

Owns the order of these, and the recording of them. What a hand does is the business of `acting.hands`, how the game
runs that of `games.process`.
"""

from __future__ import annotations

import importlib.metadata
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from playloom import __version__
from playloom.acting.hands import Hand
from playloom.actions import ACTION_SLOTS, decode_values, encode_named
from playloom.data.recording import Episode, EpisodeMeta
from playloom.engine import Prompt
from playloom.games.arena import GAME_NAME, new_frame_hash
from playloom.games.doom import GameSpec, View
from playloom.games.maps import variant_of
from playloom.games.players import ScriptedPlayer
from playloom.games.process import GameProcess
from playloom.games.recorder import EpisodePlan

LEAD_STYLE = "explorer"
"""Of the scripted player that plays the first steps: a hand that is to go on needs something to go on from."""


@dataclass(frozen=True, kw_only=True)
class Played:
    """A game that was played, to its end or until it was stopped."""

    episode: Episode
    """Its recording."""
    seconds: float | None
    """Time the hand's steps took: its own, and the game's; None where nobody took it."""


@dataclass
class _Tape:
    """What has happened so far; every step goes on it whole, so it can be cut anywhere."""

    actions: list[NDArray[np.uint8]] = field(default_factory=list)
    rows: list[NDArray[np.float32]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.hash = new_frame_hash()

    def add(self, game: GameProcess, values_A: NDArray[np.uint8]) -> None:
        """The frame and state now, and the input that answers them."""
        self.hash.update(game.frame_HWC.tobytes())
        self.rows.append(game.row)
        self.actions.append(values_A)


def play_game(
    plan: EpisodePlan,
    *,
    lead: int,
    take: Callable[[Prompt], Hand],
    versions: Mapping[str, str],
    stop: Callable[[], bool] = lambda: False,
    tick: Callable[[], None] = lambda: None,
) -> Played | None:
    """Play one game.

    Args:
        plan: which game; `style` says who plays, as the recording will. The last input has no frame after it.
        lead: steps that a scripted player (`LEAD_STYLE`, blind to enemies) plays first; they count as steps.
        take: called once, with what was seen and done in the lead: makes the hand that goes on from there.
        versions: for the recording, beside those of playloom and the engine: what made the inputs.
        stop: asked before every step of the hand; True ends the game.
        tick: told after every step of the hand.

    Returns:
        What was played; None when it was stopped before the hand's first step.

    Raises:
        GameError: when the game fails.
        ConfigError: when there is no such arena.
        MissingExtraError: when ViZDoom is not installed.
    """
    tape = _Tape()
    with GameProcess(GameSpec(variant=plan.variant, mode=plan.mode, seed=plan.seed)) as game:
        hand = take(_lead(game, plan, lead, tape))
        started = time.perf_counter()
        try:
            for step in range(lead, plan.steps):
                if stop():
                    break
                tape.add(game, hand.press())
                if step + 1 < plan.steps:
                    frame_HWC, _ = game.step(decode_values(tape.actions[-1]))
                    hand.see(frame_HWC)
                tick()
            seconds = time.perf_counter() - started
        finally:
            hand.close()
    if len(tape.actions) <= lead:
        return None
    return Played(episode=_episode(plan, tape, versions), seconds=seconds)


def _lead(game: GameProcess, plan: EpisodePlan, steps: int, tape: _Tape) -> Prompt:
    """The scripted player's steps, as the prompt that the hand goes on from."""
    player = ScriptedPlayer(variant_of(plan.variant), LEAD_STYLE, plan.seed)
    frames = [game.frame_HWC]
    for _ in range(steps):
        values_A = encode_named(player.act(View(row=tuple(game.row.tolist()), enemies=())))
        tape.add(game, values_A)
        game.step(decode_values(values_A))
        frames.append(game.frame_HWC)
    actions_TA = np.array(tape.actions, np.uint8).reshape(-1, ACTION_SLOTS)
    return Prompt(frames_THWC=np.stack(frames), actions_TA=actions_TA)


def _episode(plan: EpisodePlan, tape: _Tape, versions: Mapping[str, str]) -> Episode:
    meta = EpisodeMeta(
        game=GAME_NAME,
        variant=plan.variant,
        mode=plan.mode,
        style=plan.style,
        seed=plan.seed,
        split=plan.split,
        steps=len(tape.actions),
        frame_hash=tape.hash.hexdigest(),
        versions={"playloom": __version__, "vizdoom": importlib.metadata.version("vizdoom"), **versions},
    )
    return Episode(meta, np.stack(tape.actions), np.stack(tape.rows))
