"""Heads: files, units, and the same features from cached decoding as from whole steps."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
import torch

from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from model_toys import HEADS, with_heads
from playloom.data.dataset import EpisodeSlice
from playloom.errors import CheckpointError, ConfigError
from playloom.inference.engine import Engine
from playloom.inference.features import recorded_features
from playloom.inference.session import StepInput
from playloom.models.checkpoint import load_model, save_model
from playloom.models.config import ModelConfig
from playloom.models.heads import HeadsConfig, StateConfig
from playloom.models.heads_network import PredictionHeads
from reference_decoder import torch_engine


def test_a_model_with_heads_comes_back_as_it_went(tmp_path, tiny_model):
    model = with_heads(tiny_model)
    save_model(tmp_path / "model", model, dtype=None)
    again = load_model(tmp_path / "model")
    assert again.config == model.config and again.heads is not None and not again.heads.training
    features = torch.randn(3, 2 * model.config.transformer.width)
    assert again.heads.predict(features) == model.heads.predict(features)
    (tmp_path / "model" / "heads.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"heads\.safetensors is missing"):
        load_model(tmp_path / "model")


def test_a_model_without_heads_has_the_files_and_the_name_it_always_had(tmp_path, tiny_model):
    save_model(tmp_path / "model", tiny_model, dtype=None)
    content = json.loads((tmp_path / "model" / "model.json").read_text(encoding="utf-8"))
    assert set(content["config"]) == {"name", "rows", "tokenizer", "transformer"}
    assert set(content["weights"]) == {"tokenizer.safetensors", "transformer.safetensors"}
    assert load_model(tmp_path / "model").heads is None
    save_model(tmp_path / "headed", with_heads(tiny_model), dtype=None)
    assert load_model(tmp_path / "headed").fingerprint != load_model(tmp_path / "model").fingerprint
    two = " ".join(content["weights"][f"{name}.safetensors"] for name in ("tokenizer", "transformer"))
    assert load_model(tmp_path / "model").fingerprint == hashlib.blake2b(two.encode(), digest_size=8).hexdigest()


def test_configs_survive_json_and_refuse_nothing_to_predict():
    config = dataclasses.replace(tiny_config(), heads=HEADS)
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    with pytest.raises(ConfigError, match="predict nothing"):
        HeadsConfig()
    with pytest.raises(ConfigError, match="scale of the head health"):
        HeadsConfig(states=(StateConfig(name="health", scale=0.0),))


@pytest.mark.parametrize("reward", ["sign", "scalar", "none"])
def test_predictions_are_in_the_units_of_the_data(reward):
    config = dataclasses.replace(HEADS, reward=reward, reward_scale=10.0)
    heads = PredictionHeads(config, 4)
    with torch.no_grad():
        heads.out.bias[config.reward_outputs :] = torch.tensor([0.0, 1.5])
        heads.out.bias[: config.reward_outputs] = torch.tensor([-40.0, 0.0, 0.0][: config.reward_outputs])
    (found,) = heads.predict(torch.zeros(1, 8))
    expected = {"sign": pytest.approx(0.5), "scalar": -400.0, "none": None}[reward]
    assert found == (expected, 0.5, {"health": 100.0})


@pytest.mark.parametrize("positions, rows", [("rolling", True), ("absolute", True), ("absolute", False)])
def test_cached_decoding_gives_the_reference_predictions(positions, rows):
    model = with_heads(loud_model(tiny_config(positions, rows)))
    order = 2 if rows else None
    found = []
    for reference in (False, True):
        engine = torch_engine(model, order, naive=reference)
        sessions = [engine.open(prompt_of(steps=steps, seed=steps), seed=steps) for steps in (4, 2)]
        steps = [engine.step([StepInput(s, action(n)) for s in sessions]) for n in range(6)]
        found.append([result.prediction for results in steps for result in results])
    for cached, expected in zip(*found, strict=True):
        assert cached.reward == pytest.approx(expected.reward, abs=1e-5)
        assert cached.termination == pytest.approx(expected.termination, abs=1e-5)
        assert cached.states == pytest.approx(expected.states, abs=1e-3)
    assert np.ptp([one.reward for one in found[0]]) > 0.01, "the heads must see the dream"


@pytest.mark.parametrize("positions", ["rolling", "absolute"])
def test_features_of_recorded_play_are_those_of_a_dream_of_it(positions):
    """Training and evaluation read windows; in use the features come from cached decoding."""
    model = with_heads(loud_model(tiny_config(positions)))
    engine = Engine(model, row_delay=1)
    prompt = prompt_of(steps=3)
    session = engine.open(prompt, seed=1)
    results = [session.step(action(n)) for n in range(4 if positions == "rolling" else 1)]
    codes = np.concatenate([engine.codes(prompt), [result.codes_N for result in results]])
    actions = np.concatenate([prompt.actions_TA, [result.action_A for result in results], [action(9)]])
    (found,) = recorded_features(
        model, codes, actions, [EpisodeSlice(start=0, length=len(codes), meta={})], row_delay=1
    )
    assert found[0].tolist() == list(range(len(codes) - 1))
    predictions = model.heads.predict(torch.from_numpy(found[1]))[2:]
    for expected, result in zip(predictions, results, strict=True):
        assert result.prediction.reward == pytest.approx(expected.reward, abs=1e-5)
        assert result.prediction.states == pytest.approx(expected.states, abs=1e-3)


@pytest.mark.parametrize("positions", ["rolling", "absolute"])
def test_every_step_is_read_once(positions):
    model, rng = loud_model(tiny_config(positions)), np.random.default_rng(0)
    codes, actions = rng.integers(0, 16, (60, 24)), np.tile(action(0), (60, 1))
    spans = [EpisodeSlice(start=start, length=length, meta={}) for start, length in ((0, 41), (41, 1), (45, 15))]
    found = list(recorded_features(model, codes, actions, spans, row_delay=1))
    assert sorted(np.concatenate([rows for rows, _ in found]).tolist()) == [*range(40), *range(45, 59)]
    left = recorded_features(model, codes, actions, spans, row_delay=1, skip=lambda rows: rows[0] < 40)
    assert sorted(np.concatenate([rows for rows, _ in left]).tolist()) == [*range(45, 59)]
