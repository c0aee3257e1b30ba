"""Infos, the model's certainty, shared models, splits and codes as observations."""

from __future__ import annotations

import gc
import warnings
import weakref
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv

from conftest import loud_model, tiny_config
from engine_toys import action, prompt_of
from env_toys import WORDS, frame_dataset, make_engine, prompts
from playloom.actions.codec import REST_VALUES
from playloom.envs import ENV_ID, core
from playloom.envs.core import WorldModelEnv
from playloom.envs.prompts import prompt_sources
from playloom.envs.vector import WorldModelVectorEnv
from playloom.errors import BadInputError, ConfigError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import StepInput
from playloom.inference.torch_sampling import BatchSampler
from playloom.models.checkpoint import save_model
from playloom.models.onnx.export import export_onnx
from reference_decoder import torch_engine

PROMPTS = ["plaza-rusher", "court-rusher"]


@pytest.fixture
def folder(tmp_path) -> Path:
    save_model(tmp_path / "tiny", loud_model(tiny_config()), dtype=None)
    export_onnx(tmp_path / "tiny")
    return tmp_path / "tiny"


def form(info: dict) -> dict:
    """Type, and shape and dtype if any, of every entry: all that a fixed storage layout depends on."""
    return {key: (type(one), getattr(one, "shape", None), getattr(one, "dtype", None)) for key, one in info.items()}


def test_infos_after_reset_and_step_have_one_form():
    env = WorldModelEnv(make_engine(), prompts(), reward_fn=lambda transition: transition.entropy)
    first = env.reset(seed=1)[1]
    _, reward, *_, stepped = env.step(env.action_space.sample())
    assert form(first) == form(stepped)
    assert {"prompt", "dream_seed", "codes", "actions", "entropy"} == set(first)
    assert stepped["prompt"] == first["prompt"] and stepped["dream_seed"] == first["dream_seed"]
    np.testing.assert_array_equal(first["actions"], REST_VALUES)
    assert first["entropy"] == 0.0 < stepped["entropy"] == reward < np.log(16)
    stepped["codes"][:] = first["actions"][:] = 0  # the caller's own copies
    assert REST_VALUES.any() and env._episodes[0].info["codes"].any()
    env.close()
    envs = WorldModelVectorEnv(2, make_engine(), prompts())
    assert form(envs.reset(seed=1)[1]) == form(envs.step(envs.action_space.sample())[4])
    envs.close()


def test_entropy_is_that_of_the_logits_whatever_the_sampling():
    probabilities = torch.tensor([[0.5, 0.25, 0.25, 0.0], [0.25] * 4, [1.0, 0.0, 0.0, 0.0]])
    entropy_BS = torch.zeros(1, 4)
    cold = Sampling(temperature=0.1, top_k=1)
    draws = BatchSampler([cold], torch.zeros(1, 4, 4), entropy_BS=entropy_BS)
    draws.sample(probabilities.log()[None], torch.tensor([2, 0, 1]))
    torch.testing.assert_close(entropy_BS, torch.log(torch.tensor([[4.0, 1.0, 2**1.5, 1.0]])))


def test_a_model_that_knows_nothing_has_the_entropy_of_a_uniform_distribution():
    model = loud_model(tiny_config())
    with torch.no_grad():
        model.transformer.token.weight[: model.config.layout.vocab.codebook_size] = 0
    env = WorldModelEnv(Engine(model), prompts())
    env.reset(seed=1)
    assert env.step(env.action_space.sample())[4]["entropy"] == pytest.approx(np.log(16), rel=1e-6)
    env.close()


def test_entropy_is_the_reference_decoders_and_changes_no_token():
    """Two dreams in a batch, with their own samplings, against an uncached decoder and against steps without it."""
    hows = [Sampling(temperature=0.0), Sampling(temperature=1.3, top_k=3)]
    found = []
    for reference, entropy in ((False, True), (True, True), (False, False)):
        engine = torch_engine(loud_model(tiny_config()), 1, naive=reference)
        sessions = [engine.open(prompt_of(4, seed), sampling=how, seed=seed) for seed, how in enumerate(hows)]
        steps = [engine.step([StepInput(s, action(n)) for s in sessions], entropy=entropy) for n in range(3)]
        found.append([step for both in steps for step in both])
    for fast, judge, plain in zip(*found, strict=True):
        assert fast.entropy == pytest.approx(judge.entropy, rel=1e-4) and plain.entropy is None
        np.testing.assert_array_equal(fast.codes_N, plain.codes_N)
    given = sessions[0].engine.step([StepInput(sessions[0], action(9), prompt_of(2).frames_THWC[0])], entropy=True)
    assert given[0].entropy is None  # nothing was drawn


def test_copies_of_an_environment_share_one_model_as_long_as_one_lives(folder, monkeypatch):
    loads = []
    load = core.open_engine
    monkeypatch.setattr(core, "open_engine", lambda *given, **options: loads.append(given) or load(*given, **options))
    settings = {"model": str(folder), "prompts": PROMPTS, "max_steps": 2}
    copies = SyncVectorEnv([lambda: gym.make(ENV_ID, **settings)] * 3)
    engine = copies.envs[0].unwrapped.engine
    assert len(loads) == 1 and all(env.unwrapped.engine is engine for env in copies.envs)
    copies.reset(seed=1)
    copies.step(copies.action_space.sample())
    batch = WorldModelVectorEnv(2, folder, PROMPTS, device="cpu")
    other = WorldModelEnv(folder, PROMPTS, decode_order=2)
    assert batch.engine is engine and other.engine is not engine and len(loads) == 2
    save_model(folder, loud_model(tiny_config(), seed=1), dtype=None)
    newer = WorldModelEnv(folder, PROMPTS)
    assert newer.engine.model.fingerprint != engine.model.fingerprint
    copies.close()
    gone = weakref.ref(engine)
    del engine, copies, batch
    gc.collect()
    assert gone() is None and newer.engine is not None
    for env in (other, newer):
        env.close()


def test_prompts_come_from_one_split(tmp_path):
    store = frame_dataset(tmp_path / "frames", splits=("train", "validation"))
    model = make_engine().model
    starts = [len(prompt_sources(store, model, split)) for split in ("train", "validation", None)]
    assert starts == [2, 1, 3]
    env = WorldModelEnv(make_engine(), str(tmp_path / "frames"), split="validation")
    frame, _ = env.reset(seed=1)
    np.testing.assert_array_equal(frame, store.frames_FHWC[13])
    with pytest.raises(BadInputError, match=r"'test'.*train or validation"):
        WorldModelEnv(make_engine(), store, split="test")
    for other in (None, prompts(1), "plaza-rusher"):
        with pytest.raises(BadInputError, match="no dataset"):
            WorldModelEnv(make_engine(), other, split="train")


@pytest.mark.parametrize("actions", [None, WORDS])
def test_codes_as_observations_keep_gymnasiums_contract(folder, actions):
    env = gym.make(ENV_ID, model=str(folder), prompts=PROMPTS, actions=actions, observation="codes")
    assert env.observation_space == gym.spaces.MultiDiscrete([16] * len(env.reset(seed=1)[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    codes, info = env.reset(seed=1)
    np.testing.assert_array_equal(codes, info["codes"])
    codes, *_, info = env.step(env.action_space.sample())
    np.testing.assert_array_equal(codes, info["codes"])
    assert env.render().ndim == 3
    env.close()
    with pytest.raises(ConfigError, match="frame or codes"):
        WorldModelEnv(make_engine(), prompts(), observation="picture")  # type: ignore[arg-type]


def test_frames_of_codes_are_decoded_on_demand(monkeypatch):
    shared, decoded = make_engine(), []
    decode = shared.model.tokenizer.decode
    monkeypatch.setattr(
        shared.model.tokenizer, "decode", lambda codes, **how: decoded.append(1) or decode(codes, **how)
    )
    codes, frames = (WorldModelEnv(shared, prompts(), observation=kind) for kind in ("codes", "frame"))
    codes.reset(seed=1), frames.reset(seed=1)
    action = np.zeros(16, np.float32)
    codes.step(action), codes.step(action)
    assert not decoded
    frames.step(action), frames.step(action)
    np.testing.assert_array_equal(codes.render(), frames.render())
    assert len(decoded) == 3
    seen = []
    codes.reward_fn = lambda transition: seen.append(transition) or 1.0
    assert codes.step(action)[1] == 1.0
    np.testing.assert_array_equal(seen[0].before_HWC, frames._episodes[0].frame_HWC)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep"])
def test_codes_of_a_batch_are_those_of_single_environments(mode):
    shared = make_engine()
    settings = {"observation": "codes", "max_steps": 2}
    batch = WorldModelVectorEnv(2, shared, prompts(), autoreset_mode=mode, **settings)
    loop = SyncVectorEnv([lambda: WorldModelEnv(shared, prompts(), **settings)] * 2, autoreset_mode=mode)
    assert batch.observation_space == loop.observation_space
    assert data_equivalence(batch.reset(seed=3), loop.reset(seed=3))
    for _ in range(5):
        pressed = batch.action_space.sample()
        one, other = batch.step(pressed), loop.step(pressed)
        np.testing.assert_array_equal(one[0], other[0])
        assert data_equivalence(one, other)
    batch.close()
    loop.close()
