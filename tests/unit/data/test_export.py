"""Exports of datasets and dreams: what comes back through the readers, and through Minari's own library."""

import json

import h5py  # noqa: F401  at its import it starts a process, which a fast test may not
import minari
import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from playloom.actions.codec import REST_VALUES
from playloom.actions.controller import CONTROLS
from playloom.cli.app import app
from playloom.data.dataset import FrameDataset
from playloom.data.export import export_episodes
from playloom.data.importing.build import import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import RecordingError
from playloom.media.clips import write_dream_clip
from playloom.provenance import Manifest
from training_toys import render, scroll, stick_actions

HEIGHT, WIDTH, LENGTHS = 48, 64, (12, 9)
OPTIONS = ImportOptions(frame_size=(HEIGHT, WIDTH), split="train")


def dataset_at(folder) -> FrameDataset:
    """Two episodes with outcomes as the recorder of environments writes them, and a number."""
    columns = ("reward", "terminated", "truncated", "place")
    writer = FrameDataset.create(folder, sum(LENGTHS), height=HEIGHT, width=WIDTH, state_columns=columns)
    for seed, length in enumerate(LENGTHS):
        actions = stick_actions(length, seed)
        actions[2, 0], actions[-1] = 1, REST_VALUES
        states = np.zeros((length, 4), np.float32)
        states[:, 0], states[:, 3] = np.arange(length) / 2, np.arange(length) - 3
        states[-2, 1 + seed], states[-1, :3] = 1, np.nan
        writer.append_episode(scroll(actions, HEIGHT, WIDTH), actions, states, {"split": "train", "seed": seed})
    writer.finish()
    return FrameDataset.open(folder)


@pytest.mark.parametrize("form", ["lerobot", "minari"])
def test_what_was_exported_comes_back(tmp_path, form):
    dataset = dataset_at(tmp_path / "data")
    assert export_episodes(tmp_path / "data", tmp_path / "out", form, render) == 2
    mapping = tmp_path / "controls.toml"
    signs = {c.name: -1 if c.name.endswith("stick_y") else 1 for c in CONTROLS}
    lines = [f"{name} = {{ action_{k} = {sign} }}" for k, (name, sign) in enumerate(signs.items())]
    mapping.write_text("\n".join(["[controls]", *lines]), encoding="utf-8")
    options = (
        OPTIONS
        if form == "lerobot"
        else ImportOptions(frame_size=OPTIONS.frame_size, split="train", mapping=(str(mapping),))
    )
    again = import_recordings(tmp_path / "out", tmp_path / "again", options).dataset
    assert [span.length for span in again.spans] == list(LENGTHS)
    assert (again.actions_FA == dataset.actions_FA).all()
    known = ~np.isnan(dataset.column("reward"))
    for name in ("reward", "terminated", "truncated"):
        assert (again.column(name)[known] == dataset.column(name)[known]).all()
    loss = np.abs(again.frames_FHWC.mean(-1) - dataset.frames_FHWC.mean(-1)).mean()  # video has fewer colours
    assert loss == 0 if form == "minari" else loss < 6
    if form == "lerobot":
        assert (again.column("place") == dataset.column("place")).all()


def test_minari_reads_the_export(tmp_path):
    dataset = dataset_at(tmp_path / "data")
    export_episodes(tmp_path / "data", tmp_path / "out" / "data", "minari", render)
    loaded = minari.MinariDataset(tmp_path / "out" / "data")
    episodes = list(loaded.iterate_episodes())
    assert loaded.total_steps == sum(LENGTHS) - 2 and loaded.action_space.shape == (16,)
    for span, episode in zip(dataset.spans, episodes, strict=True):
        assert (episode.observations == dataset.frames_FHWC[span.rows]).all()
        assert loaded.observation_space.contains(episode.observations[0])
        assert all(loaded.action_space.contains(action) for action in episode.actions)
        assert (episode.infos["place"] == dataset.column("place")[span.rows]).all()
    assert episodes[0].terminations[-1] and not episodes[0].truncations[-1] and episodes[1].truncations[-1]


def test_the_tables_of_lerobot(tmp_path):
    dataset_at(tmp_path / "data")
    export_episodes(tmp_path / "data", tmp_path / "out", "lerobot", render)
    info = json.loads((tmp_path / "out/meta/info.json").read_text(encoding="utf-8"))
    assert info["total_frames"] == sum(LENGTHS) and info["features"]["observation.state"]["names"] == ["place"]
    episodes = parquet.read_table(tmp_path / "out/meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in episodes] == [(0, 12), (12, 21)]
    rows = parquet.read_table(tmp_path / "out/data/chunk-000/file-001.parquet").to_pylist()
    assert [row["index"] for row in rows] == list(range(12, 21)) and len(rows[0]["action"]) == 16


def test_a_dream_says_which_frames_are_generated(tmp_path):
    actions = stick_actions(7, 0)
    frames = scroll(actions, HEIGHT, WIDTH)
    (tmp_path / "dream").mkdir()
    write_dream_clip(
        tmp_path / "dream" / "dream.npz",
        context_THWC=frames[:3],
        dreamed_SHWC=frames[3:],
        actions_TA=actions[:6],
        given_T=np.ones(6, bool),
        manifest=Manifest(model="tiny", weights="ab", seed=1, mode="world"),
    )
    out = tmp_path / "out"
    result = CliRunner().invoke(app, ["export", str(tmp_path / "dream"), "--format", "lerobot", "--out", str(out)])
    assert result.exit_code == 0, result.output
    rows = parquet.read_table(out / "data/chunk-000/file-000.parquet").to_pylist()
    assert [row["observation.state"] for row in rows] == [[0.0]] * 3 + [[1.0]] * 4
    assert "next.reward" not in rows[0]  # unknown, not 0


def test_nothing_to_export_leaves_nothing(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match="no frame dataset"):
        export_episodes(tmp_path / "empty", tmp_path / "out", "minari", render)
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]
