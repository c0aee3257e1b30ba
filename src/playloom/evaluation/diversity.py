"""Diversity of sampled actions: Wasserstein distance to recorded actions, and how often they change.

The published protocol ("World and Human Action Models towards gameplay ideation", Nature 2025), scaled down: the mean
distance of ten pairs of sub-samples, with that of recorded and of uniformly random actions as baselines. A distance
falls with the size of the samples, so only figures of one size compare.

An action is a point of sixteen whole numbers: a stick counts in bins, a button is 0 or 1. M segments, S steps, A
inputs, N actions, R recorded actions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import ACTION_SLOTS, REST_VALUES, SLOT_NAMES, SLOT_SIZES
from playloom.data.sampler import alive_spans
from playloom.evaluation.report import Row, standard_error
from playloom.evaluation.segments import EvaluationContext, Segment, segment_episodes
from playloom.inference.session import Mode

REPEATS = 10  # pairs of sub-samples per distance
SUBSAMPLE = 0.8  # size of a sub-sample, as a share of the actions
DREAMS: dict[str, Mode] = {"full dream": "full", "policy on real frames": "policy"}
"""Modes of the sampled actions by name in the table: on generated frames, or on recorded ones."""

Actions = NDArray[np.uint8]


def evaluate(run: EvaluationContext) -> None:
    """Measure the diversity of sampled actions."""
    s = run.settings
    if not s.diversity_segments:
        return
    segments = run.segments(s.diversity_segments, s.diversity_steps)
    result = measure_diversity(run, segments)
    run.rows += diversity_rows(result)
    run.curves["diversity"] = result
    run.counts["diversity_segments"] = len(segments)


def joint_distance(first_NA: Actions, second_NA: Actions) -> float:
    """Return the Wasserstein-1 distance of samples uint8 [N, 16]: the mean Euclidean length of the cheapest pairing."""
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost_NN = cdist(first_NA, second_NA)
    return float(cost_NN[linear_sum_assignment(cost_NN)].mean())


def marginal_distances(first_NA: Actions, second_RA: Actions) -> NDArray[np.float64]:
    """Return the Wasserstein-1 distance of every input alone, float64 [A]; the samples may differ in size."""
    from scipy.stats import wasserstein_distance

    return np.array([wasserstein_distance(*pair) for pair in zip(first_NA.T, second_RA.T, strict=True)])


def measure_diversity(run: EvaluationContext, segments: Sequence[Segment]) -> dict[str, Any]:
    """Sample actions from every segment in both modes, and compare them with recorded ones.

    The reference are the steps alive of the test episodes, outside the segments' futures. Returns the number of actions
    and the result of `action_spread` of every kind: those of `DREAMS`, `recorded` (the player's), `repeat` (the
    prompt's last input) and `uniform`.
    """
    dataset, seed, steps = run.dataset, run.settings.seed, run.settings.diversity_steps
    episodes_M = segment_episodes(dataset, segments)
    recorded = np.stack([segment.future_actions(dataset, steps) for segment in segments])
    prompts = [segment.prompt(dataset) for segment in segments]
    last = np.stack([[REST_VALUES, *prompt.actions_TA][-1] for prompt in prompts])
    given = run.requests(prompts, list(recorded))
    shown = [segment.future_frames(dataset, steps) for segment in segments]
    kinds = {}
    for name, mode in DREAMS.items():
        kinds[name] = np.empty_like(recorded)
        frames: Sequence[NDArray[np.uint8] | None] = shown if mode == "policy" else [None] * len(shown)
        pairs = zip(given, frames, strict=True)
        requests = [dataclasses.replace(one, mode=mode, actions_SA=None, frames_SHWC=seen) for one, seen in pairs]
        for rows, step, results in run.run_batches(requests):
            kinds[name][rows, step] = [result.action_A for result in results]
            run.progress(f"diversity, {name}")
    kinds["recorded"] = recorded
    kinds["repeat"] = np.repeat(last[:, None], steps, axis=1)
    kinds["uniform"] = np.random.default_rng(seed).integers(0, SLOT_SIZES, recorded.shape).astype(np.uint8)
    free = np.zeros(len(dataset), bool)
    for episode in alive_spans(dataset, run.test):
        free[episode.rows] = True
    for segment in segments:
        free[segment.row : segment.row + steps] = False
    reference = np.array(dataset.actions_FA)[free]
    return {
        "actions": len(segments) * steps,
        "reference_actions": len(reference),
        "repeats": REPEATS,
        "subsample": SUBSAMPLE,
        "inputs": SLOT_NAMES,
        "kinds": {
            kind: action_spread(actions, last, reference, seed, episodes_M if kind in DREAMS else None)
            for kind, actions in kinds.items()
        },
    }


def action_spread(
    actions_MSA: Actions,
    last_MA: Actions,
    reference_RA: Actions,
    seed: int,
    episodes_M: NDArray[np.int64] | None = None,
) -> dict[str, Any]:
    """Measure actions [M, S, 16] of segments, whose last prompt actions are `last_MA`, against a reference.

    Returns the Wasserstein-1 distance of all inputs together, the mean over sub-samples of `SUBSAMPLE` of the smaller
    set, drawn with `seed`; that of every input alone, over all actions; and the share of steps whose action differs
    from the one before. With `episodes_M`, `errors` has the standard errors of the three (of the sum, for inputs
    apart); each resample has one sub-sample. Distances are NaN without a reference.
    """
    before_MSA = np.concatenate([last_MA[:, None], actions_MSA[:, :-1]], axis=1)
    changed_M = (actions_MSA != before_MSA).any(-1).mean(1)
    changes = float(changed_M.mean())
    if not len(reference_RA):
        unknown = {"distance": np.nan, "inputs_apart": np.full(ACTION_SLOTS, np.nan)}
        return {**unknown, "steps_that_change": changes, "errors": [np.nan] * 3}
    rng = np.random.default_rng(seed)

    def distance(some_MSA: Actions) -> float:
        samples = (reference_RA, some_MSA.reshape(-1, ACTION_SLOTS))
        size = max(1, round(SUBSAMPLE * min(map(len, samples))))
        return joint_distance(*(sample[rng.permutation(len(sample))[:size]] for sample in samples))

    def apart(some_MSA: Actions) -> NDArray[np.float64]:
        return marginal_distances(some_MSA.reshape(-1, ACTION_SLOTS), reference_RA)

    mean = float(np.mean([distance(actions_MSA) for _ in range(REPEATS)]))
    spread = {"distance": mean, "inputs_apart": apart(actions_MSA), "steps_that_change": changes}
    if episodes_M is not None:
        errors = [standard_error(actions_MSA, episodes_M, one) for one in (distance, lambda x: float(apart(x).sum()))]
        spread["errors"] = [*errors, standard_error(changed_M, episodes_M)]
    return spread


def diversity_rows(result: Mapping[str, Any]) -> list[Row]:
    """Return the report rows: joint distance, distance of each input, and changes per step."""
    kinds, count, rows = result["kinds"], result["actions"], []
    metrics = {
        "distance to recorded actions": ("", {kind: one["distance"] for kind, one in kinds.items()}),
        "the same, inputs apart, summed": ("", {kind: float(one["inputs_apart"].sum()) for kind, one in kinds.items()}),
        "steps that change an input": ("%", {kind: one["steps_that_change"] for kind, one in kinds.items()}),
    }
    for mode in DREAMS:
        for (name, (unit, values)), error in zip(metrics.items(), kinds[mode]["errors"], strict=True):
            beside = {kind: value for kind, value in values.items() if kind not in DREAMS}
            rows.append(Row("diversity", f"{name}, {mode}", values[mode], unit, beside, count=count, error=error))
    return rows
