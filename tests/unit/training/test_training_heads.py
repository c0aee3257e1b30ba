"""Heads training: learnable labels are learned on a frozen model, killed runs resume, and evaluation measures it."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from conftest import loud_model, tiny_config
from playloom.cli.app import app
from playloom.data.dataset import TokenDataset
from playloom.errors import ConfigError, RecordingError
from playloom.inference.backend import CPU_BACKEND
from playloom.inference.generate import open_engine
from playloom.models.checkpoint import load_model, save_model
from playloom.models.folder import fingerprint, read_card, update_card
from playloom.models.heads import HeadsConfig
from playloom.models.heads_network import PredictionHeads
from playloom.training.artifacts import load_origin
from playloom.training.data_source import PrepareOptions
from playloom.training.heads import HeadsJob, HeadsTrainingConfig, constant_outputs, head_losses, run_heads
from playloom.training.run import WorldJob, run_world
from training_toys import SLOTS, loop, places, read_log, render, stick_actions, world_config

STEPS = 60


def labelled_store(folder, tokenizer: str, columns=("reward", "terminated", "health")) -> TokenDataset:
    """Codes that show one of sixteen places; reward, end and health of a step follow from the place after it."""
    writer = TokenDataset.create(folder, 6 * STEPS, slots=SLOTS, tokenizer=tokenizer, state_columns=columns)
    for seed in range(6):
        actions = stick_actions(STEPS, seed)
        place = places(actions) % 16
        tokens = np.tile(place[:, None], (1, SLOTS))
        after = np.roll(place, -1)
        known = {"reward": np.sign(after - 7), "terminated": after == 3, "health": 10.0 * place}
        states = np.stack([known.get(name, place) for name in columns], axis=1).astype(np.float32)
        split = "train" if seed > 1 else "validation"
        writer.append_episode(tokens.astype(np.uint16), actions, states, {"split": split, "seed": seed})
    writer.finish()
    return TokenDataset.open(folder)


@pytest.fixture
def model(tmp_path):
    save_model(tmp_path / "model", loud_model(tiny_config()), dtype=None)
    return tmp_path / "model"


def job_of(tmp_path, model, **settings) -> HeadsJob:
    own = {name: settings.pop(name) for name in list(settings) if name in HeadsTrainingConfig.__dataclass_fields__}
    run = {"steps": 150, "batch": 64, "learning_rate": 0.003, "ema_decay": 0.0, **settings}
    config = HeadsTrainingConfig(loop=loop(**run), **{"width": 32, **own})
    prepare = PrepareOptions(render=render)
    return HeadsJob(source=str(model), data=tmp_path / "data", out=tmp_path / "run", config=config, prepare=prepare)


def test_labels_are_learned_and_the_rest_of_the_model_stays(tmp_path, model):
    labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"))
    said: list[str] = []
    result = run_heads(job_of(tmp_path, model), say=said.append)
    found = result.validation
    assert found["reward"] < 0.5 * found["constant_reward"], found
    assert found["terminated"] < 0.5 * found["constant_terminated"], found
    assert found["health"] < 0.3 * found["constant_health"] and 0.5 < found["constant_health"] < 2
    assert "reward (" in said[0] and f"{4 * (STEPS - 1)} training steps" in said[0]
    for name in ("tokenizer.safetensors", "transformer.safetensors"):
        assert fingerprint(result.path / name) == fingerprint(model / name)
    heads = load_model(result.path).config.heads
    assert heads.reward == "sign" and heads.termination and [one.name for one in heads.states] == ["health"]
    assert load_model(result.path).card["heads"]["updates"] == 150
    assert open_engine(str(result.path), device="cpu").backend.name == CPU_BACKEND  # its graphs were written


def test_heads_leave_the_figures_of_the_rest(tmp_path, model):
    """The card said that nothing was measured, and its JSON kept figures of the heads of before."""
    labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"))
    row = {"name": "x", "value": 1.0, "unit": "", "baselines": {}, "bar": "", "passed": None, "count": 1, "error": None}
    rows = [{"part": part, **row} for part in ("horizon", "heads")]
    update_card(model, {"evaluation": {"run": {}, "rows": rows}})
    job = job_of(tmp_path, model, steps=2)
    path = run_heads(job, say=lambda _: None).path
    assert load_model(path).card["evaluation"] == {"run": {}, "rows": rows[:1]}
    assert "| horizon | x | 1.000 |" in read_card(str(path)) and "| heads |" not in read_card(str(path))
    update_card(path, {"evaluation": {"run": {}, "rows": rows}})
    run_heads(job, say=lambda _: None)
    assert load_model(path).card["evaluation"]["rows"] == rows, "a finished run leaves what was measured after it"


def test_a_run_resumes_and_reads_its_features_again(tmp_path, model):
    labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"))
    whole = job_of(tmp_path, model, steps=20, ema_decay=0.9)
    run_heads(whole, say=lambda _: None)
    half = dataclasses.replace(whole, out=tmp_path / "half")
    first = dataclasses.replace(half, config=job_of(tmp_path, model, steps=10, ema_decay=0.9).config)
    run_heads(first, say=lambda _: None)
    features = np.load(tmp_path / "half" / "features.npy", mmap_mode="r+")
    expected = np.array(features)
    features[:STEPS] = np.nan  # as if killed in the first episode
    features.flush()
    run_heads(half, say=lambda _: None)
    np.testing.assert_array_equal(np.load(tmp_path / "half" / "features.npy"), expected)
    assert read_log(half.out)[-1]["step"] == 20
    (half.out / "features.json").write_text(json.dumps({"model": "another"}), encoding="utf-8")
    with pytest.raises(RecordingError, match="features of another model or data; remove it"):
        run_heads(half, say=lambda _: None)
    (half.out / "features.npy").unlink()
    run_heads(half, say=lambda _: None)
    np.testing.assert_array_equal(np.load(tmp_path / "half" / "features.npy"), expected)


def test_a_head_that_learned_nothing_is_named(tmp_path, model):
    store = labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"))
    states = np.load(store.folder / "states.npy")
    states[:, 2] = np.random.default_rng(0).normal(size=len(states))  # nothing tells this health
    np.save(store.folder / "states.npy", states)
    said: list[str] = []
    run_heads(job_of(tmp_path, model), say=said.append)
    assert [line.split(":")[0] for line in said[1:]] == ["health"] and "no better than a constant" in said[1]


def test_data_without_labels_is_refused(tmp_path, model):
    labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"), columns=("x",))
    with pytest.raises(RecordingError, match="no labels to train heads on: got the columns x"):
        run_heads(job_of(tmp_path, model), say=lambda _: None)
    run = run_heads(job_of(tmp_path, model, states=("x",), steps=2), say=lambda _: None)
    assert load_model(run.path).config.heads.reward == "none", "a named state is enough"


def test_a_state_that_is_an_outcome_is_refused(tmp_path, model):
    """It replaced the labels of the reward by those of the next step."""
    with pytest.raises(ConfigError, match="outcome: got reward"):
        job_of(tmp_path, model, states=("health", "reward"))


def test_a_transformer_trained_further_loses_the_heads(tmp_path, model):
    """They read the old one."""
    labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"))
    headed = run_heads(job_of(tmp_path, model, steps=2), say=lambda _: None).path
    start = load_origin(str(headed))
    job = WorldJob(
        model=start.model.config,
        config=world_config(steps=1),
        data=tmp_path / "data",
        out=tmp_path / "world",
        tokenizer=None,
        prepare=PrepareOptions(render=render),
        start=start,
        alignment="off",
    )
    assert start.model.heads is not None and load_model(run_world(job, say=lambda _: None).path).heads is None


def test_large_rewards_are_scaled(tmp_path, model):
    store = labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"), columns=("reward", "x"))
    states = np.load(store.folder / "states.npy")
    np.save(store.folder / "states.npy", states * 100)
    path = run_heads(job_of(tmp_path, model, steps=2, states=()), say=lambda _: None).path
    heads = load_model(path).config.heads
    assert heads.reward == "scalar" and 50 < heads.reward_scale < 120 and not heads.termination and not heads.states


def test_losses_leave_out_missing_labels_and_the_constant_is_the_best_one():
    config = HeadsConfig(reward="sign", termination=True, width=4)
    heads = PredictionHeads(config, 2)
    labels = {"reward": np.array([1, 0, 0, 0, np.nan], np.float32), "terminated": np.array([0, 0, 0, 1, 1], np.float32)}
    constant_O = constant_outputs(config, {name: values[~np.isnan(values)] for name, values in labels.items()})
    found = head_losses(heads, constant_O.expand(5, -1), {n: torch.from_numpy(v) for n, v in labels.items()})
    rates = np.array([1, 4, 2]) / 7  # counts of -1, 0 and 1, and one more of each
    assert float(found["reward"]) == pytest.approx(-(3 * np.log(rates[1]) + np.log(rates[2])) / 4)
    assert float(found["terminated"]) == pytest.approx(-(3 * np.log(4 / 7) + 2 * np.log(3 / 7)) / 5)


def test_the_command_adds_heads(tmp_path, model):
    labelled_store(tmp_path / "data", fingerprint(model / "tokenizer.safetensors"))
    (tmp_path / "heads.json").write_text(json.dumps({"width": 16, "reward": "scalar"}), encoding="utf-8")
    arguments = ["train", "heads", "--model", model, "--data", tmp_path / "data", "--out", tmp_path / "out"]
    arguments += ["--steps", 3, "--device", "cpu", "--threads", 1, "--config", tmp_path / "heads.json"]
    result = CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)
    assert result.exit_code == 0 and "heads of reward" in result.output
    assert load_model(tmp_path / "out" / "model").config.heads.reward == "scalar"
