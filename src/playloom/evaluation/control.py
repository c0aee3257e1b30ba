"""Controllability: camera motion under held inputs, in generated frames and in the real game.

One input is held for some steps, everything else at rest. Turning is the median over the steps of the yaw between
consecutive pictures. Walking is the growth of the scene from the last real picture to the last one, against rest.
M segments, S steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import decode_values, encode_named
from playloom.actions.controller import CONTROLS
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.recording import STATE_COLUMNS
from playloom.errors import ConfigError, GameError, MissingExtraError
from playloom.evaluation.camera_motion import expansion_between, yaw_between
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import (
    EvaluationContext,
    Progress,
    Segment,
    alive_episodes,
    frames_after,
    reconstruct,
    rollout_frames,
    with_codes,
)
from playloom.inference.engine import Engine

if TYPE_CHECKING:
    from playloom.games.arena.process import GameProcess

TRUE_TURN = 9.0
"""Degrees that a full stick turns the real game's camera in one step."""
INPUTS: Mapping[str, Mapping[str, float]] = {
    "right": {"right_stick_x": 1.0},
    "left": {"right_stick_x": -1.0},
    "forward": {"left_stick_y": 1.0},
    "rest": {},
}
"""Positions of the held controls by name of the input."""
_SETTLE = 10
"""Steps at rest before walking is measured: the game's walk has momentum that fades over about four steps."""


def evaluate(run: EvaluationContext) -> None:
    """Measure control of the arena; camera and turning speed of other games are unknown."""
    if {episode.meta.get("game", "arena") for episode in run.test} != {"arena"}:
        return
    s = run.settings
    segments = run.segments(s.control_segments, s.control_steps)
    dream = measure_control(run.engine, run.dataset, segments, s, run.progress)
    estimator = evaluate_estimator(run.dataset, run.test, count=s.estimator_pairs, seed=s.seed)
    run.progress("control, estimator")
    game = None
    if s.game_segments:
        some = segments[:: max(1, len(segments) // s.game_segments)][: s.game_segments]
        # Only a baseline: without it all other rows are still worth having.
        with suppress(MissingExtraError, GameError, ConfigError):
            game = measure_game_control(run.dataset, some, steps=s.control_steps, progress=run.progress)
    run.rows += control_rows(dream, estimator, game)
    run.curves["control"] = {"dream": dream.to_json(), "game": None if game is None else game.to_json()}
    run.curves["estimator"] = estimator
    run.counts["control_segments"] = len(segments)


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlMetrics:
    """Camera motion under the held inputs, one figure per segment."""

    right: NDArray[np.float64]
    """Degrees per step with the stick at +1, positive clockwise."""
    left: NDArray[np.float64]
    """Degrees per step with the stick at -1."""
    forward: NDArray[np.float64]
    """Growth of the scene when walking forward; 1 is none."""
    rest: NDArray[np.float64]
    """Growth with nothing held."""

    @property
    def sign_right(self) -> float:
        """Share of all turns whose direction is right."""
        return float(np.mean(np.concatenate([self.right > 0, self.left < 0])))

    @property
    def median_turn(self) -> float:
        """Median turn in the held direction, degrees per step; wrong directions count as negative."""
        return float(np.median(np.concatenate([self.right, -self.left])))

    @property
    def growth(self) -> float:
        """Median growth of the scene when walking forward."""
        return float(np.median(self.forward))

    @property
    def expands(self) -> float:
        """Share of segments whose scene grows more walking than at rest; equal growth counts half."""
        return float(np.mean((self.forward > self.rest) + 0.5 * (self.forward == self.rest)))

    def to_json(self) -> dict[str, list[float]]:
        """Return the figures of all segments, rounded."""
        return {name: [round(float(value), 3) for value in values] for name, values in vars(self).items()}


def held_state(name: str) -> NDArray[np.float32]:
    """Return the controller state of an input, float32 [16]."""
    return np.array([INPUTS[name].get(control.name, 0.0) for control in CONTROLS], np.float32)


def motion_metrics(frames: Mapping[str, NDArray[np.uint8]]) -> ControlMetrics:
    """Estimate the camera motion from pictures [M, 1 + S, H, W, 3] by name of the input; the first is the last seen."""
    return ControlMetrics(
        right=median_turns(frames["right"]),
        left=median_turns(frames["left"]),
        forward=expansion_between(frames["forward"][:, 0], frames["forward"][:, -1]),
        rest=expansion_between(frames["rest"][:, 0], frames["rest"][:, -1]),
    )


def median_turns(frames_MSHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the median over the steps of the yaw between consecutive pictures, degrees [M].

    A mean would be spoiled by one step whose sky is hidden by a wall.
    """
    steps = range(frames_MSHWC.shape[1] - 1)
    return np.asarray(np.median([yaw_between(frames_MSHWC[:, s], frames_MSHWC[:, s + 1]) for s in steps], axis=0))


def evaluate_estimator(
    dataset: FrameDataset, episodes: Sequence[EpisodeSlice], *, count: int, seed: int
) -> dict[str, float]:
    """Compare the yaw estimated from recorded pictures with the yaw of the recorded states.

    Draws up to `count` steps that turn by more than 2 degrees, without dead ones. Returns their number (`pairs`), the
    median absolute error in degrees, the share of right directions, and the median degrees per step in the true
    direction where the recorded turn is at least 8.5 degrees (`full_stick`); NaN where nothing could be measured.
    """
    unknown = {"median_error": np.nan, "sign_right": np.nan, "full_stick": np.nan, "pairs": 0}
    if not {"dead", "yaw"} <= set(dataset.state_columns):
        return unknown
    yaw = dataset.column("yaw")
    alive = alive_episodes(dataset, episodes)
    rows = np.concatenate([np.arange(span.start, span.start + span.length - 1) for span in alive])
    truth = (yaw[rows + 1] - yaw[rows] + 180) % 360 - 180
    rows, truth = rows[np.abs(truth) > 2], truth[np.abs(truth) > 2]
    if not len(rows):
        return unknown
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    rows, truth = rows[drawn], truth[drawn]
    parts = np.split(rows, range(16, len(rows), 16))  # bounds the pictures in memory
    seen = np.concatenate([yaw_between(dataset.frames_FHWC[p], dataset.frames_FHWC[p + 1]) for p in parts])
    full = np.abs(truth) >= 8.5
    return {
        "median_error": float(np.median(np.abs(seen - truth))),
        "sign_right": float(np.mean(np.sign(seen) == np.sign(truth))),
        "full_stick": float(np.median((seen * np.sign(truth))[full])) if full.any() else np.nan,
        "pairs": len(rows),
    }


def control_rows(dream: ControlMetrics, estimator: Mapping[str, float], game: ControlMetrics | None) -> list[Row]:
    """Return the report rows; `game` is the same protocol in the real game."""
    turns, walks, pairs = len(dream.right) + len(dream.left), len(dream.forward), int(estimator["pairs"])
    row = partial(Row, "control")

    def real(metric: str) -> dict[str, float]:
        return {} if game is None else {"real game": getattr(game, metric)}

    sign, turn, growth = dream.sign_right, dream.median_turn, dream.growth
    signs = {**real("sign_right"), "estimator": estimator["sign_right"]}
    degrees = {"true": TRUE_TURN, **real("median_turn"), "estimator": estimator["full_stick"]}
    range_of_turn = f"{0.75 * TRUE_TURN:g} to {1.25 * TRUE_TURN:g} deg"
    in_range = abs(turn - TRUE_TURN) <= 0.25 * TRUE_TURN
    growths = {"rest": float(np.median(dream.rest)), **real("growth")}
    grows = growth > 1 and is_significant(np.log(dream.forward) - np.log(dream.rest))
    chance = {"chance": 0.5, **real("expands")}
    return [
        row("right_stick_x ±1: direction right", sign, "%", signs, ">= 95 %", sign >= 0.95, turns),
        row("right_stick_x ±1: median turn a step", turn, "deg", degrees, range_of_turn, in_range, turns),
        row("yaw estimator, median error on real turns", estimator["median_error"], "deg", count=pairs),
        row("forward: median growth of the scene", growth, "x", growths, "> 1, > rest by 2 SE", grows, walks),
        row("forward grows more than rest", dream.expands, "%", chance, count=walks),
    ]


def measure_control(
    engine: Engine,
    dataset: FrameDataset,
    segments: Sequence[Segment],
    settings: EvaluationSettings,
    progress: Progress = lambda _: None,
) -> ControlMetrics:
    """Hold every input from every segment, in generated frames; rollout i has the seed `settings.seed + i`."""
    prompts = with_codes(engine.model, [segment.prompt(dataset) for segment in segments])
    last = reconstruct(engine.model, frames_after(dataset, segments, 0), settings.batch)
    frames = {}
    for name in INPUTS:
        actions = [np.tile(encode_named(held_state(name)), (settings.control_steps, 1))] * len(prompts)
        generated = rollout_frames(engine, prompts, actions, settings)
        frames[name] = np.concatenate([last[:, None], generated], axis=1)
        progress(f"control, {name}")
    return motion_metrics(frames)


def measure_game_control(
    dataset: FrameDataset, segments: Sequence[Segment], *, steps: int, progress: Progress = lambda _: None
) -> ControlMetrics | None:
    """Hold every input for `steps` steps in the real game, after a replay of the episode up to the segment.

    Returns the metrics of the segments without a death on the way; None when there is none, or for another game.
    """
    trials = []
    for segment in segments:
        episode = next(e for e in dataset.spans if e.start <= segment.row < e.start + e.length)
        if episode.meta.get("game") == "arena":
            trials.append(_trial(dataset, episode, segment.row, steps))
        progress("control, real game")
    trials = [trial for trial in trials if trial]
    if not trials:
        return None
    return motion_metrics({name: np.stack([trial[name] for trial in trials]) for name in INPUTS})


def _trial(dataset: FrameDataset, episode: EpisodeSlice, row: int, steps: int) -> dict[str, NDArray[np.uint8]]:
    """Pictures [1 + steps, H, W, 3] of each input from one segment; empty after a death."""
    from playloom.games.arena.engine import GameSpec
    from playloom.games.arena.process import GameProcess

    meta = episode.meta
    spec = GameSpec(variant=str(meta["variant"]), mode=str(meta["mode"]), seed=int(meta["seed"]))
    with GameProcess(spec) as game:
        for state in decode_values(np.array(dataset.actions_FA[episode.start : row])):
            game.step(state)
        trial = {}
        for name, undo in (("right", "left"), ("left", "right")):
            trial[name] = _hold(game, name, steps)
            _hold(game, undo, steps)
        _hold(game, "rest", _SETTLE)
        for name in ("rest", "forward"):
            trial[name] = _hold(game, name, steps)
        return {} if game.row[STATE_COLUMNS.index("dead")] > 0 else trial


def _hold(game: GameProcess, name: str, steps: int) -> NDArray[np.uint8]:
    frames = [game.frame_HWC]
    frames += [game.step(held_state(name))[0] for _ in range(steps)]
    return np.stack(frames)
