"""Control of the arena: effects of held inputs, and the view after turning away and back.

One input is held for some steps, everything else at rest; the frames are compared with the same segments at rest and
with the real game. M segments, S steps, K inputs of a measure.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import decode_values, encode_named
from playloom.actions.controller import CONTROLS
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.recording import STATE_COLUMNS
from playloom.data.sampler import alive_spans
from playloom.errors import ConfigError, GameError, MissingExtraError, RecordingError, import_extra
from playloom.evaluation import camera_motion
from playloom.evaluation.persistency import CANDIDATES, static_segments
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import (
    EvaluationContext,
    Progress,
    Segment,
    episodes_of,
    frames_after,
    reconstruct,
    segment_episodes,
    spread,
    with_codes,
)
from playloom.games.arena.engine import GAME_NAME, GameProcess, GameSpec
from playloom.models.tokenizer.metrics import PSNR_CAP, luma, psnr

BODY_TOP = 0.55  # upper end of the player's body, over picture height
Frames = NDArray[np.uint8]
Estimate = Callable[[Frames, Frames], NDArray[np.float64]]
_REPLAY = ("variant", "mode", "seed")  # metadata that the real game needs
AGAIN = "rest again"  # name of rest with another seed: the baseline
INPUTS: Mapping[str, Mapping[str, float]] = {
    "right": {"right_stick_x": 1.0},
    "left": {"right_stick_x": -1.0},
    "up": {"right_stick_y": 1.0},
    "down": {"right_stick_y": -1.0},
    "sidestep right": {"left_stick_x": 1.0},
    "sidestep left": {"left_stick_x": -1.0},
    "forward": {"left_stick_y": 1.0},
    "jump": {"button_A": 1.0},
    "shoot": {"trigger_RT": 1.0},
    "rest": {},
    AGAIN: {},
}
"""Positions of the held controls by name of the input."""
PATHS: Mapping[str, tuple[str, ...]] = {
    "there and back": ("right",) * 10 + ("left",) * 10,
    "full circle": ("right",) * 40,
}
"""Inputs that end with the view of the start, as the game turns by 9 degrees a step; half of them give another view."""


@dataclass(frozen=True)
class Measure:
    """Effect of one input, or of two opposite ones, on the frames."""

    title: str  # name in the table
    signs: Mapping[str, int]  # inputs, and the sign of the effect of each
    estimate: Estimate
    """Computes the effect [M] from frames [M, 1 + S, H, W, 3], the last one seen first, and from those at rest."""
    unit: str
    least: float  # least median effect that reaches the bar
    most: float = np.inf
    right: float = 0.8
    """Least share of effects in the right direction that reaches the bar; players at walls cannot walk."""


def _median_step(between: Estimate, frames: Frames, _: Frames) -> NDArray[np.float64]:
    """Median over the steps; a mean would be spoiled by one step whose view is hidden by a wall."""
    return np.asarray(np.median([between(frames[:, s - 1], frames[:, s]) for s in range(1, frames.shape[1])], axis=0))


def _growth(frames: Frames, _: Frames) -> NDArray[np.float64]:
    return camera_motion.expansion_between(frames[:, 0], frames[:, -1])


def _sidestep(frames: Frames, rest: Frames) -> NDArray[np.float64]:
    """Step beyond that at rest: a player in motion slides on."""
    moved, slid = (_median_step(camera_motion.slide_between, x, rest) for x in (frames, rest))
    return moved - slid


def _rise(frames: Frames, rest: Frames) -> NDArray[np.float64]:
    heights = [camera_motion.rise_between(rest[:, s], frames[:, s]) for s in range(1, frames.shape[1])]
    return np.asarray(np.max(heights, axis=0))


def _flash(frames: Frames, rest: Frames) -> NDArray[np.float64]:
    """Largest mean change of brightness at the player's body, which fires with another pose."""
    (height, width), (left, right) = frames.shape[2:4], camera_motion.BODY
    body = np.s_[..., round(BODY_TOP * height) :, round(left * width) : round(right * width), :]
    return np.asarray(np.abs(luma(frames[body]) - luma(rest[body])).mean((-2, -1)).max(-1), np.float64)


_TURN, _LOOK = (partial(_median_step, one) for one in (camera_motion.yaw_between, camera_motion.pitch_between))
_STEP = {"sidestep right": 1, "sidestep left": -1}
MEASURES: Mapping[str, Measure] = {
    "turn": Measure("right_stick_x ±1: median turn a step", {"right": 1, "left": -1}, _TURN, "deg", 6.75, 11.25, 0.95),
    "look": Measure("right_stick_y ±1: median look a step", {"up": 1, "down": -1}, _LOOK, "deg", 3.375, 5.625, 0.95),
    "sidestep": Measure("left_stick_x ±1: median step sideways", _STEP, _sidestep, "of camera height", 0.1),
    "forward": Measure("forward: median growth of the scene", {"forward": 1}, _growth, "x", 1.0),
    "jump": Measure("button_A: median rise of the camera", {"jump": 1}, _rise, "x", 1.2),
    "shoot": Measure("trigger_RT: median change of the player's body", {"shoot": 1}, _flash, "grey levels", 8.0),
}
"""Measures by name. A bar is half to a third of the median in the real game, see docs/evaluation.md."""


def _is_arena(run: EvaluationContext) -> bool:
    games = sorted({str(episode.meta.get("game", GAME_NAME)) for episode in run.test})
    if games == [GAME_NAME]:
        return True
    run.note(f"control and revisit are left out: {', '.join(games)} has an unknown camera")
    return False


def evaluate(run: EvaluationContext) -> None:
    """Measure control of the arena; camera and speeds of other games are unknown."""
    if not _is_arena(run):
        return
    s = run.settings
    segments = run.segments(s.control_segments, s.control_steps)
    dream = measure_control(run, segments)
    estimator = evaluate_estimator(run.dataset, run.test, count=s.estimator_pairs, seed=s.seed)
    run.progress("control, estimator")
    game = None
    if s.game_segments:
        with _game_baseline(run):
            game = measure_game_control(
                run.dataset, segments, count=s.game_segments, steps=s.control_steps, progress=run.progress
            )
    run.rows += control_rows(dream, estimator, game)
    run.curves["control"] = {"dream": dream.to_json(), "game": None if game is None else game.to_json()}
    right = estimator["right"]
    run.curves["estimator"] = {"pairs": len(right), "sign_right": right.mean() if len(right) else None}
    run.counts["control_segments"] = len(segments)


@dataclass(frozen=True, kw_only=True, eq=False)
class ControlMetrics:
    """Effects of the held inputs by measure."""

    held_MK: Mapping[str, NDArray[np.float64]]  # effect of each input of the measure, positive in the right direction
    rest_M: Mapping[str, NDArray[np.float64]]
    """The same estimate with nothing held and another seed; in the real game, the same frames."""
    episodes_M: NDArray[np.int64]  # number of each segment's episode

    def right_MK(self, name: str) -> NDArray[np.float64]:
        """Return 1 for an effect in the right direction; for a single input 1 if larger than at rest, 0.5 if equal."""
        held_MK = self.held_MK[name]
        if held_MK.shape[1] > 1:
            return (held_MK > 0).astype(np.float64)
        rest_M1 = self.rest_M[name][:, None]
        return (held_MK > rest_M1) + 0.5 * (held_MK == rest_M1)

    def to_json(self) -> dict[str, Any]:
        """Return the figures of all segments."""
        return {name: {"held": held.T, "rest": self.rest_M[name]} for name, held in self.held_MK.items()}


def held_state(name: str) -> NDArray[np.float32]:
    """Return the controller state of an input, float32 [16]."""
    return np.array([INPUTS[name].get(control.name, 0.0) for control in CONTROLS], np.float32)


def effects(frames: Mapping[str, Frames], episodes_M: NDArray[np.int64], measures: Sequence[str]) -> ControlMetrics:
    """Estimate the effects from pictures [M, 1 + S, H, W, 3] by name of the input; the first is the last seen."""
    rest, held_MK, rest_M = frames["rest"], {}, {}
    for name in measures:
        one = MEASURES[name]
        held_MK[name] = np.stack([sign * one.estimate(frames[held], rest) for held, sign in one.signs.items()], axis=1)
        rest_M[name] = one.estimate(frames.get(AGAIN, rest), rest)
    return ControlMetrics(held_MK=held_MK, rest_M=rest_M, episodes_M=episodes_M)


def evaluate_estimator(
    dataset: FrameDataset, episodes: Sequence[EpisodeSlice], *, count: int, seed: int
) -> dict[str, NDArray[Any]]:
    """Compare the yaw estimated from recorded pictures with the yaw of the recorded states.

    Draws up to `count` steps that turn by more than 2 degrees, without dead ones. Returns arrays with one value per
    step: `error` (absolute, degrees), `right` (1 if the direction is right) and `episodes`.
    """
    rows = np.zeros(0, np.int64)
    if {"dead", "yaw"} <= set(dataset.state_columns):
        yaw, alive = dataset.column("yaw"), alive_spans(dataset, episodes)
        rows = np.concatenate([np.arange(span.start, span.start + span.length - 1) for span in alive])
        truth = (yaw[rows + 1] - yaw[rows] + 180) % 360 - 180
        rows, truth = rows[np.abs(truth) > 2], truth[np.abs(truth) > 2]
    if not len(rows):
        return {name: np.zeros(0) for name in ("error", "right", "episodes")}
    drawn = np.sort(np.random.default_rng(seed).permutation(len(rows))[:count])
    rows, truth = rows[drawn], truth[drawn]
    pictures = dataset.frames_FHWC
    parts = np.split(rows, range(16, len(rows), 16))  # bounds the pictures in memory
    seen = np.concatenate([camera_motion.yaw_between(pictures[part], pictures[part + 1]) for part in parts])
    right = (np.sign(seen) == np.sign(truth)).astype(np.float64)
    return {"error": np.abs(seen - truth), "right": right, "episodes": episodes_of(dataset, rows)}


def control_rows(
    dream: ControlMetrics, estimator: Mapping[str, NDArray[Any]], game: ControlMetrics | None
) -> list[Row]:
    """Return the report rows; `game` is the same protocol in the real game."""
    row, rows = partial(Row.of, "control", episodes_M=dream.episodes_M), []
    for name, held_MK in dream.held_MK.items():
        one, rest_M, right_MK = MEASURES[name], dream.rest_M[name], dream.right_MK(name)
        pair, effect, right = len(one.signs) > 1, float(np.median(held_MK)), float(right_MK.mean())
        beside, chance = {"rest": float(np.median(rest_M))}, {"chance": 0.5}
        if game is not None:
            beside["real game"] = float(np.median(game.held_MK[name]))
            chance["real game"] = float(game.right_MK(name).mean())
        # Opposite inputs cancel what the scene does at rest.
        more = is_significant(held_MK.mean(1) if pair else held_MK[:, 0] - rest_M, dream.episodes_M)
        passed = more and one.least < effect <= one.most
        bar = f"> {one.least:g}" if one.most == np.inf else f"{one.least:g} to {one.most:g}"
        rows.append(row(one.title, held_MK, one.unit, beside, f"{bar}, > rest by 2 SE", passed, statistic=np.median))
        title = one.title.split(":")[0] + (": direction right" if pair else ": more than at rest")
        rows.append(row(title, right_MK, "%", chance, f">= {100 * one.right:g} %", right >= one.right))
    title, episodes_P = "yaw estimator, median error on real turns", estimator["episodes"]
    return [*rows, row(title, estimator["error"], "deg", episodes_M=episodes_P, statistic=np.median)]


def measure_control(
    run: EvaluationContext, segments: Sequence[Segment], measures: Sequence[str] = tuple(MEASURES)
) -> ControlMetrics:
    """Hold every input of the measures from every segment, in generated frames; `AGAIN` has seeds of its own."""
    s, frames = run.settings, {}
    prompts = with_codes(run.model, [segment.prompt(run.dataset) for segment in segments])
    last = reconstruct(run.model, frames_after(run.dataset, segments, 0), s.batch)
    for name in (*_inputs_of(measures), AGAIN):
        actions = [np.tile(encode_named(held_state(name)), (s.control_steps, 1))] * len(prompts)
        generated = run.changed(seed=s.seed + len(prompts) * (name == AGAIN)).rollout_frames(prompts, actions)
        frames[name] = np.concatenate([last[:, None], generated], axis=1)
        run.progress(f"control, {name}")
    return effects(frames, segment_episodes(run.dataset, segments), measures)


def _inputs_of(measures: Sequence[str]) -> list[str]:
    return [*(held for name in measures for held in MEASURES[name].signs), "rest"]


def measure_game_control(
    dataset: FrameDataset,
    segments: Sequence[Segment],
    *,
    count: int,
    steps: int,
    progress: Progress = lambda _: None,
) -> ControlMetrics:
    """Hold every input for `steps` steps in the real game, each after a replay of the episode up to the segment.

    Returns the metrics of up to `count` segments, without those of a death; RecordingError when there is none.
    """
    segments = replayable(dataset, segments, count)
    inputs = _inputs_of(tuple(MEASURES))
    actions = [np.tile(encode_named(held_state(name)), (steps, 1)) for name in inputs]
    kept, trials = [], []
    for segment in segments:
        frames, alive = zip(*(play_from(dataset, segment, held) for held in actions), strict=True)
        if all(alive):
            kept.append(segment)
            trials.append(frames)
        progress("control, real game")
    _check_alive(kept, segments)
    by_input = dict(zip(inputs, np.stack([np.stack(one) for one in trials], axis=1), strict=True))
    return effects(by_input, segment_episodes(dataset, kept), tuple(MEASURES))


def play_from(dataset: FrameDataset, segment: Segment, actions_SA: NDArray[np.uint8]) -> tuple[Frames, bool]:
    """Replay an episode of the arena up to a segment, then play these inputs.

    Returns the frames, the one before the inputs first, uint8 [1 + S, H, W, 3], and True if the player is alive.
    """
    episode = _episode(dataset, segment)
    spec = GameSpec(**{name: episode.meta[name] for name in _REPLAY})
    with GameProcess(spec) as game:
        for state in decode_values(np.array(dataset.actions_FA[episode.start : segment.row])):
            game.step(state)
        frames = [game.frame_HWC, *(game.step(state)[0] for state in decode_values(actions_SA))]
        return np.stack(frames), not game.row[STATE_COLUMNS.index("dead")] > 0


def require_game(dataset: FrameDataset) -> None:
    """Raise an error unless the real game can replay test episodes."""
    import_extra("vizdoom", "game")
    replayable(dataset, [Segment(row=episode.start, past=1) for episode in dataset.of_split("test")], 1)


def replayable(dataset: FrameDataset, segments: Sequence[Segment], count: int) -> list[Segment]:
    """Choose up to `count` segments whose episodes the real game can replay; RecordingError when there is none."""
    metas = [_episode(dataset, segment).meta for segment in segments]
    wanted = [meta.get("game") == GAME_NAME and meta.keys() >= {*_REPLAY} for meta in metas]
    if not any(wanted):
        found = ", ".join(sorted({str(meta.get("game", "no game")) for meta in metas}))
        raise RecordingError(
            f"no test episode can be replayed in the real game: their records name {found}, expected the game "
            f"{GAME_NAME} with {', '.join(_REPLAY)}; evaluate a folder of `playloom record`, or give --no-game"
        )
    return spread(list(itertools.compress(segments, wanted)), count)


def _episode(dataset: FrameDataset, segment: Segment) -> EpisodeSlice:
    return dataset.spans[int(segment_episodes(dataset, [segment])[0]) - 1]


def _check_alive(found: Sequence[object], segments: Sequence[Segment]) -> None:
    if not found:
        raise RecordingError(f"the player died from each of {len(segments)} segments")


@contextmanager
def _game_baseline(run: EvaluationContext) -> Iterator[None]:
    """Turn an error into a note: the real game is only a baseline, and all other rows are worth having without it."""
    try:
        yield
    except (MissingExtraError, GameError, ConfigError, RecordingError) as error:
        run.note(f"rows without the real game: {error}")


def evaluate_revisit(run: EvaluationContext) -> None:
    """Measure the return to the view of the start in the arena; the turning speed of other games is unknown."""
    s = run.settings
    if not s.revisit_segments or not _is_arena(run):
        return
    # From a player at rest: momentum would lead away from the start.
    segments = static_segments(run.dataset, run.segments(CANDIDATES * s.revisit_segments, 1), s.revisit_segments)
    prompts = with_codes(run.model, [segment.prompt(run.dataset) for segment in segments])
    start = frames_after(run.dataset, segments, 0)
    again, episodes_M = reconstruct(run.model, start, s.batch), segment_episodes(run.dataset, segments)
    for name, path in PATHS.items():
        actions, real = np.stack([encode_named(held_state(held)) for held in path]), list[float]()
        frames = run.rollout_frames(prompts, [actions] * len(prompts))
        run.progress(f"revisit, {name}")
        if s.game_segments:
            with _game_baseline(run):
                some = replayable(run.dataset, segments, s.game_segments)
                for segment in some:
                    seen, alive = play_from(run.dataset, segment, actions)
                    real += [float(psnr(seen[-1:], seen[:1], PSNR_CAP)[0])] if alive else []
                    run.progress(f"revisit, {name}, real game")
                _check_alive(real, some)
        run.rows.append(revisit_row(f"{name} ({len(path)} steps)", start, again, frames, real, episodes_M))
    run.counts["revisit_segments"] = len(segments)


def revisit_row(
    name: str, start: Frames, again: Frames, frames: Frames, real: Sequence[float], episodes_M: NDArray[np.int64]
) -> Row:
    """Return the report row of a path.

    `start` and `again` are the frames before it and their reconstructions, uint8 [M, H, W, 3], `frames` the generated
    ones, uint8 [M, S, H, W, 3]. `real` has the PSNR of the same path in the real game.
    A frozen frame and a mean frame are the same at the end and halfway, so they miss the bar.
    """
    another = np.roll(start, len(start) // 2, axis=0)
    seen = (frames[:, -1], frames[:, frames.shape[1] // 2 - 1], another, again)
    end_M, halfway_M, another_M, again_M = (psnr(x, start, PSNR_CAP).double().numpy() for x in seen)
    beside = {"halfway": halfway_M.mean(), "another segment": another_M.mean(), "tokenizer": again_M.mean()}
    if len(start) < 2:
        del beside["another segment"]  # it is the same one
    beside |= {"real game": np.mean(real)} if real else {}
    passed = all(is_significant(end_M - other_M, episodes_M) for other_M in (halfway_M, another_M))
    title, bar = f"PSNR of the start after {name}", "> halfway, > another, by 2 SE"
    return Row.of("revisit", title, end_M, "dB", beside, bar, passed, episodes_M=episodes_M)
