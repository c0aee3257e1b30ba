"""Many dreams as one vector environment: each as it would be alone, whatever becomes of the others."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import data_equivalence
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from env_toys import WORDS, brightness, make_engine, prompts, rows_in_use
from playloom.envs import ENV_ID
from playloom.envs.core import Transition, WorldModelEnv
from playloom.envs.vector import WorldModelVectorEnv
from playloom.errors import ActionError, BadInputError, ConfigError
from playloom.provenance import stamp

MODES = list(AutoresetMode)


def dark(transition: Transition) -> bool:
    """Ends episodes at steps that differ from dream to dream."""
    return int(transition.after_HWC.sum()) % 3 == 0


def both(mode: AutoresetMode, **task: Any) -> tuple[WorldModelVectorEnv, SyncVectorEnv]:
    """Four dreams in a batch, and four environments of Gymnasium's own vectoriser, one after the other."""
    settings: dict[str, Any] = {"reward_fn": brightness, "terminated_fn": dark, "max_steps": 3, **task}
    shared = make_engine()
    loop = SyncVectorEnv([lambda: WorldModelEnv(shared, prompts(), **settings)] * 4, autoreset_mode=mode)
    return WorldModelVectorEnv(4, make_engine(), prompts(), autoreset_mode=mode, **settings), loop


def assert_same(one: Any, other: Any) -> None:
    np.testing.assert_array_equal(one[0], other[0])
    assert data_equivalence(one, other)


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP], ids=str)
@pytest.mark.parametrize("actions", [None, WORDS])
def test_every_dream_is_what_it_would_be_alone(mode, actions):
    """Frames, rewards, ends, infos: equal to environments that are stepped one after the other, over many episodes."""
    batch, loop = both(mode, actions=actions)
    assert batch.observation_space == loop.observation_space and batch.action_space == loop.action_space
    assert batch.metadata["autoreset_mode"] == mode
    batch.action_space.seed(0)
    over = 0
    assert_same(batch.reset(seed=11), loop.reset(seed=11))
    for _ in range(12):
        pressed = batch.action_space.sample()
        one = batch.step(pressed)
        assert_same(one, loop.step(pressed))
        over += int((one[2] | one[3]).sum())
    assert over > 8  # else nothing was said about new episodes
    assert_same(batch.reset(), loop.reset())
    assert_same(batch.reset(seed=[5, 5, None, 7]), loop.reset(seed=[5, 5, None, 7]))
    for env in (batch, loop):
        env.close()


def test_without_autoreset_what_is_over_waits_for_its_reset():
    batch, loop = both(
        AutoresetMode.DISABLED, terminated_fn=lambda move: move.step == 1 and bool(move.after_HWC[0, 0, 0] % 2)
    )
    batch.action_space.seed(0)
    assert_same(batch.reset(seed=1), loop.reset(seed=1))
    for _ in range(9):
        pressed = batch.action_space.sample()
        one = batch.step(pressed)
        assert_same(one, loop.step(pressed))
        mask = one[2] | one[3]
        if mask.any():
            with pytest.raises(BadInputError, match="over after"):
                batch.step(pressed)
            assert_same(batch.reset(options={"reset_mask": mask}), loop.reset(options={"reset_mask": mask}))
    for env in (batch, loop):
        env.close()


def test_the_name_makes_a_batch_and_the_batch_is_for_people_too():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        envs = gym.make_vec(ENV_ID, num_envs=2, model=make_engine(), prompts=prompts(), actions=WORDS)
    assert isinstance(envs.unwrapped, WorldModelVectorEnv)
    assert envs.action_space == gym.spaces.MultiDiscrete([4, 4])
    envs.reset(seed=1)
    frames, rewards, *_ = envs.step(np.array([1, 2]))
    assert frames.dtype == np.uint8 and frames.shape == (2, 16, 24, 3) and not rewards.any()
    for picture, frame in zip(envs.render(), frames, strict=True):
        np.testing.assert_array_equal(picture, stamp(frame))
    envs.close()


def test_gymnasiums_own_wrappers_fit():
    envs = gym.wrappers.vector.RecordEpisodeStatistics(WorldModelVectorEnv(2, make_engine(), prompts(), max_steps=2))
    envs.reset(seed=1)
    for _ in range(2):
        *_, infos = envs.step(envs.action_space.sample())
    assert infos["episode"]["l"].tolist() == [2, 2]
    envs.close()


def test_closing_gives_the_memory_back_and_is_the_end():
    shared = make_engine()
    envs = WorldModelVectorEnv(3, shared, prompts(), max_steps=2)
    envs.reset(seed=1)
    for _ in range(7):
        envs.step(envs.action_space.sample())
        assert rows_in_use(shared) <= 3  # what is over holds none for long
    for _ in range(2):
        envs.close()
    assert rows_in_use(shared) == 0
    for broken in (envs.reset, lambda: envs.step(np.zeros((3, 16)))):
        with pytest.raises(BadInputError, match="closed"):
            broken()


def test_dreams_of_several_environments_share_a_model():
    shared = make_engine()
    one, other = WorldModelVectorEnv(2, shared, prompts()), WorldModelEnv(shared, prompts())
    one.reset(seed=1)
    frame, _ = other.reset(seed=1)
    pressed = np.zeros((2, 16), np.float32)
    for _ in range(3):
        np.testing.assert_array_equal(one.step(pressed)[0][0], other.step(pressed[0])[0])
    one.close()
    other.step(pressed[0])
    other.close()


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_the_users_functions_raise_comes_through_and_the_dreams_go_on(mode):
    def fails(transition: Transition) -> float:
        if transition.step == 1:
            raise ZeroDivisionError("mine")
        return 0.0

    envs, expected = (
        WorldModelVectorEnv(2, make_engine(), prompts(), reward_fn=r, autoreset_mode=mode) for r in (fails, None)
    )
    pressed = np.zeros((2, 16), np.float32)
    for env in (envs, expected):
        env.reset(seed=1)
        env.step(pressed)
    with pytest.raises(ZeroDivisionError, match="mine"):
        envs.step(pressed)
    expected.step(pressed)
    assert data_equivalence(envs.step(pressed), expected.step(pressed))
    for env in (envs, expected):
        env.close()


def test_what_does_not_fit_says_why():
    envs = WorldModelVectorEnv(2, make_engine(), prompts(), autoreset_mode="SameStep")
    with pytest.raises(BadInputError, match="reset"):
        envs.step(np.zeros((2, 16)))
    envs.reset(seed=1)
    for wrong in (np.zeros((3, 16)), np.zeros(16), np.zeros((2, 3))):
        with pytest.raises(ActionError):
            envs.step(wrong)
    with pytest.raises(BadInputError, match="seeds"):
        envs.reset(seed=[1, 2, 3])
    for seed in ("ab", 1.5, [1.5, 2], iter([1, 2])):
        with pytest.raises(BadInputError, match="seed"):
            envs.reset(seed=seed)
    for mask in ([True], [1, 0]):
        with pytest.raises(BadInputError, match="reset_mask"):
            envs.reset(options={"reset_mask": mask})
    envs.close()
    for count in (0, 2.5, "3"):
        with pytest.raises(ConfigError, match="num_envs"):
            WorldModelVectorEnv(count, make_engine(), prompts())
    with pytest.raises(ConfigError, match="SameStep"):
        WorldModelVectorEnv(1, make_engine(), prompts(), autoreset_mode="same")
