"""A recorder keeps what is there, counts exactly and passes over foreign files."""

import importlib.util
from dataclasses import asdict

import numpy as np
import pytest

from playloom.actions.codec import REST_VALUES
from playloom.data.recording import STATE_COLUMNS, Episode, EpisodeMeta, save_episode
from playloom.errors import ConfigError
from playloom.games import recorder
from playloom.games.recorder import plan_episode, record_episodes, record_plans, steps_of


def save(folder, plan):
    meta = EpisodeMeta(game="arena", frame_hash="", **asdict(plan))
    states = np.zeros((plan.steps, len(STATE_COLUMNS)), np.float32)
    return save_episode(folder, Episode(meta, np.tile(REST_VALUES, (plan.steps, 1)), states))


@pytest.mark.skipif(importlib.util.find_spec("vizdoom") is None, reason="needs the extra game")
def test_files_that_are_no_episodes_do_not_fail_a_recording_at_its_end(tmp_path):
    plans = [plan_episode(seed, steps=2) for seed in range(2)]
    paths = [save(tmp_path, plan) for plan in plans]
    save(tmp_path, plan_episode(9, steps=2))  # of an earlier call
    (tmp_path / "prompt.npz").write_bytes(b"PK")
    (tmp_path / "prompt.json").write_text("{}")
    assert record_plans(tmp_path, plans) == paths


@pytest.mark.parametrize(("hours", "episodes"), [(1.0, 60), (1.1, 66), (1.11, 67), (1e-9, 1)])
def test_hours_are_episodes(tmp_path, monkeypatch, hours, episodes):
    """In floats 1.1 hours are a little more than 39,600 frames, which were 67 episodes of 600."""
    monkeypatch.setattr(recorder, "record_plans", lambda folder, plans, *_: plans)
    assert len(record_episodes(tmp_path, hours)) == episodes


def test_hours_are_steps():
    """The frames of an environment's recording; in floats 1.1 and 2.2 hours had one more."""
    assert [steps_of(hours) for hours in (1.0, 1.1, 2.2, 1000, 1e-9)] == [36_000, 39_600, 79_200, 36_000_000, 1]
    for hours in (0, float("nan"), 1001):
        with pytest.raises(ConfigError, match="hours"):
            steps_of(hours)
