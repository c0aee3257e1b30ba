"""Datasets of Minari in its three forms, written by Minari itself."""

import json

import h5py
import minari
import numpy as np
import pytest
from gymnasium import spaces
from minari.data_collector import EpisodeBuffer

from import_toys import check_a_change_is_noticed, levels_of, named_controls
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import BadInputError, RecordingError


@pytest.fixture
def store(tmp_path, monkeypatch):
    """Write episodes (observations, actions) into a dataset, and return its root."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "in"))

    def write(observation_space, action_space, episodes, ends="terminations", form="hdf5"):
        buffers = []
        for number, (observations, actions) in enumerate(episodes):
            steps = len(actions)
            last = np.arange(steps) == steps - 1
            outcome = {"terminations": ~last & last, "truncations": ~last & last, ends: last}
            rewards = np.where(last, 5.0, 0.25)
            buffers.append(
                EpisodeBuffer(id=number, observations=observations, actions=actions, rewards=rewards, **outcome)
            )
        with pytest.warns(UserWarning):
            minari.create_dataset_from_buffers(
                "toy/game-v0",
                buffers,
                observation_space=observation_space,
                action_space=action_space,
                data_format=form,
            )
        return tmp_path / "in"

    return write


def options(folder, text: str, **changes) -> ImportOptions:
    (folder / "mine.toml").write_text(f"[controls]\n{text}", encoding="utf-8")
    return ImportOptions(frame_size=(12, 16), split="train", mapping=(str(folder / "mine.toml"),), **changes)


def pictures(count: int, space: spaces.Box) -> np.ndarray:
    return np.stack([np.full(space.shape, 10 * k, np.uint8) for k in range(count)])


SMALL = spaces.Box(0, 255, (24, 32, 3), np.uint8)
LARGE = spaces.Box(0, 255, (36, 48, 3), np.uint8)
"""Minari stores pictures from 32 x 32 on as JPEG."""


@pytest.mark.parametrize("form", ["hdf5", "arrow", "parquet"])
def test_rows_are_steps_with_rewards_ends_and_the_last_picture(store, tmp_path, form):
    player = {"health": spaces.Box(0, 1, (1,)), "place": spaces.Tuple([spaces.Box(0, 9, (2,)), spaces.Text(5)])}
    space = spaces.Dict({"pixels": LARGE, "player": spaces.Dict(player)})
    observations = [
        {
            "pixels": pictures(count, LARGE),
            "player": {
                "health": np.linspace(1, 0, count, dtype=np.float32)[:, None],
                "place": (np.arange(2 * count, dtype=np.float32).reshape(count, 2), ["north"] * count),
            },
        }
        for count in (5, 4)
    ]
    observations[1]["pixels"][1, ::2] += 9  # so that the JPEG files are not equally long, and stored in another form
    observations[1]["pixels"][1, 1::2] -= 9
    actions = [np.array([1, 1, 0, 2]), np.array([2, 0, 1])]
    root = store(space, spaces.Discrete(3), list(zip(observations, actions, strict=True)), form=form)
    asked = options(tmp_path, 'left_stick_x = { action_1 = 1, action_2 = -1 }\nbutton_A = "action_0"')
    assert [recording.format for recording in find_recordings(root, asked)] == ["minari"] * 2
    dataset, _ = import_recordings(root, tmp_path / "out", asked)
    assert [(span.meta["take"], span.length) for span in dataset.spans] == [
        ("toy/game-v0/data/episode_000000", 5),
        ("toy/game-v0/data/episode_000001", 4),
    ]
    assert levels_of(dataset.frames_FHWC) == pytest.approx([0, 10, 20, 30, 40, 0, 10, 20, 30], abs=1)  # JPEG
    assert named_controls(dataset) == {
        "left_stick_x": [1, 1, 0, -1, 0, -1, 0, 1, 0],
        "button_A": [0, 0, 1, 0, 0, 0, 1, 0, 0],
    }
    nan = float("nan")
    assert dataset.column("reward") == pytest.approx([0.25, 0.25, 0.25, 5, nan, 0.25, 0.25, 5, nan], nan_ok=True)
    assert dataset.column("terminated") == pytest.approx([0, 0, 0, 1, nan, 0, 0, 1, nan], nan_ok=True)
    assert dataset.column("truncated") == pytest.approx([0, 0, 0, 0, nan, 0, 0, 0, nan], nan_ok=True)
    assert dataset.column("player_place__index_0_1").tolist() == [1, 3, 5, 7, 9, 1, 3, 5, 7]
    assert dataset.column("player_health") == pytest.approx([1, 0.75, 0.5, 0.25, 0, 1, 2 / 3, 1 / 3, 0])
    if form == "hdf5":
        file = next(root.rglob("main_data.hdf5"))
        check_a_change_is_noticed([file, file.parent / "metadata.json"], root, tmp_path / "out", asked)


@pytest.mark.parametrize("form", ["hdf5", "arrow"])
def test_a_rate_makes_steps_of_several_rows(store, tmp_path, form):
    actions = np.zeros((12, 2), np.float32)
    actions[:, 0], actions[4, 1] = 0.5, 1
    root = store(SMALL, spaces.Box(-1, 1, (2,)), [(pictures(13, SMALL), actions)], "truncations", form)
    asked = options(tmp_path, 'right_stick_x = { action_0 = 2 }\ntrigger_RT = "action_1"', rate=30)
    dataset, _ = import_recordings(root, tmp_path / "out", asked)
    assert levels_of(dataset.frames_FHWC) == [0, 30, 60, 90, 120]
    assert named_controls(dataset) == {"right_stick_x": [1, 1, 1, 1, 0], "trigger_RT": [0, 1, 0, 0, 0]}
    assert dataset.column("reward")[:4] == pytest.approx([0.75, 0.75, 0.75, 5.5])
    assert dataset.column("truncated")[:4].tolist() == [0, 0, 0, 1]


def test_multidiscrete_actions_have_a_control_for_every_value(store, tmp_path):
    root = store(SMALL, spaces.MultiDiscrete([2, 3]), [(pictures(4, SMALL), np.array([[0, 2], [1, 1], [1, 2]]))])
    asked = options(tmp_path, 'button_X = "action_0_1"\nbutton_Y = "action_1_2"')
    dataset, _ = import_recordings(root, tmp_path / "out", asked)
    assert named_controls(dataset) == {"button_X": [0, 1, 1, 0], "button_Y": [1, 0, 1, 0]}


def test_what_cannot_be_used_is_named(store, tmp_path):
    root = store(spaces.Box(-1, 1, (4,)), spaces.Discrete(2), [(np.zeros((4, 4), np.float32), np.array([0, 1, 1]))])
    asked = options(tmp_path, 'button_A = "action_1"')
    with pytest.raises(RecordingError, match="no pictures among its observations"):
        import_recordings(root, tmp_path / "out", asked)
    with pytest.raises(RecordingError, match="no control that the mapping uses: got action_0, action_1"):
        import_recordings(root, tmp_path / "out", ImportOptions(frame_size=(12, 16)))
    with h5py.File(next(root.rglob("main_data.hdf5")), "r+") as data:
        del data["episode_0/terminations"]
    with pytest.raises(RecordingError, match=r"episode_000000 cannot be read .*terminations"):
        import_recordings(root, tmp_path / "out", asked)
    (metadata,) = root.rglob("metadata.json")
    metadata.write_text(json.dumps({"action_space": "{"}), encoding="utf-8")
    with pytest.raises(RecordingError, match="game-v0/data cannot be read"):
        import_recordings(root, tmp_path / "out", asked)
    metadata.write_text(json.dumps({"action_space": '{"type": "Text"}'}), encoding="utf-8")
    with pytest.raises(RecordingError, match="game-v0/data has actions of the space Text; expected Discrete"):
        import_recordings(root, tmp_path / "out", asked)
    with pytest.raises(BadInputError, match="the rate is wrong: got 0"):
        ImportOptions(frame_size=(12, 16), rate=0)
