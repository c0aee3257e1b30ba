"""Heads: predicted reward, termination and states against the labels of test episodes, and returns of policies.

M steps or segments.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.sampler import labelled_spans, step_labels
from playloom.evaluation.report import Row, is_significant
from playloom.evaluation.segments import EvaluationContext, encode, episodes_of, segment_episodes
from playloom.inference.features import recorded_features
from playloom.models.heads import HeadsConfig, StepPrediction

LEAST_POLICIES = 3  # fewest policies whose order says anything
Labels = dict[str, NDArray[np.float32]]


def evaluate(run: EvaluationContext) -> None:
    """Measure the heads on every labelled test step, teacher-forced, and in dreams; without heads nothing."""
    config = run.model.config.heads
    if config is None:
        return
    columns = run.dataset.state_columns
    labels = step_labels(run.dataset, [state.name for state in config.states if state.name in columns])
    if config.reward == "sign" and "reward" in labels:
        labels["reward"] = np.sign(labels["reward"])
    model, heads = run.model, run.model.heads
    assert heads is not None
    codes_FN = np.zeros((len(run.dataset), model.config.layout.image_slots), np.int64)
    for span in run.test:
        codes_FN[span.rows] = encode(model, run.dataset.frames_FHWC[span.rows], run.settings.batch)
        run.progress("heads, codes")
    parts, predictions = [], list[StepPrediction]()
    spans, order = labelled_spans(run.dataset, run.test), run.settings.row_delay
    for part, features in recorded_features(model, codes_FN, run.dataset.actions_FA, spans, row_delay=order):
        parts.append(part)
        predictions += heads.predict(torch.from_numpy(features).to(model.device))
        run.progress("heads, features")
    rows = np.concatenate(parts)
    episodes_M = episodes_of(run.dataset, rows)
    run.rows += head_rows(config, {name: values[rows] for name, values in labels.items()}, predictions, episodes_M)
    run.counts["head_steps"] = len(rows)
    if config.reward != "none" and "reward" in labels and run.settings.return_segments:
        run.rows += _return_rows(run, labels["reward"])


def head_rows(
    config: HeadsConfig, labels: Labels, predictions: list[StepPrediction], episodes_M: NDArray[np.int64]
) -> list[Row]:
    """Return the rows of labels [M] by name (NaN: none). The constants are the best ones for these very labels."""
    labels = {name: values_M for name, values_M in labels.items() if not np.isnan(values_M).all()}
    predicted = {state.name: np.array([one.states[state.name] for one in predictions]) for state in config.states}
    if config.reward != "none":
        predicted["reward"] = np.array([one.reward for one in predictions])
    rows = []
    if config.termination and "terminated" in labels:
        known_M = ~np.isnan(labels["terminated"])
        ended_M = np.array([one.termination for one in predictions])
        both_M2 = np.stack([ended_M, labels["terminated"]], axis=1)[known_M]
        row = partial(Row.of, "heads", episodes_M=episodes_M[known_M])
        area = row("AUROC of termination", both_M2, "", {"chance": 0.5}, statistic=auroc)
        if not np.isnan(area.value):  # else no step or every step ends an episode
            area = dataclasses.replace(area, bar="> chance + 2 SE", passed=bool(area.value - 0.5 > 2 * area.error))
        rows.append(area)
        rate = {"recorded": float(both_M2[:, 1].mean())}
        rows.append(row("mean probability of termination", both_M2[:, 0], "%", rate))
    for name, values_M in predicted.items():
        if name not in labels:
            continue
        known_M = ~np.isnan(labels[name])
        real_M, clusters_M = labels[name][known_M].astype(np.float64), episodes_M[known_M]
        squares_M, constant_M = (values_M[known_M] - real_M) ** 2, (real_M.mean() - real_M) ** 2
        passed, beside = is_significant(constant_M - squares_M, clusters_M), {"constant": _root_mean(constant_M)}
        row = partial(Row.of, "heads", statistic=_root_mean, episodes_M=clusters_M)
        rows.append(row(f"root mean square error of {name}", squares_M, "", beside, "< constant", passed))
    return rows


def auroc(values_M2: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve of scores and labels (0 or 1): the share of pairs in the right order.

    Ties count half (Hanley and McNeil 1982). NaN where one class is missing.
    """
    from scipy.stats import mannwhitneyu

    scores_M, positive_M = values_M2[:, 0], values_M2[:, 1] > 0
    if positive_M.all() or not positive_M.any():
        return float("nan")
    pairs = positive_M.sum() * (~positive_M).sum()
    return float(mannwhitneyu(scores_M[positive_M], scores_M[~positive_M], method="asymptotic").statistic / pairs)


def rank_correlation(values_M3: NDArray[np.float64]) -> float:
    """Return Spearman's correlation over policies between their mean returns in dreams and in the game.

    Columns: number of the policy, return in the dream, return in the game. NaN where one of them is constant.
    """
    from scipy.stats import rankdata

    policies = np.unique(values_M3[:, 0])
    ranks = rankdata([values_M3[values_M3[:, 0] == policy, 1:].mean(0) for policy in policies], axis=0)
    if len(policies) < 2 or not ranks.std(0).all():
        return float("nan")
    return float(np.corrcoef(ranks.T)[0, 1])


def _root_mean(squares_M: NDArray[np.float64]) -> float:
    return float(np.sqrt(squares_M.mean()))


def _return_rows(run: EvaluationContext, reward_F: NDArray[np.float32]) -> list[Row]:
    s, dataset = run.settings, run.dataset
    segments = run.segments(s.return_segments, s.return_steps)
    episodes_M = segment_episodes(dataset, segments)
    styles = [str(dataset.spans[number - 1].meta.get("style") or "unknown") for number in episodes_M]
    policies = sorted({*styles})
    if len(policies) < LEAST_POLICIES:
        return []
    prompts = [segment.prompt(dataset) for segment in segments]
    requests = run.requests(prompts, [one.future_actions(dataset, s.return_steps) for one in segments])
    values_M3 = np.zeros((len(segments), 3))
    values_M3[:, 0] = [policies.index(style) for style in styles]
    values_M3[:, 2] = [reward_F[one.row : one.row + s.return_steps].sum() for one in segments]
    for part, _, results in run.run_batches(requests):
        values_M3[part, 1] += [one.prediction.reward or 0.0 for one in results if one.prediction is not None]
        run.progress("heads, returns")
    run.counts["return_segments"] = len(segments)
    means = {name: values_M3[values_M3[:, 0] == index, 1:].mean(0).tolist() for index, name in enumerate(policies)}
    run.curves["returns"] = {name: {"dream": dream, "game": game} for name, (dream, game) in means.items()}
    name = f"rank correlation of returns, {len(policies)} policies, {s.return_steps} steps"
    return [Row.of("heads", name, values_M3, episodes_M=episodes_M, statistic=rank_correlation)]
