"""Diversity: both distances against brute force, what a spread means, and a whole measurement on a tiny model."""

import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest

from conftest import loud_model, tiny_config
from evaluation_toys import frame_dataset, noise, random_actions, resting
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.diversity import (
    DREAMS,
    action_spread,
    diversity_rows,
    joint_distance,
    marginal_distances,
    measure_diversity,
)
from playloom.evaluation.segments import EvaluationContext, choose_segments
from playloom.inference.engine import Engine

SETTINGS = EvaluationSettings(diversity_steps=3, batch=2)


@pytest.mark.parametrize("seed", range(4))
def test_the_joint_distance_is_that_of_the_cheapest_pairing_of_whole_actions(seed: int) -> None:
    first, second = random_actions(6, seed=seed), random_actions(6, seed=seed + 100)
    second[:3] = first[3:]
    lengths = np.sqrt(((first[:, None].astype(float) - second[None]) ** 2).sum(-1))
    orders = itertools.permutations(range(6))
    best = min(sum(lengths[row, column] for row, column in enumerate(order)) for order in orders) / 6
    assert joint_distance(first, second) == pytest.approx(best)


def test_known_distances() -> None:
    rest = resting(20)
    assert joint_distance(rest, rest) == 0
    fired, turned, both = rest.copy(), rest.copy(), rest.copy()
    fired[:, 1] = 1
    turned[:5, 14] = 9
    both[:, 1], both[:, 15] = 1, 8
    assert joint_distance(rest, fired) == 1
    assert joint_distance(rest, turned) == 4 * 5 / 20
    assert joint_distance(rest, both) == pytest.approx(np.sqrt(1 + 9))
    assert marginal_distances(rest, both).tolist() == [0, 1] + [0] * 13 + [3]
    assert marginal_distances(rest[:3], turned)[14] == pytest.approx(1)


def test_a_marginal_distance_is_the_mean_gap_of_the_sorted_values() -> None:
    first, second = random_actions(50), random_actions(50, seed=1)
    gaps = np.abs(np.sort(first, axis=0).astype(int) - np.sort(second, axis=0)).mean(0)
    assert marginal_distances(first, second) == pytest.approx(gaps)


def test_inputs_apart_do_not_see_what_belongs_together_and_the_joint_distance_does() -> None:
    together, crossed = resting(20), resting(20)
    together[:10, 12], together[:10, 13] = 0, 0
    crossed[:10, 12], crossed[10:, 13] = 0, 0
    assert marginal_distances(together, crossed).sum() == 0
    assert joint_distance(together, crossed) == 5


def test_the_same_play_is_near_random_play_far_and_held_inputs_never_change() -> None:
    source = np.random.default_rng(0)
    play = resting(400)
    play[:, 13] = source.choice([5, 10], 400)
    play[:, 14] = source.choice([3, 5, 7], 400)
    last = play[:20]
    same = action_spread(play[200:].reshape(20, 10, 16), last, play[:200], 0)
    held = action_spread(np.repeat(last[:, None], 10, axis=1), last, play[:200], 0)
    random = action_spread(random_actions(20, 10), last, play[:200], 0)
    assert 0 <= same["distance"] < 0.5 < 4 < random["distance"] < 7
    assert same["inputs_apart"].sum() < held["inputs_apart"].sum() + 1 < random["inputs_apart"].sum()
    assert (
        held["steps_that_change"] == 0 and random["steps_that_change"] == 1 and 0.6 < same["steps_that_change"] < 0.95
    )
    errors = action_spread(play[200:].reshape(20, 10, 16), last, play[:200], 0, np.arange(20))["errors"]
    assert all(0 < error < 0.3 for error in errors)
    assert action_spread(play[200:].reshape(20, 10, 16), last, play[:200], 0)["distance"] == same["distance"]
    still = action_spread(resting(8).reshape(2, 4, 16), resting(2), resting(50), 0)
    assert (still["distance"], still["steps_that_change"], still["inputs_apart"].sum()) == (0, 0, 0)


def test_a_change_is_counted_from_the_last_input_of_the_prompt_on() -> None:
    actions = resting(4).reshape(1, 4, 16)
    actions[0, 2:, 3] = 1
    assert action_spread(actions, resting(1), resting(9), 0)["steps_that_change"] == 0.25
    assert action_spread(actions, actions[:, 3], resting(9), 0)["steps_that_change"] == 0.5


def test_without_a_reference_there_is_no_distance() -> None:
    alone = action_spread(random_actions(2, 3), resting(2), resting(0), 0)
    assert np.isnan(alone["distance"]) and np.isnan(alone["inputs_apart"]).all() and alone["steps_that_change"] == 1


def test_measured_on_a_tiny_model_it_is_repeatable_and_compares_with_the_rest_of_the_recording(tmp_path: Path) -> None:
    store = frame_dataset(tmp_path, noise(40), random_actions(40), states={"dead": np.arange(40) == 39})
    engine = Engine(loud_model(tiny_config()), row_delay=SETTINGS.row_delay)
    moments = choose_segments(store, store.spans, count=3, past=4, future=3, seed=0)
    done: list[str] = []
    result = measure_diversity(EvaluationContext(engine, store, SETTINGS, done.append), moments)
    assert list(result["kinds"]) == [*DREAMS, "recorded", "repeat", "uniform"]
    futures = {row for moment in moments for row in range(moment.row, moment.row + 3)}
    assert result["actions"] == 9 and result["reference_actions"] == 39 - len(futures)
    recorded = np.stack([moment.future_actions(store, 3) for moment in moments])
    assert len(done) == 2 * 2 * 3  # two ways, two batches, three steps
    reference = np.array(store.actions_FA)[[row for row in range(39) if row not in futures]]
    last = np.stack([store.actions_FA[moment.row - 1] for moment in moments])
    assert result["kinds"]["recorded"]["distance"] == action_spread(recorded, last, reference, 0)["distance"]
    rows = diversity_rows(result)
    assert [row.name for row in rows[:2]] == [
        "distance to recorded actions, full dream",
        "the same, inputs apart, summed, full dream",
    ]
    assert all({"recorded", "repeat", "uniform"} <= set(row.baselines) and row.count == 9 for row in rows)
    again = measure_diversity(EvaluationContext(engine, store, SETTINGS), moments)
    assert [row.value for row in diversity_rows(again)] == [row.value for row in rows]
    changed = dataclasses.replace(SETTINGS, seed=1, batch=3)
    other = measure_diversity(EvaluationContext(engine, store, changed), moments)
    assert [row.value for row in diversity_rows(other)] != [row.value for row in rows]
    assert result["kinds"]["repeat"]["steps_that_change"] == 0 and len(result["inputs"]) == 16
