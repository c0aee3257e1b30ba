"""Recordings of somebody's own game: what is a take, where it goes, and that a model learns from it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from import_toys import check_a_change_is_noticed
from playloom.actions.codec import REST_VALUES
from playloom.cli.app import app
from playloom.data.dataset import FrameDataset, join_datasets
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import ActionError, BadInputError, RecordingError
from playloom.evaluation.suite import open_test_set
from playloom.media.action_table import write_actions
from playloom.media.clips import Clip, write_clip
from playloom.models.checkpoint import load_model
from playloom.models.presets import preset

SIZES = preset("tiny").tokenizer
SIZE = (SIZES.frame_height, SIZES.frame_width)
OPTIONS = ImportOptions(frame_size=SIZE)


def play(steps: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A pattern that moves sideways by what the right stick held."""
    source = np.random.default_rng(seed)
    actions = np.tile(REST_VALUES, (steps, 1))
    actions[:, 14] = source.integers(0, 11, steps)
    wide = source.integers(0, 256, (SIZE[0], SIZE[1] * 2, 3), dtype=np.uint8)
    moved = np.concatenate([[0], np.cumsum(actions[:-1, 14].astype(int) - 5)])
    return np.stack([np.roll(wide, -shift, axis=1)[:, : SIZE[1]] for shift in moved]), actions


def clip_at(path: Path, steps: int, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_clip(path, Clip(*play(steps, seed)))
    return path


def pictures_at(folder: Path, steps: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    frames, actions = play(steps)
    folder.mkdir(parents=True)
    for number, frame in enumerate(frames, 1):
        Image.fromarray(frame).save(folder / f"{number}.png")
    write_actions(folder / "actions.csv", actions[:rows])
    return frames, actions


def test_a_folder_of_pictures_is_a_take_in_natural_order(tmp_path):
    frames, actions = pictures_at(tmp_path / "monday", 12, rows=11)
    assert [recording.path for recording in find_recordings(tmp_path, OPTIONS)] == [tmp_path / "monday"]
    store = import_recordings(tmp_path, tmp_path / "out", OPTIONS).dataset
    seen, held = store.frames_FHWC, store.actions_FA
    assert (seen == frames).all() and (held[:-1] == actions[:-1]).all() and (held[-1] == REST_VALUES).all()


def test_of_twenty_takes_one_is_for_validation_and_one_for_tests(tmp_path):
    for number in range(20):
        clip_at(tmp_path / "in" / f"{number:02}.npz", 3, number)
    store = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS).dataset
    assert [s.meta["take"] for s in store.of_split("validation")] == ["09.npz"]
    assert [s.meta["take"] for s in store.of_split("test")] == ["19.npz"]
    assert len(store.of_split("train")) == 18 and len(store) == 60


def test_a_single_take_keeps_its_end_for_validation(tmp_path):
    frames, actions = play(30)
    clip_at(tmp_path / "in" / "a.npz", 30)
    store = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS).dataset
    train, validation = store.spans
    assert (train.rows, validation.rows) == (slice(0, 27), slice(27, 30))
    assert (store.frames_FHWC == frames).all() and (store.actions_FA == actions).all()
    assert all(span.meta["game"] == "other" for span in store.spans)  # so the arena's camera is not assumed


def test_other_sizes_are_fitted(tmp_path):
    clip_at(tmp_path / "in" / "a.npz", 4)
    store = import_recordings(tmp_path / "in", tmp_path / "out", ImportOptions(frame_size=(8, 8), split="test")).dataset
    assert store.frames_FHWC.shape == (4, 8, 8, 3)


def test_an_interrupted_import_goes_on(tmp_path):
    for number in range(3):
        clip_at(tmp_path / "in" / f"{number}.npz", 4, number)

    def stop(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, progress=stop)
    with pytest.raises(RecordingError, match="unfinished"):
        FrameDataset.open(tmp_path / "out")
    store = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS).dataset
    wanted = np.concatenate([play(4, number)[0] for number in range(3)])
    assert (store.frames_FHWC == wanted).all()


def test_what_cannot_be_used_is_named(tmp_path):
    with pytest.raises(RecordingError, match="not a folder"):
        find_recordings(tmp_path / "nowhere", OPTIONS)
    with pytest.raises(RecordingError, match="no recording"):
        find_recordings(tmp_path, OPTIONS)
    pictures_at(tmp_path / "short", 5, rows=3)
    with pytest.raises(ActionError, match="3 rows"):
        import_recordings(tmp_path / "short", tmp_path / "out", OPTIONS)
    with pytest.raises(BadInputError, match="train"):
        import_recordings(tmp_path, tmp_path / "out", replace(OPTIONS, split="trian"))
    clip_at(tmp_path / "in" / "a.npz", 4)
    import_recordings(tmp_path / "in", tmp_path / "done", OPTIONS)
    clip_at(tmp_path / "other" / "b.npz", 4)
    with pytest.raises(RecordingError, match="finished"):
        import_recordings(tmp_path / "other", tmp_path / "done", OPTIONS)


def test_a_damaged_take_is_skipped_and_the_others_are_whole(tmp_path):
    """One damaged clip stopped the import, and left its unfinished files."""
    for number in range(3):
        clip_at(tmp_path / "in" / f"{number}.npz", 4, number)
    cut = tmp_path / "in" / "cut.npz"
    cut.write_bytes((tmp_path / "in" / "0.npz").read_bytes()[:100])
    pictures_at(tmp_path / "in" / "0short", 5, rows=3)  # its length can be read, so its rows are planned
    words = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--preset", "tiny"]
    for _ in range(2):  # the second time it is there already, without them
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 1 and result.stderr.count("skipped: ") == 2 and "cut.npz" in result.stderr
    store = FrameDataset.open(tmp_path / "out")
    wanted = np.concatenate([play(4, number)[0] for number in range(3)])
    assert len(store) == 12 and (store.frames_FHWC == wanted).all()


def test_options_of_the_command(tmp_path):
    for number in range(2):
        clip_at(tmp_path / "in" / f"{number}.npz", 4, number)
    (tmp_path / "in" / "cut.npz").write_bytes(b"PK")
    words = ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--preset", "tiny", "--strict"]
    result = CliRunner().invoke(app, [*words, "--mask", "0,0,4,2", "--mask", "10,3,1,1"])
    assert result.exit_code == 2 and "found: npz (3)" in result.stdout and "skipped: " in result.stderr
    frames = FrameDataset.open(tmp_path / "out").frames_FHWC
    assert not frames[:, :2, :4].any() and not frames[:, 3, 10].any() and frames[:, 2, :4].any()
    other = CliRunner().invoke(app, words)  # without the masks these are other settings
    assert isinstance(other.exception, RecordingError) and "settings" in str(other.exception)
    wrong = CliRunner().invoke(app, [*words, "--mask", "1,2,3"])
    assert isinstance(wrong.exception, BadInputError) and "--mask is wrong" in str(wrong.exception)


def test_a_finished_import_is_there_already(tmp_path):
    clip_at(tmp_path / "in" / "a.npz", 4)
    words = ("import", tmp_path / "in", "--out", tmp_path / "out", "--preset", "tiny", "--split", "test")
    said = playloom(*words)
    assert "evaluate" in said and "train tokenizer" not in said
    assert playloom(*words) == said


def test_changed_pictures_and_clips_are_noticed(tmp_path):
    clip_at(tmp_path / "in" / "a.npz", 4)
    pictures_at(tmp_path / "in" / "b", 4, rows=4)
    import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    files = [tmp_path / "in" / name for name in ("a.npz", "b/actions.csv", "b/3.png")]
    check_a_change_is_noticed(files, tmp_path / "in", tmp_path / "out", OPTIONS)


def test_parts_of_an_import_join_to_the_same_bytes(tmp_path):
    for number in range(11):
        clip_at(tmp_path / "in" / f"{number:02}.npz", 3, number)
    words = ("import", tmp_path / "in", "--preset", "tiny", "--no-report", "--out")
    playloom(*words, tmp_path / "whole")
    for number in (2, 1, 2):  # a finished part is there already
        playloom(*words, tmp_path / "parts" / str(number), "--shard", f"{number}/2")
    assert len(FrameDataset.open(tmp_path / "parts" / "2").spans) == 5
    said = playloom("import", tmp_path / "parts", "--shard", "join", "--out", tmp_path / "joined")
    assert "validation: 3 frames of 1 clip\n" in said
    assert playloom("import", tmp_path / "parts", "--shard", "join", "--out", tmp_path / "joined") == said
    with pytest.raises(RecordingError, match="another dataset"):
        join_datasets(tmp_path / "parts", tmp_path / "parts" / "2")
    names = {path.name for path in (tmp_path / "whole").iterdir()}
    assert names == {path.name for path in (tmp_path / "joined").iterdir()}
    assert all((tmp_path / "whole" / name).read_bytes() == (tmp_path / "joined" / name).read_bytes() for name in names)


def test_what_cannot_be_a_part_is_named(tmp_path):
    clip_at(tmp_path / "in" / "0.npz", 3)
    with pytest.raises(RecordingError, match="part 2 of 2 is empty: there are 1 sessions"):
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, shard=(2, 2))
    with pytest.raises(BadInputError, match="part is out of range: got 0 of 2"):  # it was the last session
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, shard=(0, 2))
    for text in ("0/2", "3/2", "2", "a/b"):
        wrong = CliRunner().invoke(app, ["import", str(tmp_path / "in"), "--shard", text])
        assert isinstance(wrong.exception, BadInputError) and "--shard is wrong" in str(wrong.exception)
    with pytest.raises(RecordingError, match="not hold each part of one import once"):
        join_datasets(tmp_path, tmp_path / "out")
    for name in "ab":
        import_recordings(tmp_path / "in", tmp_path / "parts" / name, OPTIONS)
    with pytest.raises(RecordingError, match="not hold each part of one import once"):
        join_datasets(tmp_path / "parts", tmp_path / "out")
    clip_at(tmp_path / "parts" / "1.npz", 3)
    import_recordings(tmp_path / "parts", tmp_path / "parts" / "b2", replace(OPTIONS, offset=1.0))
    with pytest.raises(RecordingError, match="not hold each part of one import once"):
        join_datasets(tmp_path / "parts", tmp_path / "out")


def test_a_failed_import_leaves_nothing(tmp_path):
    pictures_at(tmp_path / "in" / "short", 5, rows=3)
    result = CliRunner().invoke(app, ["import", str(tmp_path / "in"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, RecordingError) and not (tmp_path / "out").exists()


def playloom(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == 0, result.exception or result.output
    return result.output


@pytest.mark.slow
def test_from_ones_own_clips_to_a_model_that_dreams(tmp_path):
    for number in range(3):
        clip_at(tmp_path / "play" / f"{number}.npz", 24, number)
    said = playloom("import", tmp_path / "play", "--out", tmp_path / "data", "--preset", "tiny")
    assert "train: 48 frames of 2 clips" in said and "validation: 24 frames of 1 clip\n" in said
    short = ["--preset", "tiny", "--steps", 2, "--batch", 2, "--device", "cpu", "--threads", 1]
    playloom("train", "tokenizer", "--data", tmp_path / "data", "--out", tmp_path / "t", *short)
    words = ["--data", tmp_path / "data", "--tokenizer", tmp_path / "t", "--alignment", "warn"]
    playloom("train", "world", *words, "--out", tmp_path / "w", *short)
    assert load_model(tmp_path / "w" / "model").config.name == "w"
    playloom("import", tmp_path / "play", "--out", tmp_path / "test", "--preset", "tiny", "--split", "test")
    assert len(open_test_set(tmp_path / "test", tmp_path / "work").of_split("test")) == 3
