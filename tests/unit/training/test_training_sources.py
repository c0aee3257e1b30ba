"""From recordings to what a trainer reads: made once, from the right splits, and refused when it does not fit."""

from pathlib import Path

import numpy as np
import pytest

from playloom.data.dataset import TokenDataset
from playloom.data.recording import save_episode
from playloom.errors import CheckpointError, ConfigError, RecordingError
from playloom.models.presets import preset
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.artifacts import load_tokenizer, save_tokenizer, training_facts
from playloom.training.data_source import PrepareOptions, frames_from, tokens_from
from playloom.training.run import WorldJob, run_world
from playloom.training.task import TrainingResult
from training_toys import TINY, episode, render, token_dataset, world_config


@pytest.fixture(scope="module")
def recordings(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recordings")
    for seed in range(3):
        save_episode(folder, episode(seed))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, FrameTokenizer(TINY.tokenizer, seed=3))
    return folder


def never(recording):
    raise AssertionError("what is prepared must not be rendered again")


def test_recordings_are_rendered_once(recordings, tmp_path):
    first = frames_from(recordings, tmp_path, PrepareOptions(render=render))
    assert len(first) == 36
    assert len(frames_from(recordings, tmp_path, PrepareOptions(render=never))) == 36


def test_codes_are_made_once_and_belong_to_their_tokenizer(recordings, tokenizer, tmp_path):
    source = load_tokenizer(tokenizer)
    network, name = source.tokenizer, source.name
    made = tokens_from(recordings, tmp_path, PrepareOptions(render=render), network, name)
    again = tokens_from(recordings, tmp_path, PrepareOptions(render=never), network, name)
    assert (made.tokens_FN == again.tokens_FN).all()
    assert tokens_from(tmp_path, Path("unused"), PrepareOptions(render=never), None, None).tokenizer == name
    with pytest.raises(RecordingError, match="tokenise again"):
        tokens_from(tmp_path, Path("unused"), PrepareOptions(render=never), network, "another")
    other = tokens_from(recordings, tmp_path, PrepareOptions(render=render), network, "another")
    assert other.tokenizer == "another"
    with pytest.raises(RecordingError, match="token dataset"):
        frames_from(tmp_path, Path("unused"), PrepareOptions(render=never))


def test_codes_of_other_data_are_not_taken_for_these(recordings, tokenizer, tmp_path):
    source = load_tokenizer(tokenizer)
    network, name = source.tokenizer, source.name
    tokens_from(recordings, tmp_path / "tokens", PrepareOptions(render=render), network, name)
    for seed in range(4):
        save_episode(tmp_path / "more", episode(seed))
    with pytest.raises(RecordingError, match="36 frames"):
        tokens_from(tmp_path / "more", tmp_path / "tokens", PrepareOptions(render=render), network, name)
    frames = frames_from(tmp_path / "more", tmp_path / "frames", PrepareOptions(render=render))
    with pytest.raises(RecordingError, match="other data"):
        tokens_from(frames.folder, tmp_path / "tokens", PrepareOptions(render=render), network, name)


def test_edited_recordings_belong_to_the_same_codes(recordings, tokenizer, tmp_path):
    source = load_tokenizer(tokenizer)
    network, name = source.tokenizer, source.name
    options = PrepareOptions(render=render, edited=0.5, render_edited=render)
    made = tokens_from(recordings, tmp_path / "tokens", options, network, name)
    assert len(made) == 48
    again = PrepareOptions(render=never, edited=0.5, render_edited=never)
    assert len(tokens_from(recordings, tmp_path / "tokens", again, network, name)) == 48
    with pytest.raises(RecordingError, match="48 frames, expected 36"):
        tokens_from(recordings, tmp_path / "tokens", PrepareOptions(render=never), network, name)
    with pytest.raises(RecordingError, match="only recordings of the arena"):
        tokens_from(made.folder, tmp_path / "unused", again, network, name)


def test_a_job_goes_from_recordings_to_a_model_and_says_each_stage(recordings, tokenizer, tmp_path):
    said = []
    job = WorldJob(
        model=TINY,
        config=world_config(steps=2),
        data=recordings,
        out=tmp_path,
        tokenizer=tokenizer,
        prepare=PrepareOptions(render=render),
    )
    result = run_world(job, say=said.append)
    assert (result.path / "model.json").exists()
    assert said[0].startswith("36 frames in 3 episodes")
    assert "at least 80 steps" in said[1]
    said.clear()
    run_world(job, say=said.append)
    assert len(said) == 1  # a finished run is not checked again


def test_a_tokenizer_of_other_sizes_is_refused(recordings, tokenizer, tmp_path):
    job = WorldJob(
        model=preset("arena-small"),
        config=world_config(steps=2),
        data=recordings,
        out=tmp_path,
        tokenizer=tokenizer,
        prepare=PrepareOptions(render=never),
    )
    with pytest.raises(CheckpointError, match="frame_height"):
        run_world(job)


def test_other_recordings_are_rendered_again(tmp_path):
    """As many other episodes gave the pictures of the earlier ones."""
    options = PrepareOptions(render=render)
    for name, steps in (("few", 12), ("more", 20)):
        for seed in range(2):
            save_episode(tmp_path / name, episode(seed, steps))
        assert len(frames_from(tmp_path / name, tmp_path / "frames", options)) == 2 * steps


def test_other_recordings_of_the_same_length_are_rendered_again(tmp_path, tokenizer):
    """The frames and codes of the earlier ones were taken."""
    source = load_tokenizer(tokenizer)
    options = PrepareOptions(render=render)
    for seed in (1, 2):
        save_episode(tmp_path / str(seed), episode(seed))
        store = frames_from(tmp_path / str(seed), tmp_path / "frames", options)
        assert store.spans[0].meta["seed"] == seed
    tokens_from(tmp_path / "1", tmp_path / "tokens", options, source.tokenizer, source.name)
    for data in (tmp_path / "2", store.folder):
        with pytest.raises(RecordingError, match="other episodes"):
            tokens_from(data, tmp_path / "tokens", options, source.tokenizer, source.name)


def test_edited_recordings_need_their_renderer():
    """They were left out, and the next call refused the codes."""
    with pytest.raises(ConfigError, match="render_edited"):
        PrepareOptions(render=render, edited=0.5)


def test_a_card_names_the_processor_that_trained(tmp_path, monkeypatch):
    """A machine with a GPU can train on its CPU."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda device: "a GPU")
    result = TrainingResult(1, 1.0, True, {}, tmp_path)
    facts = training_facts(token_dataset(tmp_path), result, world_config(device="cpu"))
    assert facts["hardware"].startswith("CPU, ")


def test_a_card_names_the_seeds_that_are_known(tmp_path):
    """An episode whose seed is null ended the run before its export; that of a mirrored episode was there twice."""
    writer = TokenDataset.create(tmp_path, 3, slots=1, tokenizer="toy", state_columns=())
    for seed in (None, 4, 4):
        rows = np.zeros((1, 1), np.uint16), np.zeros((1, 16), np.uint8), np.zeros((1, 0), np.float32)
        writer.append_episode(*rows, {"split": "train", "seed": seed})
    writer.finish()
    result = TrainingResult(1, 1.0, True, {}, tmp_path)
    facts = training_facts(TokenDataset.open(tmp_path), result, world_config(device="cpu"))
    assert facts["data"]["train_seeds"] == [4]
