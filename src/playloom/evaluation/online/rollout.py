"""One episode of a policy in the real game, recorded.

A scripted player plays the warm-up of every life and respawns after a death; the policy plays the rest. A policy sees
one life only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, decode_values, encode_named
from playloom.data.recording import STATE_COLUMNS, Episode
from playloom.errors import GameError
from playloom.evaluation.online.policies import Policy
from playloom.games.arena.engine import GameSpec, Observation
from playloom.games.arena.env import new_frame_hash
from playloom.games.arena.maps import Variant, variant_of
from playloom.games.arena.process import GameProcess
from playloom.games.bots.players import ScriptedPlayer
from playloom.games.recorder import EpisodePlan, episode_meta
from playloom.inference.types import Prompt

WARMUP_STYLE = "explorer"
"""Style of the scripted player that plays the warm-up of every life: a policy needs a prompt."""
_DEAD = STATE_COLUMNS.index("dead")

PolicyFactory = Callable[[Prompt, int], Policy]
"""Makes the policy of a life from its prompt and the number of the life, from 0."""


class Running(Protocol):
    """A running game; see `playloom.games.arena.process`."""

    frame_HWC: NDArray[np.uint8]
    """The current frame."""
    row: NDArray[np.float32]
    """The current state."""


class ActionRecord(NamedTuple):
    """An input and its author."""

    values_A: NDArray[np.uint8]
    """Action values, uint8 [16]."""
    own: bool
    """True for the policy, False for the script."""


class EpisodeController:
    """Alternate scripted warm-up and policy control within an episode. Per step: `look`, `press`, and after the step
    `see`."""

    def __init__(self, variant: Variant, seed: int, *, lead: int, take: PolicyFactory) -> None:
        self._script = ScriptedPlayer(variant, WARMUP_STYLE, seed)
        self._lead, self._take = lead, take
        self._frames: list[NDArray[np.uint8]] = []
        self._actions: list[NDArray[np.uint8]] = []
        self._hand: Policy | None = None
        self._life = 0

    def look(self, game: Running) -> bool:
        """PolicyFactory in the current frame and state; return True if the policy acts next."""
        if game.row[_DEAD] > 0:
            self._frames, self._actions = [], []
        elif self._hand is None:
            self._frames.append(game.frame_HWC)
            if len(self._actions) == self._lead:
                self._hand = self._take(self._prompt(), self._life)
                self._life += 1
        return self._hand is not None

    def act(self, game: Running) -> ActionRecord:
        """Return the input after the current frame."""
        if self._hand is not None:
            return ActionRecord(self._hand.act(), True)
        values_A = encode_named(self._script.act(Observation(row=tuple(game.row.tolist()), enemies=())))
        if self._frames:
            self._actions.append(values_A)
        return ActionRecord(values_A, False)

    def observe(self, game: Running) -> None:
        """PolicyFactory in the frame that followed; a death closes the policy."""
        if self._hand is None:
            return
        if game.row[_DEAD] > 0:
            self.close()
        else:
            self._hand.observe(game.frame_HWC)

    def close(self) -> None:
        """Close the policy, if one plays."""
        if self._hand is not None:
            hand, self._hand = self._hand, None
            hand.close()

    def _prompt(self) -> Prompt:
        actions_TA = np.array(self._actions, np.uint8).reshape(-1, ACTION_SLOTS)
        return Prompt(frames_THWC=np.stack(self._frames), actions_TA=actions_TA)


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeResult:
    """A played game, complete or stopped."""

    episode: Episode
    own_T: NDArray[np.bool_]
    """True for the policy's steps [T], False for the script's (`WARMUP_STYLE`)."""
    seconds: float | None = None
    """Time of the policy's steps, the game's time included; None where not measured."""
    failure: GameError | None = None
    """Error that ended the game early, if any."""


@dataclass
class _Trajectory:
    rows: list[NDArray[np.float32]] = field(default_factory=list)
    pressed: list[ActionRecord] = field(default_factory=list)
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.hash = new_frame_hash()

    def add(self, game: Running, pressed: ActionRecord) -> None:
        self.hash.update(game.frame_HWC.tobytes())
        self.rows.append(game.row)
        self.pressed.append(pressed)


def play_game(
    plan: EpisodePlan,
    *,
    lead: int,
    take: PolicyFactory,
    versions: Mapping[str, str],
    stop: Callable[[], bool] = lambda: False,
    tick: Callable[[], None] = lambda: None,
) -> EpisodeResult | None:
    """Play one game.

    Args:
        plan: which game, and how many steps in all; `style` says who plays, as the recording will.
        lead: steps that a scripted player plays at the beginning of every life. It also presses X where one lies.
        take: called once a life, with what was seen and done in the lead: makes the hand that goes on from there.
        versions: for the recording, beside those of playloom and the engine: what made the inputs.
        stop: asked before every step after the first lead; True ends the game.
        tick: told after every step after the first lead.

    Returns:
        What was played, up to where the game failed if it did; None when it was over before the hand's first step:
        stopped, or too short for another life after a fall in the first lead.

    Raises:
        GameError: when the game fails before the hand's first step.
        ConfigError: when there is no such arena.
        MissingExtraError: when ViZDoom is not installed.
    """
    tape = _Trajectory()
    lives = EpisodeController(variant_of(plan.variant), plan.seed, lead=lead, take=take)
    spec = GameSpec(variant=plan.variant, mode=plan.mode, seed=plan.seed)
    failure: GameError | None = None
    with GameProcess(spec) as game, closing(lives):
        for step in range(plan.steps):
            if step >= lead and stop():
                break
            try:
                _step(game, lives, tape, last=step + 1 == plan.steps)
            except GameError as error:
                failure = error
                break
            if step >= lead:
                tick()
    own_T = np.array([pressed.own for pressed in tape.pressed], bool)
    if not own_T.any():
        if failure is not None:
            raise failure
        return None
    episode = _episode(plan, tape, {**versions, **_script(own_T)})
    return EpisodeResult(episode=episode, own_T=own_T, seconds=tape.seconds, failure=failure)


def _step(game: GameProcess, lives: EpisodeController, tape: _Trajectory, last: bool) -> None:
    """One step of the game; the last input of an episode has no frame after it."""
    own = lives.look(game)
    started = time.perf_counter()
    tape.add(game, lives.act(game))
    if not last:
        game.step(decode_values(tape.pressed[-1].values_A))
        lives.observe(game)
    tape.seconds += own * (time.perf_counter() - started)


def _script(own_T: NDArray[np.bool_]) -> dict[str, str]:
    edges = np.flatnonzero(np.diff(np.concatenate([[True], own_T, [True]]).astype(np.int8)))
    spans = [f"{first} to {stop - 1}" for first, stop in zip(edges[::2], edges[1::2], strict=True)]
    return {"script": f"{WARMUP_STYLE} at steps {', '.join(spans)}"} if spans else {}


def _episode(plan: EpisodePlan, tape: _Trajectory, versions: Mapping[str, str]) -> Episode:
    meta = episode_meta(plan, tape.hash.hexdigest(), steps=len(tape.pressed), versions=versions)
    return Episode(meta, np.stack([pressed.values_A for pressed in tape.pressed]), np.stack(tape.rows))
