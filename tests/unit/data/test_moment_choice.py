"""Good moments: somebody alive and on the move with something to see, whole and from different episodes."""

import json
from dataclasses import replace

import numpy as np
import pytest

from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.data.prompt_selection import CONTEXT_STEPS, FOLLOWING_STEPS, colour_bits, save_chosen, select_prompts
from playloom.data.prompts import list_prompts, load_prompt_file
from playloom.data.recording import STATE_COLUMNS
from playloom.errors import RecordingError

STEPS = 160
LONG = CONTEXT_STEPS + FOLLOWING_STEPS
GREY = np.full((18, 30, 3), 90, np.uint8)
COLOURS = np.random.default_rng(0).integers(0, 256, (18, 30, 3), dtype=np.uint8)


def episode(walk=(), colours=(), dead=(), jumps=(), fights=()):
    """States and pictures of an episode that stands before a grey wall except in the given (first, last) steps."""
    states = np.zeros((STEPS, len(STATE_COLUMNS)), np.float32)
    column = {name: index for index, name in enumerate(STATE_COLUMNS)}
    speed = np.zeros(STEPS, np.float32)
    for first, last in walk:
        speed[first:last] = 30
    for step in jumps:
        speed[step] = 900
    states[:, column["x"]] = np.cumsum(speed)
    states[:, column["yaw"]] = (np.cumsum(speed > 0) * 5 + 180) % 360 - 180
    states[:, column["health"]] = 100
    for step in fights:
        states[step:, column["health"]] -= 20
    for first, last in dead:
        states[first:last, column["dead"]] = 1
    frames = np.repeat(GREY[None], STEPS, axis=0)
    for first, last in colours:
        frames[first:last] = COLOURS
    return frames, states


def store_of(folder, *episodes):
    writer = FrameDataset.create(folder, STEPS * len(episodes), height=18, width=30, state_columns=STATE_COLUMNS)
    actions = np.tile(REST_VALUES, (STEPS, 1))
    for seed, (frames, states) in enumerate(episodes):
        meta = {"split": "test", "seed": seed, "variant": "plaza", "style": "rusher", "game": "arena", "mode": "ffa"}
        writer.append_episode(frames, actions, states, meta)
    writer.finish()
    return FrameDataset.open(folder)


def test_the_walk_with_a_view_is_chosen(tmp_path):
    store = store_of(tmp_path, episode(walk=[(20, 60), (90, 90 + LONG)], colours=[(90, 90 + LONG)]))
    (best,) = select_prompts(store, store.of_split("test"), count=1)
    assert best.start == 90 and best.rows == slice(90, 90 + LONG)
    assert best.score >= 4.0, "it walks, turns and sees"


def test_a_view_counts_only_if_it_lasts(tmp_path):
    """A wall in front of the nose at any time spoils a moment, however colourful the rest is."""
    store = store_of(tmp_path, episode(walk=[(0, 160)], colours=[(0, 30), (90, 160)]))
    (best,) = select_prompts(store, store.spans, count=1)
    assert 90 <= best.start <= STEPS - LONG


def test_nobody_dies_or_is_teleported(tmp_path):
    full = {"walk": [(0, 160)], "colours": [(0, 160)]}
    store = store_of(tmp_path, episode(**full, dead=[(60, 65)], jumps=[120]))
    for moment in select_prompts(store, store.spans, count=8):
        steps = range(moment.rows.start, moment.rows.stop)
        assert not set(steps) & set(range(60, 65))
        assert not {119, 120} <= set(steps)


def test_a_fight_is_better_than_none_and_episodes_take_turns(tmp_path):
    full = {"walk": [(0, 160)], "colours": [(0, 160)]}
    store = store_of(tmp_path, episode(**full), episode(**full, fights=[80]), episode())
    chosen = select_prompts(store, store.spans, count=3)
    assert [moment.span.meta["seed"] for moment in chosen] == [1, 0, 2]
    assert STEPS + 80 in range(chosen[0].start + 1, chosen[0].rows.stop)


def test_chosen_moments_are_kept_exactly_and_named(tmp_path):
    store = store_of(tmp_path / "store", episode(walk=[(0, 160)]), episode(walk=[(0, 160)]))
    chosen = select_prompts(store, store.spans, count=2)
    paths = save_chosen(store, chosen, tmp_path / "moments")
    assert list_prompts(tmp_path / "moments") == ["plaza-rusher", "plaza-rusher-2"]
    moment = load_prompt_file(paths[0])
    assert len(moment.frames_THWC) == LONG
    assert (moment.frames_THWC == store.frames_FHWC[chosen[0].rows]).all()
    meta = json.loads(paths[0].with_suffix(".json").read_text())
    assert meta["context_steps"] == CONTEXT_STEPS and meta["seed"] == chosen[0].span.meta["seed"]


def test_the_context_is_that_of_the_model_and_a_policy_gives_a_file_name(tmp_path):
    store = store_of(tmp_path / "store", episode(walk=[(0, 160)]))
    (found,) = select_prompts(store, store.spans, count=1, context=40)
    assert (found.length, found.context) == (90, 40)
    found = replace(found, meta={**found.meta, "style": "my_policies:drive"})
    (path,) = save_chosen(store, [found], tmp_path / "prompts")
    assert path.name == "plaza-my_policies_drive.npz"  # Windows allows no colon
    assert json.loads(path.with_suffix(".json").read_text())["context_steps"] == 40


def test_too_short_a_life_is_said(tmp_path):
    store = store_of(tmp_path, episode(dead=[(30, 40), (70, 80), (110, 120), (150, 160)]))
    with pytest.raises(RecordingError, match=f"no {LONG} steps without a death"):
        select_prompts(store, store.spans, count=1)


def test_colour_bits_of_known_pictures():
    assert colour_bits(GREY) == 0.0
    halves = GREY.copy()
    halves[:, :15] = 200
    assert colour_bits(halves) == pytest.approx(1.0)


def test_without_states_motion_input_and_view_decide_and_pictures_differ(tmp_path):
    """One long session: it stands still at a grey wall, then moves through two scenes, without input in the second."""
    random = np.random.default_rng(1)
    scenes = [random.integers(low, low + 100, (18, 60, 3), dtype=np.uint8) for low in (0, 150)]
    frames = np.repeat(GREY[None], 300, axis=0)
    actions = np.tile(REST_VALUES, (300, 1))
    for first, scene in ((100, scenes[0]), (200, scenes[1])):
        for step in range(first, first + 100):
            frames[step] = np.roll(scene, -step, axis=1)[:, :30]
    actions[100:200, 0] = 1
    writer = FrameDataset.create(tmp_path / "data", 300, height=18, width=30, state_columns=())
    writer.append_episode(frames, actions, np.zeros((300, 0), np.float32), {"split": "validation", "game": "other"})
    writer.finish()
    store = FrameDataset.open(tmp_path / "data")
    chosen = select_prompts(store, store.spans, count=5)
    first, second = (found.start for found in chosen)
    assert 100 <= first <= 140 and first + LONG <= second <= 240, "none at the wall, and none overlaps another"
    assert select_prompts(store, store.spans, count=5) == chosen
    paths = save_chosen(store, [*chosen[:2], chosen[0]], tmp_path / "prompts", name="my game-v3")
    assert [path.name for path in paths] == ["my_game_v3.npz", "my_game_v3-2.npz", "my_game_v3-3.npz"]


def test_episodes_shorter_than_a_whole_prompt_still_give_some(tmp_path):
    writer = FrameDataset.create(tmp_path, 40, height=18, width=30, state_columns=("dead",))
    for seed in range(2):
        dead = np.zeros((20, 1), np.float32)
        dead[:seed] = 1
        writer.append_episode(np.repeat(COLOURS[None], 20, axis=0), np.tile(REST_VALUES, (20, 1)), dead, {"seed": seed})
    writer.finish()
    store = FrameDataset.open(tmp_path)
    chosen = select_prompts(store, store.spans, count=5)
    assert [found.rows for found in chosen] == [slice(0, 19), slice(21, 40)]
    with pytest.raises(RecordingError, match="no 31 steps in a row in 2 episodes"):
        select_prompts(store, store.spans, count=5, context=30)
