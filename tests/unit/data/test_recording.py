"""The files of recorded episodes: whole, or an error that says what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from playloom.actions.codec import REST_VALUES, SLOT_SIZES
from playloom.data.recording import (
    STATE_COLUMNS,
    Episode,
    EpisodeMeta,
    list_episodes,
    load_episode,
    load_meta,
    save_episode,
)
from playloom.errors import BadInputError, RecordingError


def make_episode(steps: int = 12, seed: int = 3, **changes: object) -> Episode:
    rng = np.random.default_rng(seed)
    meta = EpisodeMeta(
        **{
            "game": "arena",
            "variant": "plaza",
            "mode": "ffa",
            "style": "novice",
            "seed": seed,
            "split": "train",
            "steps": steps,
            "frame_hash": "00" * 32,
            "versions": {"playloom": "0"},
            **changes,
        }
    )
    actions = rng.integers(0, SLOT_SIZES, (steps, len(SLOT_SIZES))).astype(np.uint8)
    return Episode(meta, actions, rng.normal(size=(steps, len(STATE_COLUMNS))).astype(np.float32))


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    episode = make_episode()
    loaded = load_episode(save_episode(tmp_path / "new" / "folder", episode))
    assert loaded.meta == episode.meta
    assert np.array_equal(loaded.actions_TA, episode.actions_TA) and loaded.actions_TA.dtype == np.uint8
    assert np.array_equal(loaded.states, episode.states) and loaded.states.dtype == np.float32


def test_json_path_and_npz_path_mean_the_same_episode(tmp_path: Path) -> None:
    path = save_episode(tmp_path, make_episode())
    assert load_episode(path.with_suffix(".json")).meta == load_meta(path)


def test_a_list_holds_whole_episodes_only(tmp_path: Path) -> None:
    second, first = (save_episode(tmp_path, make_episode(seed=seed)) for seed in (9, 4))
    half = save_episode(tmp_path, make_episode(seed=5))
    half.with_suffix(".json").unlink()
    (tmp_path / ".arena-00000007.0123.tmp.npz").write_bytes(b"left by a kill")
    assert list_episodes(tmp_path) == [first, second]


def test_saving_leaves_nothing_else_behind(tmp_path: Path) -> None:
    path = save_episode(tmp_path, make_episode())
    save_episode(tmp_path, make_episode())
    assert sorted(tmp_path.iterdir()) == [path.with_suffix(".json"), path]


def test_a_cut_file_is_an_error_with_advice(tmp_path: Path) -> None:
    path = save_episode(tmp_path, make_episode(steps=400))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RecordingError, match="damaged"):
        load_episode(path)


def test_one_half_of_an_episode_names_the_other(tmp_path: Path) -> None:
    """It said that the missing file was damaged."""
    path = save_episode(tmp_path, make_episode())
    path.unlink()
    with pytest.raises(RecordingError, match=r"\.npz"):
        load_episode(path.with_suffix(".json"))


def test_actions_out_of_range_name_the_control(tmp_path: Path) -> None:
    path = save_episode(tmp_path, make_episode())
    actions = np.tile(REST_VALUES, (12, 1))
    actions[3, 12] = 11
    np.savez_compressed(path, actions=actions, states=np.zeros((12, len(STATE_COLUMNS)), np.float32))
    with pytest.raises(RecordingError, match="left_stick_x"):
        load_episode(path)


def test_arrays_of_another_length_are_an_error(tmp_path: Path) -> None:
    path = save_episode(tmp_path, make_episode(steps=12))
    other = save_episode(tmp_path / "other", make_episode(steps=13))
    path.write_bytes(other.read_bytes())
    with pytest.raises(RecordingError, match=r"\(13, 16\)"):
        load_episode(path)


@pytest.mark.parametrize("content", ["not json", "[]", '{"game": "arena"}'])
def test_wrong_meta_data_is_an_error(tmp_path: Path, content: str) -> None:
    path = save_episode(tmp_path, make_episode())
    path.with_suffix(".json").write_text(content)
    with pytest.raises(RecordingError):
        load_episode(path)


def test_an_unknown_split_is_refused_and_named(tmp_path: Path) -> None:
    path = save_episode(tmp_path, make_episode())
    meta = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps(meta | {"split": "dev"}))
    with pytest.raises(RecordingError, match="split"):
        load_meta(path)


def test_missing_places_are_errors(tmp_path: Path) -> None:
    with pytest.raises(RecordingError, match="playloom record"):
        list_episodes(tmp_path / "nowhere")
    for name in ("nothing.npz", "picture.png"):
        (tmp_path / "picture.png").write_bytes(b"")
        with pytest.raises(RecordingError, match="recorded episode"):
            load_episode(tmp_path / name)
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError, match="cannot write"):
        save_episode(tmp_path / "file", make_episode())
