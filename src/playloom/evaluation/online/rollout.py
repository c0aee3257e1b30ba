"""Policies (the model and its baselines), and one recorded episode of a policy in the real game.

A scripted player plays the warm-up of every life and respawns after a death; the policy plays the rest. A policy plays
one life only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, REST_VALUES, SLOT_SIZES, decode_values, encode_named
from playloom.data.recording import STATE_COLUMNS, Episode
from playloom.errors import GameError
from playloom.games.arena.engine import GameProcess, GameSpec
from playloom.games.arena.env import new_frame_hash
from playloom.games.arena.maps import Variant, variant_of
from playloom.games.bots.players import ScriptedPlayer
from playloom.games.recorder import EpisodePlan, episode_meta
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt

WARMUP_STYLE = "explorer"  # style of the scripted player that plays the warm-up of every life: a policy needs a prompt
_DEAD = STATE_COLUMNS.index("dead")


@dataclass(frozen=True)
class Policy:
    """A player of one life; `act` and `observe` alternate."""

    act: Callable[[], NDArray[np.uint8]]  # returns the input after the newest frame: action values, uint8 [16]
    observe: Callable[[NDArray[np.uint8]], object] = lambda _: None  # receives the frame that followed, uint8 [H, W, 3]
    close: Callable[[], object] = lambda: None  # ends the life


PolicyFactory = Callable[[Prompt, int], Policy]
"""Makes the policy of a life from its prompt and the number of the life, from 0."""


def model_policy(engine: Engine, prompt: Prompt, *, sampling: Sampling, seed: int) -> Policy:
    """Play with the model; real frames and its own inputs are its context."""
    session = engine.open(prompt, sampling=sampling, seed=seed)
    return Policy(session.sample_action, lambda frame_HWC: session.step(frame=frame_HWC), session.close)


def repeat_policy(prompt: Prompt) -> Policy:
    """Repeat the last input of the prompt; rest where the prompt has none."""
    return Policy((prompt.actions_TA[-1] if len(prompt.actions_TA) else REST_VALUES).copy)


def random_policy(seed: int) -> Policy:
    """Draw every control uniformly at every step."""
    rng = np.random.default_rng((seed, 2))
    return Policy(lambda: rng.integers(0, SLOT_SIZES).astype(np.uint8))


class EpisodeController:
    """Alternate scripted warm-up and policy control. Per step: `prepare`, `act`, and after the step `observe`."""

    def __init__(self, variant: Variant, seed: int, *, warmup_steps: int, make_policy: PolicyFactory) -> None:
        self._script, self._warmup_steps = ScriptedPlayer(variant, WARMUP_STYLE, seed), warmup_steps
        self._make_policy = make_policy
        self._frames: list[NDArray[np.uint8]] = []
        self._actions: list[NDArray[np.uint8]] = []
        self._policy: Policy | None = None
        self._life = 0

    def prepare(self, game: GameProcess) -> bool:
        """Make the policy when the warm-up is over; return True if a policy acts next."""
        if game.row[_DEAD] > 0:
            self._frames, self._actions = [], []
        elif self._policy is None:
            self._frames.append(game.frame_HWC)
            if len(self._actions) == self._warmup_steps:
                actions_TA = np.array(self._actions, np.uint8).reshape(-1, ACTION_SLOTS)
                prompt = Prompt(frames_THWC=np.stack(self._frames), actions_TA=actions_TA)
                self._policy = self._make_policy(prompt, self._life)
                self._life += 1
        return self._policy is not None

    def act(self, game: GameProcess) -> NDArray[np.uint8]:
        """Return the input after the current frame: action values, uint8 [16]."""
        if self._policy is not None:
            return self._policy.act()
        values_A = encode_named(self._script.act(game.row))
        if self._frames:
            self._actions.append(values_A)
        return values_A

    def observe(self, game: GameProcess) -> None:
        """Pass the frame that followed to the policy; a death closes it."""
        if game.row[_DEAD] > 0:
            self.close()
        elif self._policy is not None:
            self._policy.observe(game.frame_HWC)

    def close(self) -> None:
        """Close the policy, if one plays."""
        if self._policy is not None:
            policy, self._policy = self._policy, None
            policy.close()


@dataclass(frozen=True, kw_only=True, eq=False)
class EpisodeResult:
    """A played game, complete or stopped."""

    episode: Episode
    own_T: NDArray[np.bool_]  # True for the policy's steps [T], False for the script's (`WARMUP_STYLE`)
    seconds: float | None = None  # time of the policy's steps, the game's time included; None where not measured
    failure: GameError | None = None  # error that ended the game early, if any


def play_episode(
    plan: EpisodePlan,
    *,
    warmup_steps: int,
    make_policy: PolicyFactory,
    versions: Mapping[str, str],
    stop: Callable[[], bool] = lambda: False,
    step_done: Callable[[], None] = lambda: None,
) -> EpisodeResult | None:
    """Play one game.

    `plan.style` names the player in the recording, `versions` of the policy are added to the recording's. The scripted
    player plays `warmup_steps` at the beginning of every life, then `make_policy` is called. `stop` is checked before
    every step after the first warm-up (True ends the game), and `step_done` is called after it.

    Returns the steps played, up to a failure of the game; None when the policy had no step. A failure before that
    raises.
    """
    controller = EpisodeController(
        variant_of(plan.variant), plan.seed, warmup_steps=warmup_steps, make_policy=make_policy
    )
    digest, seconds, failure = new_frame_hash(), 0.0, None
    rows: list[NDArray[np.float32]] = []
    actions: list[NDArray[np.uint8]] = []
    own: list[bool] = []
    with GameProcess(GameSpec(variant=plan.variant, mode=plan.mode, seed=plan.seed)) as game, closing(controller):
        for step in range(plan.steps):
            if step >= warmup_steps and stop():
                break
            is_own = controller.prepare(game)
            started = time.perf_counter()
            digest.update(game.frame_HWC.tobytes())
            rows.append(game.row)
            actions.append(controller.act(game))
            own.append(is_own)
            try:
                if step + 1 < plan.steps:  # the last input has no frame after it
                    game.step(decode_values(actions[-1]))
                    controller.observe(game)
            except GameError as error:
                failure = error
                break
            seconds += is_own * (time.perf_counter() - started)
            if step >= warmup_steps:
                step_done()
    own_T = np.array(own, bool)
    if not own_T.any():
        if failure is not None:
            raise failure
        return None
    edges = np.flatnonzero(np.diff(np.concatenate([[True], own_T, [True]]).astype(np.int8)))
    spans = [f"{first} to {stop - 1}" for first, stop in zip(edges[::2], edges[1::2], strict=True)]
    script = {"script": f"{WARMUP_STYLE} at steps {', '.join(spans)}"} if spans else {}
    meta = episode_meta(plan, digest.hexdigest(), steps=len(own), versions={**versions, **script})
    episode = Episode(meta, np.stack(actions), np.stack(rows))
    return EpisodeResult(episode=episode, own_T=own_T, seconds=seconds, failure=failure)
