"""A dream as a Gymnasium environment: the contract, what is seen, what the user makes of a step."""

from __future__ import annotations

import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from conftest import loud_model, tiny_config
from env_toys import WORDS, alone, brightness, frame_dataset, make_engine, prompts, rows_in_use
from playloom.actions.codec import REST_VALUES, decode_values, encode_named, encode_vector
from playloom.actions.controller import CONTROLS, ControllerState
from playloom.envs import ENV_ID
from playloom.envs.actions import Controller, DiscreteActions, make_action_mapper
from playloom.envs.core import Transition, WorldModelEnv
from playloom.envs.prompts import InitialStates, prompt_sources
from playloom.envs.vector import WorldModelVectorEnv
from playloom.errors import ActionError, BadInputError, ConfigError, PictureError, RecordingError
from playloom.games.arena.env import ArenaEnv
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import save_model
from playloom.models.onnx.export import export_onnx
from playloom.provenance import stamp

REST = np.zeros(16, np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("env") / "tiny"
    save_model(path, loud_model(tiny_config()), dtype=None)
    export_onnx(path)
    return path


@pytest.mark.parametrize("actions", [None, WORDS])
def test_it_keeps_gymnasiums_contract(folder, actions):
    env = gym.make(ENV_ID, model=str(folder), prompts=["plaza-rusher", "court-rusher"], actions=actions)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
    env.close()


def test_same_seed_same_everything_and_the_frames_are_the_engines():
    shared = make_engine()
    env = WorldModelEnv(shared, prompts())
    actions = np.random.default_rng(0).uniform(-1, 1, (6, 16)).astype(np.float32)
    runs = []
    for _ in range(2):
        frame, info = env.reset(seed=5)
        steps = [env.step(action) for action in actions]
        runs.append([frame, *[step[0] for step in steps]])
    np.testing.assert_array_equal(runs[0], runs[1])
    np.testing.assert_array_equal(frame, prompts()[info["prompt"]].frames_THWC[-1])
    np.testing.assert_array_equal(steps[0][4]["actions"], encode_vector(actions[0]))
    values = np.stack([step[4]["actions"] for step in steps])
    np.testing.assert_array_equal(runs[0][1:], alone(shared, info["prompt"], info["dream_seed"], values))
    assert (
        not np.array_equal(env.reset(seed=6)[0], runs[0][0]) or env.step(actions[0])[0].tolist() != runs[0][1].tolist()
    )
    env.close()


def test_later_episodes_follow_from_the_first_seed_and_reach_every_prompt():
    env = WorldModelEnv(make_engine(), prompts())
    seen = [[env.reset(seed=3)[1]["prompt"], *[env.reset()[1]["prompt"] for _ in range(20)]] for _ in range(2)]
    assert seen[0] == seen[1]
    assert set(seen[0]) == {0, 1, 2}
    assert env.reset(options={"prompt": 2})[1]["prompt"] == 2
    for wrong in (3, -1, 1.5, "x"):
        with pytest.raises(BadInputError, match="0 to 2"):
            env.reset(options={"prompt": wrong})
    with pytest.raises(BadInputError, match="'promt'"):
        env.reset(options={"promt": 1})
    env.close()


def test_observations_are_unmarked_and_pictures_for_people_are_marked():
    env = WorldModelEnv(make_engine(), prompts())
    assert env.render() is None
    first, _ = env.reset(seed=1)
    np.testing.assert_array_equal(env.render(), first)  # a real picture, so no mark
    dreamed, *_ = env.step(REST)
    np.testing.assert_array_equal(env.render(), stamp(dreamed))
    assert not np.array_equal(env.render(), dreamed)
    dreamed[:] = 0  # the agent's own copy
    assert env.render().any()
    assert WorldModelEnv(make_engine(), prompts(), render_mode=None).render() is None
    with pytest.raises(ConfigError, match="rgb_array"):
        WorldModelEnv(make_engine(), prompts(), render_mode="human")
    env.close()


def test_a_prompt_that_was_dreamed_is_marked_too():
    shared = make_engine()
    initial_states = InitialStates(shared, [lambda: (prompts(1)[0], True)], Sampling())
    assert initial_states.begin(0, 1)[1].generated
    initial_states.close()


def test_without_a_reward_there_is_none_and_the_users_is_taken_as_it_is():
    seen: list[Transition] = []

    def reward(transition: Transition) -> float:
        seen.append(transition)
        return brightness(transition)

    plain = WorldModelEnv(make_engine(), prompts(), max_steps=np.int64(3))  # type: ignore[arg-type]  # as configurations have it
    judged = WorldModelEnv(
        make_engine(), prompts(), max_steps=3, reward_fn=reward, terminated_fn=lambda move: move.step == 1
    )
    for env in (plain, judged):
        frame, _ = env.reset(seed=2)
    assert [plain.step(REST)[1:4] for _ in range(3)] == [(0.0, False, False)] * 2 + [(0.0, False, True)]
    after, paid, terminated, truncated, _ = judged.step(REST)
    assert paid == brightness(seen[0]) > 0 and not terminated and not truncated
    np.testing.assert_array_equal(seen[0].before_HWC, frame)
    np.testing.assert_array_equal(seen[0].after_HWC, after)
    np.testing.assert_array_equal(seen[0].action_A, REST_VALUES)
    assert judged.step(REST)[2:4] == (True, False)
    assert [move.step for move in seen] == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        seen[0].after_HWC[:] = 0
    for env in (plain, judged):
        with pytest.raises(BadInputError, match="over after"):
            env.step(REST)
        env.reset()
        env.step(REST)
        env.close()


@pytest.mark.parametrize("which", ["reward_fn", "terminated_fn"])
def test_what_the_users_functions_raise_comes_through_and_the_dream_goes_on(which):
    shared = make_engine()

    def fails(transition: Transition) -> float:
        if transition.step == 1:
            raise ZeroDivisionError("mine")
        return 0.0

    env = WorldModelEnv(shared, prompts(), **{which: fails})
    _, info = env.reset(seed=4)
    env.step(REST)
    with pytest.raises(ZeroDivisionError, match="mine"):
        env.step(REST)
    after, *_ = env.step(REST)
    np.testing.assert_array_equal(after, alone(shared, info["prompt"], info["dream_seed"], [REST_VALUES] * 3)[-1])
    env.close()


def test_what_cannot_be_stepped_says_why():
    env = WorldModelEnv(make_engine(), prompts())
    for broken in (lambda: env.step(REST), lambda: env.session):
        with pytest.raises(BadInputError, match=r"reset\(\)"):
            broken()
    env.reset(seed=1)
    buttons = [np.where(np.arange(16) == 8, value, 0.0) for value in (5.0, -2.0, np.nan)]
    for wrong in (np.zeros(3), np.full(16, 2.0), np.full(16, np.nan), "forward", None, *buttons):
        with pytest.raises(ActionError):
            env.step(wrong)
    with pytest.raises(ActionError, match="shape"):
        env.step(np.zeros((2, 16)))
    with pytest.raises(ActionError) as caught:
        env.step(np.full((8, 16), 2.0))
    assert "\n" not in str(caught.value)
    env.step(REST)
    for _ in range(2):
        env.close()
    with pytest.raises(BadInputError, match="reset"):
        env.step(REST)
    env.reset()  # as the arena: closed is not the end
    env.close()
    for wrong, said in (
        ({"max_steps": 0}, "max_steps"),
        ({"max_steps": 2.5}, "max_steps"),
        ({"model": make_engine().model}, "WorldModel"),
        ({"sampling": {"temperature": 1}}, "Sampling"),
    ):
        with pytest.raises(ConfigError, match=said):
            WorldModelEnv(**{"model": make_engine(), "prompts": prompts(), **wrong})
    with pytest.raises(ConfigError, match="engine"):
        WorldModelEnv(make_engine(), prompts(), decode_order=2)


def test_closing_gives_the_memory_back():
    shared = make_engine()
    env = WorldModelEnv(shared, prompts())
    for seed in range(6):
        env.reset(seed=seed)
        env.step(REST)
    assert rows_in_use(shared) == 1
    session = env.session
    env.close()
    assert rows_in_use(shared) == 0 and session.closed


def test_warmed_sessions_are_few_and_the_same_when_they_are_warmed_again(monkeypatch):
    shared = make_engine()
    monkeypatch.setattr("playloom.envs.prompts.KEPT", 1)
    initial_states = InitialStates(shared, prompt_sources(prompts(), shared.model), Sampling())
    frames = []
    for index in (0, 1, 0):
        session, _ = initial_states.begin(index, seed=7)
        frames.append(session.step(REST_VALUES).frame_HWC)
        session.close()
        assert len(initial_states._prefilled) == 1
    np.testing.assert_array_equal(frames[0], frames[2])
    assert not np.array_equal(frames[0], frames[1])
    initial_states.close()
    assert rows_in_use(shared) == 0


def test_looking_ahead_does_not_move_the_dream():
    env = WorldModelEnv(make_engine(), prompts())
    env.reset(seed=1)
    env.step(REST)
    branch = env.session.fork()
    ahead = [branch.step(REST_VALUES).frame_HWC for _ in range(2)]
    branch.close()
    np.testing.assert_array_equal([env.step(REST)[0] for _ in range(2)], ahead)
    env.close()


def test_the_whole_controller_is_the_arenas():
    rng = np.random.default_rng(1)
    actions = rng.uniform(-1, 1, (50, 16)).astype(np.float32)
    mapper = Controller()
    assert mapper.space == ArenaEnv().action_space
    sticks = [control.kind == "axis" for control in CONTROLS]
    np.testing.assert_array_equal(mapper.values(actions), encode_named(np.where(sticks, actions, actions >= 0.5)))
    np.testing.assert_array_equal(mapper.state(actions), decode_values(mapper.values(actions)))


def test_a_table_of_actions_is_discrete():
    mapper = DiscreteActions({"walk": ControllerState(left_stick_y=1.0), "shoot": ControllerState(trigger_RT=1.0)})
    assert mapper.space == gym.spaces.Discrete(2) and mapper.names == ("walk", "shoot")
    names = [control.name for control in CONTROLS]
    assert mapper.state(0)[names.index("left_stick_y")] == 1 == mapper.state(1)[names.index("trigger_RT")]
    assert mapper.values([0, 1, 0]).shape == (3, 16)
    np.testing.assert_array_equal(make_action_mapper(WORDS).values(0), REST_VALUES)
    for wrong in (2, -1, 0.0, None, [0, [1]]):
        with pytest.raises(ActionError, match="0 to 1"):
            mapper.values(wrong)
    for table, said in (
        ([], "empty"),
        ("rest", "a list"),
        (5, "a list"),
        (["forward for 2"], "2 steps"),
        (["fowrard"], "did"),
    ):
        with pytest.raises((ConfigError, ActionError), match=said):
            make_action_mapper(table)


def test_prompts_may_be_names_stores_and_prompts(tmp_path):
    shared = make_engine()
    store = frame_dataset(tmp_path / "frames")
    both = prompt_sources([store, *prompts(2)], shared.model)
    assert len(both) == 5
    for source, first in zip(both, (0, 4, 10), strict=False):
        prompt, generated = source()
        np.testing.assert_array_equal(prompt.frames_THWC, store.frames_FHWC[first : first + 4])
        assert len(prompt.actions_TA) == 3 and not generated
    assert len(prompt_sources(str(tmp_path / "frames"), shared.model)) == 3
    assert len(prompt_sources(None, shared.model)) >= 5  # the bundled moments
    env = WorldModelEnv(shared, store)
    frame, info = env.reset(seed=1)
    np.testing.assert_array_equal(frame, store.frames_FHWC[[3, 7, 13][info["prompt"]]])
    env.close()


def test_prompts_that_cannot_be_used_say_why(tmp_path):
    model = make_engine().model
    big = loud_model(tiny_config(context_steps=12))
    with pytest.raises(RecordingError, match="12 steps"):
        prompt_sources(frame_dataset(tmp_path / "frames"), big)
    for unknown in ("bundled:nowhere", "x" * 300):
        with pytest.raises(RecordingError, match="there is no"):
            prompt_sources(unknown, model)
    with pytest.raises(BadInputError, match="no prompt"):
        prompt_sources([], model)
    for wrong in (7, [7]):
        with pytest.raises(BadInputError, match="int"):
            prompt_sources(wrong, model)  # type: ignore[arg-type]
    wide = type(prompts()[0])(frames_THWC=np.zeros((1, 8, 8, 3), np.uint8), actions_TA=np.zeros((0, 16), np.uint8))
    with pytest.raises(PictureError):
        WorldModelEnv(Engine(model), wide)


def test_the_bundled_model_is_seen_as_the_arena_is():
    env, arena = WorldModelEnv(), ArenaEnv()
    assert env.observation_space == arena.observation_space
    assert env.action_space == arena.action_space
    assert WorldModelVectorEnv(2, env.engine).single_observation_space == arena.observation_space
