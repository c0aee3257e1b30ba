"""A batch for stable-baselines3: the same as its own vector environment over single environments."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from env_toys import WORDS, brightness, make_engine, prompts
from playloom.envs.core import Transition, WorldModelEnv
from playloom.envs.vector import WorldModelVectorEnv
from playloom.errors import BadInputError, ConfigError

pytest.importorskip("stable_baselines3", exc_type=ImportError)


def dark(transition: Transition) -> bool:
    return int(transition.after_HWC.sum()) % 3 == 0


def wrapped(count: int, **settings: Any) -> Any:
    from playloom.envs.stable_baselines3 import StableBaselines3VecEnv

    envs = WorldModelVectorEnv(count, make_engine(), prompts(), autoreset_mode="SameStep", **settings)
    return StableBaselines3VecEnv(envs)


@pytest.mark.parametrize("settings", [{}, {"actions": WORDS, "observation": "codes"}])
def test_the_batch_is_what_stable_baselines_makes_of_single_environments(settings):
    from stable_baselines3.common.vec_env import DummyVecEnv

    settings = {"reward_fn": brightness, "terminated_fn": dark, "max_steps": 3, **settings}
    shared = make_engine()
    batch, loop = wrapped(3, **settings), DummyVecEnv([lambda: WorldModelEnv(shared, prompts(), **settings)] * 3)
    assert batch.observation_space == loop.observation_space and batch.action_space == loop.action_space
    for env in (batch, loop):
        env.seed(11)
        env.set_options({"prompt": 2})
    np.testing.assert_array_equal(batch.reset(), loop.reset())
    over = set()
    for _ in range(10):
        pressed = np.stack([batch.action_space.sample() for _ in range(3)])
        one, other = batch.step(pressed), loop.step(pressed)
        for mine, theirs in zip(one[:3], other[:3], strict=True):
            np.testing.assert_array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype
        for mine, theirs in zip([*one[3], *batch.reset_infos], [*other[3], *loop.reset_infos], strict=True):
            assert mine.keys() == theirs.keys()
            for name in mine.keys() - {"entropy"}:
                np.testing.assert_array_equal(mine[name], theirs[name])
            np.testing.assert_allclose(mine.get("entropy", 0), theirs.get("entropy", 0), rtol=1e-5)
        over |= {info["TimeLimit.truncated"] for info, done in zip(one[3], one[2], strict=True) if done}
    assert over == {False, True}  # else nothing was said about ends
    np.testing.assert_array_equal(batch.reset(), loop.reset())
    assert batch.render().shape == loop.render().shape
    for env in (batch, loop):
        env.close()


@pytest.mark.parametrize("settings", [{"observation": "codes"}, {"actions": WORDS, "observation": "codes"}])
def test_ppo_learns_from_the_batch(settings):
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecMonitor

    envs = VecMonitor(wrapped(2, reward_fn=brightness, max_steps=3, **settings))
    agent = PPO("MlpPolicy", envs, n_steps=4, batch_size=8, n_epochs=1, device="cpu", seed=0)
    before = {name: weight.clone() for name, weight in agent.policy.state_dict().items()}
    agent.learn(8)
    assert any((weight != before[name]).any() for name, weight in agent.policy.state_dict().items())
    assert len(agent.ep_info_buffer) == 2 and agent.ep_info_buffer[0]["l"] == 3
    envs.close()


def test_what_a_batch_cannot_do_says_so():
    from playloom.envs.stable_baselines3 import StableBaselines3VecEnv

    with pytest.raises(ConfigError, match=r"NextStep.*SameStep"):
        StableBaselines3VecEnv(WorldModelVectorEnv(2, make_engine(), prompts()))
    envs = wrapped(2)
    assert envs.get_attr("max_steps") == [600, 600] and envs.env_is_wrapped(WorldModelEnv, 0) == [False]
    for broken in (lambda: envs.set_attr("max_steps", 3), lambda: envs.env_method("reset")):
        with pytest.raises(BadInputError, match="no single environment"):
            broken()
    envs.set_options([{"prompt": 1}, {"prompt": 2}])
    with pytest.raises(BadInputError, match="options"):
        envs.reset()
    envs.close()
