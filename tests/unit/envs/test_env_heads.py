"""Environments on a model with heads: its reward, its ends, its states."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env, data_equivalence
from gymnasium.vector import SyncVectorEnv

from conftest import loud_model, tiny_config
from engine_toys import prompt_of
from env_toys import WORDS, make_engine, prompts
from model_toys import with_heads
from playloom.actions.codec import REST_VALUES
from playloom.envs import Transition, WorldModelEnv, WorldModelVectorEnv
from playloom.inference.engine import Engine


def headed(termination: float = 0.0) -> Engine:
    """A tiny model with heads, whose logit of termination has this bias."""
    model = with_heads(loud_model(tiny_config()))
    assert model.heads is not None
    with torch.no_grad():
        model.heads.out.bias[3] += termination
    return Engine(model, row_delay=1)


def test_reward_states_and_ends_are_the_models_and_the_frames_stay_the_same():
    engine = headed(-40.0)
    env, plain = (WorldModelEnv(one, prompts(), actions=WORDS) for one in (engine, make_engine()))
    env.reset(seed=3)
    plain.reset(seed=3)
    session = engine.open(prompts()[env._episodes[0].info["prompt"]], seed=env._episodes[0].info["dream_seed"])
    session.sampling = env.session.sampling
    for number in (1, 2, 0):
        frame, reward, terminated, _, info = env.step(number)
        expected = session.step(env.action_mapper.values(number)).prediction
        assert (reward, info["termination"], info["states"]) == expected and not terminated
        assert np.array_equal(frame, plain.step(number)[0])
    assert reward != 0.0 and plain.step(1)[1:4] == (0.0, False, False)


def test_ends_are_drawn_with_the_predicted_probability():
    """Seeds 0 to 99: as many first steps end as the heads say; the first twenty again, and the same ones end."""
    engine = headed()
    env = WorldModelEnv(engine, prompts(1), actions=WORDS)
    found = []
    for seed in (*range(100), *range(20)):
        env.reset(seed=seed)
        _, _, terminated, _, info = env.step(1)
        found.append((terminated, info["termination"]))
    assert found[100:] == found[:20]
    ended, expected = np.array(found[:100]).T
    assert 0.02 < expected.mean() < 0.98
    assert abs(ended.mean() - expected.mean()) < 3 * np.sqrt((expected * (1 - expected)).mean() / 100)


def test_functions_of_the_user_replace_the_heads():
    env = WorldModelEnv(headed(40.0), prompts(), reward_fn=_health, terminated_fn=lambda transition: False)
    env.reset(seed=1)
    _, reward, terminated, _, info = env.step(np.zeros(16, np.float32))
    assert reward == info["states"]["health"] and not terminated and info["termination"] == pytest.approx(1.0)


def _health(transition: Transition) -> float:
    assert transition.prediction is not None
    return transition.prediction.states["health"]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_it_keeps_gymnasiums_contract_and_a_batch_is_its_single_environments():
    engine = headed(-1.0)
    first = WorldModelEnv(engine, [prompt_of(steps=4)], actions=WORDS, max_steps=3)
    check_env(first)
    info = first.reset(seed=1)[1]
    assert set(info) == set(first.step(0)[4]) and np.isnan(info["termination"]) and np.isnan(info["states"]["health"])
    np.testing.assert_array_equal(info["actions"], REST_VALUES)
    batch = WorldModelVectorEnv(2, engine, prompts(2), actions=WORDS, max_steps=3)
    single = SyncVectorEnv([lambda: WorldModelEnv(engine, prompts(2), actions=WORDS, max_steps=3)] * 2)
    for envs in (batch, single):
        envs.reset(seed=5)
    for number in range(6):
        ours, theirs = (envs.step(np.array([number % 4, 1])) for envs in (batch, single))
        assert data_equivalence(ours[:4], theirs[:4])
        np.testing.assert_allclose(ours[4]["states"]["health"], theirs[4]["states"]["health"])
        assert ours[4]["states"]["_health"].all() and set(ours[4]) == set(theirs[4])
