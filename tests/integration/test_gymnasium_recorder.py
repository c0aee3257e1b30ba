"""Recordings of Gymnasium environments: rows, splits, processes and failures."""

import dataclasses

import numpy as np
import pytest
from typer.testing import CliRunner

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.cli.app import app
from playloom.data.dataset import FrameDataset
from playloom.errors import ConfigError, GameError
from playloom.games.gymnasium.player import GymnasiumRecording
from playloom.games.gymnasium.recorder import record_environment

SLIDE = GymnasiumRecording(env="gymnasium_toys:playloom-toys/Slide-v0", frame_size=(8, 16), steps=6)
SCRIPTED = dataclasses.replace(SLIDE, policy="gymnasium_toys:forward_then_random")


def content(dataset):
    arrays = dataset.frames_FHWC, dataset.actions_FA, dataset.states_FS
    return [array.tobytes() for array in arrays], [(span.start, span.length, dict(span.meta)) for span in dataset.spans]


def test_a_row_has_a_frame_its_action_and_what_came_with_it(tmp_path):
    dataset, notes, skipped = record_environment(tmp_path / "out", SCRIPTED, 60, processes=1)
    assert len(dataset) == 60 and dataset.state_columns == ("reward", "terminated", "truncated", "place")
    assert not skipped and "a frame is 2 environment steps" in notes[0] and "0.1 s of play" in notes[0]
    right = decode_values(dataset.actions_FA)[:, [c.name for c in CONTROLS].index("dpad_right")]
    seen = dataset.frames_FHWC[:, 0, :, 0].argmax(axis=1) - 8
    ends = []
    for span in dataset.spans:
        rows = slice(span.start, span.start + span.length)
        reward, terminated, truncated, place = dataset.states_FS[rows].T
        moved = np.diff(seen[rows])
        assert (place[1:] == seen[rows][1:]).all() and np.isnan([reward[-1], terminated[-1], truncated[-1]]).all()
        assert (np.sign(moved) == 2 * right[rows][:-1] - 1).all()
        assert (reward[:-1] == np.where(moved > 0, moved, 0)).all()
        assert not terminated[:-2].any() and not truncated[:-2].any() and right[rows][-1] == 0
        ends.append((bool(terminated[-2]), bool(truncated[-2])))
        assert span.length <= 6 and terminated[-2] == (abs(seen[rows][-1]) >= 6)
    assert set(ends) == {(True, False), (False, True)}
    assert [span.meta["split"] for span in dataset.spans][9] == "validation"


def test_few_episodes_and_a_single_one_leave_some_for_validation(tmp_path):
    few = record_environment(tmp_path / "few", SCRIPTED, 12, processes=1).dataset
    assert [span.meta["split"] for span in few.spans][-2:] == ["train", "validation"]
    one = record_environment(
        tmp_path / "one", dataclasses.replace(SLIDE, frame_skip=1, steps=10), 5, processes=1
    ).dataset
    assert [(span.length, span.meta["split"]) for span in one.spans] == [(4, "train"), (1, "validation")]
    assert one.column("truncated")[3] == 1


def test_processes_and_interruptions_change_nothing(tmp_path):
    """The third episode raises in both; it is listed again when the rest is recorded later."""
    recording = dataclasses.replace(SCRIPTED, options={"raises": [2]})
    whole = record_environment(tmp_path / "whole", recording, 40, processes=1)
    assert ["seed 2" in sentence and "no more of seed 2" in sentence for sentence in whole.skipped] == [True]

    def stop(done, total):
        if done > 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        record_environment(tmp_path / "parts", recording, 40, processes=2, progress=stop)
    with pytest.raises(ConfigError, match="other settings"):
        record_environment(tmp_path / "parts", recording, 50, processes=1)
    seen = []
    parts = record_environment(
        tmp_path / "parts", recording, 40, processes=2, progress=lambda done, total: seen.append(done)
    )
    assert seen[0] > 20 and content(parts.dataset) == content(whole.dataset)
    assert ["earlier call" in sentence for sentence in parts.skipped] == [True]


def test_a_process_that_dies_costs_one_episode_and_only_failures_end_it(tmp_path):
    found = record_environment(tmp_path / "dies", dataclasses.replace(SCRIPTED, options={"dies": [1]}), 20, processes=2)
    assert len(found.skipped) == 1 and "seed 1" in found.skipped[0] and "died" in found.skipped[0]
    with pytest.raises(GameError, match="in a row failed"):
        failing = dataclasses.replace(SCRIPTED, options={"raises": list(range(9))})
        record_environment(tmp_path / "raises", failing, 20, processes=1)
    assert not (tmp_path / "raises").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"env": "NoSuchGame-v0"}, "cannot be made"),
        ({"policy": "gymnasium_toys:nothing"}, "cannot be loaded"),
        ({"info": ("plaice",)}, "did you mean place"),
    ],
)
def test_wrong_settings_are_one_sentence(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        record_environment(tmp_path / "out", dataclasses.replace(SLIDE, **changes), 20, processes=1)


def test_the_command(tmp_path):
    out = tmp_path / "out"
    given = [
        "record",
        "--env",
        SLIDE.env,
        "--hours",
        "0.001",
        "--preset",
        "tiny",
        "--resize",
        "stretch",
        "--out",
        str(out),
    ]
    options = ["--env-options", '{"raises": [1]}', "--processes", "1", "--steps", "8"]
    result = CliRunner().invoke(app, [*given, *options])
    assert result.exit_code == 1 and "seed 1" in result.output and "36 frames" in result.output
    assert FrameDataset.open(out).state_columns[-1] == "place"
    assert isinstance(CliRunner().invoke(app, ["record", "--policy", "random"]).exception, ValueError)


def test_a_game_of_gymnasium_itself(tmp_path):
    pytest.importorskip("Box2D")
    recording = GymnasiumRecording(env="CarRacing-v3", frame_size=(24, 40), steps=8, options={"continuous": False})
    dataset, notes, _ = record_environment(tmp_path / "out", recording, 16, processes=2)
    assert "a frame is 5 environment steps" in notes[0] and "left_stick_x = 1 action_1" in notes[1]
    assert len(dataset.spans) == 2 and (dataset.frames_FHWC[8] != dataset.frames_FHWC[0]).any()
    reward = dataset.column("reward")
    assert np.isnan(reward[7]) and np.isclose(reward[:7], -0.5).any()  # five steps at -0.1 each
