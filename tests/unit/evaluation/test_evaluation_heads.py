"""Figures of the heads on data whose right answers are known."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import spearmanr

from conftest import loud_model, tiny_config
from evaluation_toys import frame_dataset, noise, random_actions
from model_toys import HEADS, with_heads
from playloom.data.dataset import FrameDataset
from playloom.evaluation import heads
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.segments import EvaluationContext
from playloom.inference.engine import Engine
from playloom.models.heads import StepPrediction

EPISODES = np.repeat(np.arange(8), 10)


def rows_of(reward: np.ndarray, ended: np.ndarray, health: np.ndarray, labels: dict) -> dict:
    predictions = [
        StepPrediction(r, e, {"health": h})
        for r, e, h in zip(reward.tolist(), ended.tolist(), health.tolist(), strict=True)
    ]
    return {row.name: row for row in heads.head_rows(HEADS, labels, predictions, EPISODES)}


def labels_of(rng: np.random.Generator) -> dict:
    labels = {"reward": rng.integers(-1, 2, 80), "terminated": rng.random(80) < 0.2, "health": rng.normal(60, 20, 80)}
    return {name: values.astype(np.float32) for name, values in labels.items()}


def test_perfect_heads_reach_the_bars_and_constant_ones_do_not() -> None:
    labels = labels_of(np.random.default_rng(0))
    perfect = rows_of(labels["reward"], labels["terminated"] * 0.9, labels["health"], labels)
    assert perfect["AUROC of termination"].value == 1.0 and perfect["AUROC of termination"].passed
    assert perfect["root mean square error of reward"].value == 0.0
    assert all(row.passed for row in perfect.values() if row.bar)
    flat = np.zeros(80)
    constant = rows_of(flat, flat + 0.2, flat + float(labels["health"].mean()), labels)
    assert constant["AUROC of termination"].value == 0.5 and not constant["AUROC of termination"].passed
    assert constant["mean probability of termination"].value == pytest.approx(0.2)
    assert constant["mean probability of termination"].baselines["recorded"] == labels["terminated"].mean()
    error = constant["root mean square error of health"]
    assert error.value == pytest.approx(error.baselines["constant"]) == pytest.approx(labels["health"].std())
    assert not any(row.passed for row in constant.values())


def test_play_without_an_end_is_no_missed_target() -> None:
    """Test episodes without a death missed the target of the AUROC, which is not known there."""
    labels = labels_of(np.random.default_rng(0)) | {"terminated": np.zeros(80, np.float32)}
    row = rows_of(labels["reward"], labels["reward"], labels["health"], labels)["AUROC of termination"]
    assert np.isnan(row.value) and row.passed is None and not row.bar


def test_missing_labels_are_left_out() -> None:
    labels = labels_of(np.random.default_rng(1))
    part = {name: np.where(np.arange(80) < 40, values, np.nan).astype(np.float32) for name, values in labels.items()}
    found = rows_of(labels["reward"], labels["terminated"], labels["health"] + np.where(EPISODES > 3, 50, 3), part)
    assert found["root mean square error of health"].value == pytest.approx(3.0, rel=1e-3)
    assert found["AUROC of termination"].count == 40
    labels["terminated"][:] = np.nan
    labels["reward"][:] = np.nan
    without = {name: values for name, values in labels.items() if name != "terminated"}
    for known in (labels, without):
        assert set(rows_of(labels["reward"], labels["reward"], labels["health"], known)) == {
            "root mean square error of health"
        }


def test_auroc_counts_pairs() -> None:
    rng = np.random.default_rng(2)
    scores, positive = rng.integers(0, 5, 40), rng.random(40) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    assert heads.auroc(np.stack([scores, positive], axis=1)) == pytest.approx(np.mean(pairs))
    assert np.isnan(heads.auroc(np.stack([scores, np.ones(40)], axis=1)))


def test_rank_correlation_is_spearmans_over_the_policies_means() -> None:
    rng = np.random.default_rng(3)
    values = np.stack([np.repeat(np.arange(5), 6), rng.normal(size=30), rng.normal(size=30)], axis=1)
    means = values[:, 1:].reshape(5, 6, 2).mean(1)
    assert heads.rank_correlation(values) == pytest.approx(spearmanr(means[:, 0], means[:, 1]).statistic)
    values[:, 2] = 0
    assert np.isnan(heads.rank_correlation(values))


def test_the_part_measures_test_episodes_and_dreams_of_their_policies(tmp_path: Path) -> None:
    rng, columns = np.random.default_rng(4), ("reward", "terminated", "health")
    values = (rng.integers(-2, 3, 60), rng.random(60) < 0.3, rng.normal(60, 20, 60))
    states = dict(zip(columns, values, strict=True))
    metas = [{"style": style} for style in ("novice", "sniper", "rusher")]
    lengths = [20] * 3
    frame_dataset(tmp_path, noise(60), random_actions(60), lengths=lengths, states=states, columns=columns, metas=metas)
    settings = EvaluationSettings(row_delay=1, return_segments=6, return_steps=3)
    model = with_heads(loud_model(tiny_config()))

    def run_of(one: object) -> EvaluationContext:
        run = EvaluationContext(
            engine=Engine(one, row_delay=1),  # type: ignore[arg-type]
            dataset=FrameDataset.open(tmp_path),
            settings=settings,
            progress=lambda _: None,
        )
        heads.evaluate(run)
        return run

    run = run_of(model)
    assert [row.name for row in run.rows] == [
        "AUROC of termination",
        "mean probability of termination",
        "root mean square error of health",
        "root mean square error of reward",
        "rank correlation of returns, 3 policies, 3 steps",
    ]
    assert run.counts == {"head_steps": 57, "return_segments": 6}
    assert set(run.curves["returns"]) == {"novice", "sniper", "rusher"} and -1 <= run.rows[-1].value <= 1
    assert abs(run.curves["returns"]["novice"]["game"]) <= 3, "rewards of a sign head are compared by their sign"
    assert run_of(loud_model(tiny_config())).rows == []
