"""An import by many processes writes the same bytes as one."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from import_toys import video_at
from playloom.data.dataset import TokenDataset
from playloom.data.importing.build import import_recordings
from playloom.data.importing.recordings import ClipEncoder, ImportOptions
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.artifacts import load_encode, save_tokenizer
from training_toys import TINY

SIZE = (TINY.tokenizer.frame_height, TINY.tokenizer.frame_width)
OPTIONS = ImportOptions(frame_size=SIZE)


@pytest.fixture(scope="module")
def recordings(tmp_path_factory) -> Path:
    """Five recordings, one of them without pictures at its end."""
    folder = tmp_path_factory.mktemp("recordings")
    for number, name in enumerate("abcde"):
        times = [index / 20 for index in range(60 + 20 * number)]
        path = video_at(folder / f"{name}.mkv", times, [int(40 + 30 * number + 10 * time) for time in times])
        path.with_suffix(".csv").write_text(f"time,key,down\n0.{number}5,w,1\n2.5,w,0\n", encoding="utf-8")
    (folder / "c.mkv").write_bytes((folder / "c.mkv").read_bytes()[:600])
    return folder


def columns_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_frames_of_workers_and_of_a_cluster_are_those_of_one_process(recordings, tmp_path):
    skipped: dict[str, list[str]] = {}
    for name, parallel in (("one", {}), ("two", {"workers": 2}), ("cluster", {"cluster": True})):
        skipped[name] = []
        import_recordings(recordings, tmp_path / name, OPTIONS, on_skip=skipped[name].append, **parallel)
    assert columns_of(tmp_path / "one") == columns_of(tmp_path / "two") == columns_of(tmp_path / "cluster")
    assert skipped["one"] == skipped["two"] == skipped["cluster"] and "c.mkv" in skipped["one"][0]


def test_codes_are_those_of_the_frames_and_no_frame_is_stored(recordings, tmp_path):
    save_tokenizer(tmp_path / "tokenizer", FrameTokenizer(TINY.tokenizer))
    encoder = ClipEncoder(
        load=partial(load_encode, str(tmp_path / "tokenizer"), 1),
        slots=TINY.layout.image_slots,
        fingerprint="a name",
    )
    for name, workers in (("one", 0), ("two", 2)):
        arguments = {"encoder": encoder, "workers": workers, "on_skip": lambda _: None}
        import_recordings(recordings, tmp_path / name, OPTIONS, **arguments)
    assert columns_of(tmp_path / "one") == columns_of(tmp_path / "two")
    frames, _ = import_recordings(recordings, tmp_path / "frames", OPTIONS, on_skip=lambda _: None)
    codes = TokenDataset.open(tmp_path / "two")
    encode = load_encode(str(tmp_path / "tokenizer"))
    assert np.array_equal(codes.tokens_FN, encode(np.array(frames.frames_FHWC)))
    assert np.array_equal(codes.actions_FA, frames.actions_FA) and codes.spans[0].meta["take"] == "a.mkv"
