"""Diversity of sampled actions: Wasserstein distance to recorded actions, and how often they change.

The published protocol ("World and Human Action Models towards gameplay ideation", Nature 2025), scaled down: the mean
distance of ten pairs of sub-samples, with that of recorded and of uniformly random actions as baselines. A distance
falls with the size of the samples, so only figures of one size compare.

An action is a point of sixteen whole numbers: a stick counts in bins, a button is 0 or 1. M segments, S steps, A
inputs, N actions, R recorded actions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, SLOT_NAMES, SLOT_SIZES
from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row
from playloom.evaluation.segments import EvaluationContext, Progress, Segment, alive_episodes, run_batches
from playloom.inference.engine import Engine
from playloom.inference.types import GenerationRequest, Mode

REPEATS = 10
"""Pairs of sub-samples per distance."""
SUBSAMPLE = 0.8
"""Size of a sub-sample, as a share of the actions."""
DREAMS: dict[str, Mode] = {"full dream": "full", "policy on real frames": "policy"}
"""Modes of the sampled actions by name in the table: on generated frames, or on recorded ones."""

Actions = NDArray[np.uint8]


def evaluate(run: EvaluationContext) -> None:
    """Measure the diversity of sampled actions."""
    s = run.settings
    if not s.diversity_segments:
        return
    segments = run.segments(s.diversity_segments, s.diversity_steps)
    result = measure_diversity(run.engine, run.dataset, segments, s, run.progress, episodes=run.test)
    run.rows += diversity_rows(result)
    run.curves["diversity"] = diversity_curves(result)
    run.counts["diversity_segments"] = len(segments)


@dataclass(frozen=True, kw_only=True, eq=False)
class ActionSpread:
    """Spread of one kind of action, against the reference."""

    distance: float
    """Wasserstein-1 of all inputs together, mean over the sub-samples; NaN without a reference."""
    deviation: float
    """Standard deviation of `distance` over the sub-samples."""
    apart_A: NDArray[np.float64]
    """Wasserstein-1 of every input alone, over all actions; NaN without a reference."""
    changes: float
    """Share of steps whose action differs from the one before in any input."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Diversity:
    """Spreads of all kinds of action, from the same segments."""

    spreads: dict[str, ActionSpread]
    """By kind: those of `DREAMS`, `recorded` (the player's), `repeat` (the prompt's last input), `uniform`."""
    actions: int
    """Actions of each kind."""
    reference: int
    """Number of recorded actions in the reference."""


def joint_distance(first_NA: Actions, second_NA: Actions) -> float:
    """Return the Wasserstein-1 distance of two equally large samples, uint8 [N, 16] each, with Euclidean costs.

    The mean length of the cheapest pairing of all actions of one sample with all of the other.
    """
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost_NN = cdist(first_NA, second_NA)
    return float(cost_NN[linear_sum_assignment(cost_NN)].mean())


def marginal_distances(first_NA: Actions, second_RA: Actions) -> NDArray[np.float64]:
    """Return the Wasserstein-1 distance of every input alone, float64 [A]; the samples may differ in size."""
    from scipy.stats import wasserstein_distance

    return np.array([wasserstein_distance(*pair) for pair in zip(first_NA.T, second_RA.T, strict=True)])


def measure_diversity(
    engine: Engine,
    dataset: FrameDataset,
    segments: Sequence[Segment],
    settings: EvaluationSettings,
    progress: Progress = lambda _: None,
    *,
    episodes: Sequence[EpisodeSlice],
) -> Diversity:
    """Sample actions from every segment in both modes, and compare them with recorded ones.

    The reference are the steps alive of `episodes`, outside the segments' futures. Rollout i has the seed
    `settings.seed + i`. `progress` is called after every step of each batch.
    """
    seed, steps = settings.seed, settings.diversity_steps
    recorded = np.stack([segment.future_actions(dataset, steps) for segment in segments])
    last = np.stack([dataset.actions_FA[segment.row - 1] for segment in segments])
    kinds = {}
    for name, mode in DREAMS.items():
        kinds[name] = np.empty_like(recorded)
        requests = [
            GenerationRequest(
                prompt=segment.prompt(dataset),
                mode=mode,
                steps=steps,
                frames_SHWC=segment.future_frames(dataset, steps) if mode == "policy" else None,
                sampling=settings.sampling,
                seed=seed + index,
            )
            for index, segment in enumerate(segments)
        ]
        for rows, step, results in run_batches(engine, requests, settings.batch):
            kinds[name][rows, step] = [result.action_A for result in results]
            progress(f"diversity, {name}")
    kinds["recorded"] = recorded
    kinds["repeat"] = np.repeat(last[:, None], steps, axis=1)
    kinds["uniform"] = np.random.default_rng(seed).integers(0, SLOT_SIZES, recorded.shape).astype(np.uint8)
    reference = _reference(dataset, episodes, segments, steps)
    return Diversity(
        spreads={kind: action_spread(actions, last, reference, seed) for kind, actions in kinds.items()},
        actions=len(segments) * steps,
        reference=len(reference),
    )


def action_spread(actions_MSA: Actions, last_MA: Actions, reference_RA: Actions, seed: int) -> ActionSpread:
    """Measure actions [M, S, 16] of segments, whose last prompt actions are `last_MA`, against a reference.

    Each sub-sample, drawn with `seed`, has `SUBSAMPLE` of the smaller set.
    """
    before_MSA = np.concatenate([last_MA[:, None], actions_MSA[:, :-1]], axis=1)
    changes = float((actions_MSA != before_MSA).any(-1).mean())
    actions_NA = actions_MSA.reshape(-1, ACTION_SLOTS)
    if not len(reference_RA):
        return ActionSpread(distance=np.nan, deviation=np.nan, apart_A=np.full(ACTION_SLOTS, np.nan), changes=changes)
    size = max(1, round(SUBSAMPLE * min(len(actions_NA), len(reference_RA))))
    rng = np.random.default_rng(seed)
    distances = [
        joint_distance(*(sample[rng.permutation(len(sample))[:size]] for sample in (reference_RA, actions_NA)))
        for _ in range(REPEATS)
    ]
    return ActionSpread(
        distance=float(np.mean(distances)),
        deviation=float(np.std(distances, ddof=1)),
        apart_A=marginal_distances(actions_NA, reference_RA),
        changes=changes,
    )


def diversity_rows(result: Diversity) -> list[Row]:
    """Return the report rows: joint distance, distance of each input, and changes per step."""
    spreads = result.spreads
    metrics = {
        "distance to recorded actions": ("", {kind: one.distance for kind, one in spreads.items()}),
        "the same, inputs apart, summed": ("", {kind: float(one.apart_A.sum()) for kind, one in spreads.items()}),
        "steps that change an input": ("%", {kind: one.changes for kind, one in spreads.items()}),
    }
    rows = []
    for mode in DREAMS:
        deviation = {"SD": spreads[mode].deviation}
        for name, (unit, values) in metrics.items():
            baselines = {**deviation, **{kind: value for kind, value in values.items() if kind not in DREAMS}}
            rows.append(Row("diversity", f"{name}, {mode}", values[mode], unit, baselines, count=result.actions))
            deviation = {}  # belongs to the first metric alone
    return rows


def diversity_curves(result: Diversity) -> dict[str, object]:
    """Return every kind's figures as JSON values."""
    return {
        "actions": result.actions,
        "reference_actions": result.reference,
        "repeats": REPEATS,
        "subsample": SUBSAMPLE,
        "inputs": SLOT_NAMES,
        "kinds": {
            kind: {
                "distance": one.distance,
                "standard_deviation": one.deviation,
                "inputs_apart": one.apart_A,
                "steps_that_change": one.changes,
            }
            for kind, one in result.spreads.items()
        },
    }


def _reference(
    dataset: FrameDataset, episodes: Sequence[EpisodeSlice], segments: Sequence[Segment], steps: int
) -> Actions:
    """Recorded actions outside the segments' futures, without dead steps, uint8 [R, 16]."""
    free = np.zeros(len(dataset), bool)
    for episode in alive_episodes(dataset, episodes):
        free[episode.rows] = True
    for segment in segments:
        free[segment.row : segment.row + steps] = False
    return np.array(dataset.actions_FA)[free]
