"""Edited episodes: the recorded game, step by step, with objects that only change pictures."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("vizdoom")
pytest.importorskip("gymnasium")

from playloom.data.recording import Episode, load_episode
from playloom.errors import GameError
from playloom.games.arena.env import plan_objects, render_edited, render_episode
from playloom.games.arena.maps import VARIANTS, ForeignObject, arena_wad
from playloom.games.arena.textures import SHAPES, SIDE, draw_sprite
from playloom.games.recorder import EpisodePlan, record_plans

STEPS = 30


@pytest.fixture(scope="module")
def episode(tmp_path_factory: pytest.TempPathFactory) -> Episode:
    plan = EpisodePlan(seed=7, variant="plaza", mode="ffa", style="explorer", split="train", steps=STEPS)
    (path,) = record_plans(tmp_path_factory.mktemp("recorded"), [plan], processes=1)
    return load_episode(path)


@pytest.fixture(scope="module")
def plain(episode: Episode) -> np.ndarray:
    return np.stack([frame.copy() for frame in render_episode(episode)])  # checks the hash


def changed(plain: np.ndarray, episode: Episode, objects: Sequence[ForeignObject]) -> np.ndarray:
    frames = np.stack([frame.copy() for frame in render_episode(episode, objects=objects)])  # checks every state
    return (frames != plain).any(-1)


def test_objects_change_pictures_and_no_state(episode: Episode, plain: np.ndarray) -> None:
    first = [frame.copy() for frame in render_edited(episode)]  # checks every state
    assert (np.stack(first) == np.stack([frame.copy() for frame in render_edited(episode)])).all()
    assert (np.stack(first) != plain).any()


def test_an_object_comes_stays_and_goes(episode: Episode, plain: np.ndarray) -> None:
    begun = plan_objects(episode)[0]
    item = dataclasses.replace(begun, start=8, steps=10, **near(episode, 8))
    different = changed(plain, episode, [item])
    assert different.any((1, 2)).tolist()[8:16] == [True] * 8
    assert not different[:6].any() and not different[18:].any()
    columns = np.flatnonzero(different[8].any(0))
    assert columns.max() - columns.min() < 60, "only the object changes"


def near(episode: Episode, step: int) -> dict[str, float]:
    """A place ahead and to the right of the player."""
    x, y, _, yaw = episode.states[step, :4].tolist()
    heading = np.radians(-yaw - 30)
    return {"x": x + 110 * float(np.cos(heading)), "y": y + 110 * float(np.sin(heading)), "height": 60.0, "width": 40.0}


def test_another_game_is_noticed(episode: Episode) -> None:
    states = episode.states.copy()
    states[-1, 0] += 1
    with pytest.raises(GameError, match="states"):
        list(render_edited(Episode(episode.meta, episode.actions_TA, states)))
    meta = dataclasses.replace(episode.meta, game="scroll")
    with pytest.raises(GameError, match="'scroll'"):
        render_edited(Episode(meta, episode.actions_TA, episode.states))


def test_plans_begin_in_the_arena_and_end_in_time(episode: Episode) -> None:
    objects = plan_objects(episode)
    assert objects == plan_objects(episode) and objects
    variant = VARIANTS["plaza"]
    for item in objects:
        assert variant.cell(int(item.x // 128), int(-item.y // 128)) in ".ab~"
        assert 100 <= np.hypot(*(episode.states[item.start, :2] - (item.x, item.y))) <= 400
        assert item.start < STEPS and item.steps <= 80
    assert arena_wad(variant, objects) != arena_wad(variant) == arena_wad(variant, ())


def test_sprites_are_many_and_none_is_a_test_object() -> None:
    pictures = np.stack([draw_sprite(seed) for seed in range(300)])
    assert pictures.shape == (300, SIDE, SIDE, 4)
    assert len(SHAPES) >= 24 and len(np.unique(pictures.reshape(300, -1), axis=0)) == 300
    assert ((pictures[..., 3] == 255).mean((1, 2)) > 0.1).all()


@pytest.mark.parametrize(
    ("name", "colour"), [("sphere", (215, 25, 35)), ("box", (30, 70, 205)), ("cone", (250, 200, 0))]
)
def test_a_shape_never_has_the_colour_of_its_test_object(
    name: str, colour: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("playloom.games.arena.textures.SHAPES", {name: SHAPES[name]})
    test = np.array(colour) - np.mean(colour)
    for seed in range(100):
        pixels = draw_sprite(seed)[..., :3].astype(float).reshape(-1, 3)
        change = pixels - pixels.mean(1, keepdims=True)
        alike = change @ test / (np.linalg.norm(change, axis=1) * np.linalg.norm(test) + 1e-9)
        assert alike.max() < 0.9
