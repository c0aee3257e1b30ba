"""Settings: unknown keys name the nearest one, and the schedule ends where it should."""

import dataclasses
import math
from itertools import pairwise

import pytest

from playloom.errors import ConfigError
from playloom.json_io import from_mapping
from playloom.training.checkpoint import differences
from playloom.training.optim import learning_rate_factor, progress
from playloom.training.task import LoopConfig
from playloom.training.tokenizer import TokenizerTrainingConfig
from playloom.training.world_model import WorldConfig


def test_configs_come_back_from_plain_values():
    config = from_mapping(
        TokenizerTrainingConfig,
        {"loop": {"minutes": 3, "ema_decay": 0}, "loss": {"perceptual": 1}, "mirror": True},
    )
    assert config.loop.minutes == 3.0
    assert config.loss.perceptual == 1.0
    assert from_mapping(TokenizerTrainingConfig, dataclasses.asdict(config)) == config
    world = from_mapping(WorldConfig, {"loop": {"steps": 1}, "row_delays": [0, 1], "row_delay_weights": [1, 2.5]})
    assert world.row_delays == (0, 1)
    assert world.row_delay_weights == (1.0, 2.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loop": {"steps": 5, "learning_rat": 1}}, "did you mean learning_rate"),
        ({"loop": {"steps": 5}, "windw_steps": 4}, "did you mean window_steps"),
        ({"loop": {"steps": "many"}}, "steps"),
        ({"loop": {"steps": True}}, "steps"),
        ({"loop": 5}, "loop"),
        ({"loop": {"steps": 5, "schedule": "cosin"}}, "cosin"),
        ({"loop": {}}, "needs an end"),
        ({"loop": {"steps": 0}}, "steps is out of range"),
        # NaN compares false with everything: such a run went on for ever.
        ({"loop": {"minutes": math.nan}}, "minutes is out of range"),
        ({"loop": {"steps": 1, "learning_rate": math.nan}}, "learning_rate"),
        ({"loop": {"steps": 1, "seed": -1}}, "seed is out of range"),
        ({"loop": {"steps": 1, "seed": 2**64}}, "seed is out of range"),
        ({"loop": {"steps": 1, "warmup_steps": -5}}, "warmup_steps"),
        ({"loop": {"steps": 1, "learning_rate": 10**400}}, "learning_rate has the wrong type"),
        ({"loop": {"steps": 1, "ema_decay": 1.5}}, "ema_decay"),
        ({"loop": {"steps": 1, "beta2": 1}}, "beta2 is out of range: got 1.0, expected 0 to below 1"),
        ({"loop": {"steps": 1}, "row_delays": [1]}, "must pair up"),
        # It was found after the data had been tokenised.
        ({"loop": {"steps": 1}, "row_delays": [0, 4, 2, -1]}, "row_delays are out of range"),
        ({"loop": {"steps": 1}, "row_delay_weights": [0, 0, 0, 0]}, "row_delay_weights"),
        ({"loop": {"steps": 1}, "row_delay_weights": [math.nan, 1, 1, 1]}, "row_delay_weights"),
        ({"loop": {"steps": 1}, "window_steps": 1}, "window_steps"),
        ({"loop": {"steps": 1}, "validation_windows": 0}, "validation_windows"),
        ({"loop": {"steps": 1}, "action_weight": math.nan}, "action_weight"),
    ],
)
def test_wrong_settings_are_one_sentence(values, message):
    with pytest.raises(ConfigError, match=message):
        from_mapping(WorldConfig, values)


@pytest.mark.parametrize("value", [0, math.nan, math.inf])
def test_the_discriminator_has_a_finite_rate(value):
    with pytest.raises(ConfigError, match="discriminator_rate"):
        from_mapping(TokenizerTrainingConfig, {"loop": {"steps": 1}, "discriminator_rate": value})


@pytest.mark.parametrize("kind", ["cosine", "wsd"])
def test_the_schedule_warms_up_and_decays_to_its_end(kind):
    config = LoopConfig(steps=1000, schedule=kind, warmup_steps=10, final_fraction=0.1, decay_fraction=0.25)
    rates = [learning_rate_factor(config, step, progress(config, step, 0.0)) for step in range(1001)]
    assert rates[0] == pytest.approx(0.1, abs=1e-5)
    assert max(rates) == pytest.approx(1.0, abs=1e-3)
    assert rates[-1] == pytest.approx(0.1)
    assert all(b <= a for a, b in pairwise(rates[10:]))
    stable = 0.5 if kind == "wsd" else 0.0
    assert (rates[700] == pytest.approx(1.0)) == bool(stable)


def test_progress_is_the_larger_of_steps_and_time():
    both = LoopConfig(steps=100, minutes=10)
    assert progress(both, 20, 60) == 0.2
    assert progress(both, 20, 300) == 0.5
    assert progress(both, 200, 0) == 1.0
    timed = LoopConfig(minutes=10)
    assert learning_rate_factor(timed, 5000, progress(timed, 5000, 600)) == pytest.approx(timed.final_fraction)
    half = learning_rate_factor(timed, 5000, progress(timed, 5000, 300))
    assert half == pytest.approx(0.5 * (1 + timed.final_fraction), rel=1e-6)
    assert math.isclose(progress(timed, 0, 0), 0.0)


def test_differences_name_the_setting():
    saved = {"loop": {"seed": 0, "batch": 4}, "data": 1}
    assert differences(saved, {"loop": {"seed": 1, "batch": 4}, "data": 1}) == ["loop.seed: was 0, now 1"]
