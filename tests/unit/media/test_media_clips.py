"""Clips come in from the published form and dreams go out in the reference's, and damage is one sentence."""

import tracemalloc
import zipfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from playloom.actions.codec import REST_VALUES
from playloom.errors import ActionError, RecordingError
from playloom.media.clips import (
    Clip,
    find_clips,
    npz_names,
    read_clip,
    read_dream_clip,
    read_npz,
    write_clip,
    write_dream_clip,
    write_npz,
)
from playloom.provenance import Manifest

MANIFEST = Manifest(model="tiny", weights="ab", seed=1, mode="world")


@pytest.fixture
def clip() -> Clip:
    random = np.random.default_rng(0)
    actions = np.tile(REST_VALUES, (5, 1))
    actions[:, 14] = [0, 3, 5, 7, 10]
    return Clip(random.integers(0, 256, (5, 6, 10, 3), dtype=np.uint8), actions)


def test_a_clip_of_the_published_form(tmp_path, clip):
    """As the published dataset has it: floats in the binned schema, channels first, states nobody needs."""
    np.savez(
        tmp_path / "a.npz",
        images=clip.frames_THWC.transpose(0, 3, 1, 2),
        actions=clip.actions_TA.astype(np.float32),
        states=np.zeros((5, 56)),
    )
    again = read_clip(tmp_path / "a.npz")
    assert np.array_equal(again.frames_THWC, clip.frames_THWC)
    assert np.array_equal(again.actions_TA, clip.actions_TA) and again.actions_TA.dtype == np.uint8
    write_clip(tmp_path / "b.npz", clip)
    assert all(np.array_equal(x, y) for x, y in zip(read_clip(tmp_path / "b.npz")[:2], clip[:2], strict=True))
    assert np.load(tmp_path / "b.npz")["actions"].dtype == np.float32


def test_clips_are_found_below_a_folder_in_order(tmp_path, clip):
    for name in ("b.npz", "sub/a.npz", "sub/.c.npz", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [str(p.relative_to(tmp_path)) for p in find_clips(tmp_path)] == ["b.npz", "sub/a.npz"]
    with pytest.raises(RecordingError, match="not a folder"):
        find_clips(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RecordingError, match=r"\.npz"):
        find_clips(tmp_path / "empty")


def test_what_is_wrong_with_a_clip_is_said(tmp_path, clip):
    images, actions = clip.frames_THWC.transpose(0, 3, 1, 2), clip.actions_TA
    wrong = actions.copy()
    wrong[3, 15] = 11
    cases = [
        ({"images": images}, RecordingError, "no array actions"),
        (
            {"images": clip.frames_THWC, "actions": actions},
            RecordingError,
            r"shape \(5, 6, 10, 3\); expected",
        ),
        ({"images": images / 255, "actions": actions}, RecordingError, "float64; expected uint8"),
        ({"images": images, "actions": actions[:-1]}, RecordingError, "5 pictures but 4 actions"),
        ({"images": images, "actions": actions[0]}, RecordingError, r"expected \(T, 16\)"),
        ({"images": images, "actions": actions[:, :9]}, ActionError, "16 numbers"),
        ({"images": images, "actions": wrong}, ActionError, "row 4, right_stick_y is 11"),
        ({"images": images, "actions": np.array([object()] * 5)}, RecordingError, "other than numbers"),
        ({"images": images, "actions": np.full((5, 16), "a")}, RecordingError, "<U1 of shape .* numbers"),
    ]
    for arrays, error, says in cases:
        np.savez(tmp_path / "a.npz", **arrays)
        with pytest.raises(error, match=says) as caught:
            read_clip(tmp_path / "a.npz")
        assert "a.npz" in str(caught.value)


def test_a_damaged_archive_is_said(tmp_path, clip):
    write_clip(tmp_path / "whole.npz", clip)
    whole = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "bent.npz").write_bytes(whole[:200] + bytes(100) + whole[300:])
    (tmp_path / "text.npz").write_text("hello")
    entry = whole.index(b"PK\1\2")  # in the directory
    (tmp_path / "later.npz").write_bytes(whole[: entry + 6] + b"\xa0" + whole[entry + 7 :])  # version of the format
    for name in ("cut", "bent", "text", "later", "missing"):
        with pytest.raises(RecordingError, match=f"{name}.npz"):
            read_clip(tmp_path / f"{name}.npz")


def pack(path: Path, method: int, *, rows: int, content: int, said: int | None = None) -> None:
    """An archive of one array of `rows` zeros, with `content` of them inside and `said` bytes in its directory."""
    with zipfile.ZipFile(path, "w", method) as archive:
        with archive.open("a.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (rows,)})
            file.write(bytes(content))
        archive.filelist[0].file_size = said or archive.filelist[0].file_size


def test_what_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path):
    pack(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, rows=10, content=10, said=3 << 30)
    with pytest.raises(RecordingError, match="too large"):
        read_npz(tmp_path / "a.npz", ("a",))


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_LZMA])
def test_a_directory_that_lies_about_sizes_gains_no_memory(tmp_path, method):
    pack(tmp_path / "a.npz", method, rows=1 << 26, content=1 << 27, said=(1 << 26) + 128)
    tracemalloc.start()
    with suppress(RecordingError):
        read_npz(tmp_path / "a.npz", ("a",))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 180_000_000, "64 MiB of array and a piece; decompressed in one go it was 300 MB"


@pytest.mark.parametrize("packing", ["fast", "small"])
def test_equal_arrays_are_equal_files_that_any_numpy_reads(tmp_path, clip, packing, monkeypatch):
    """np.savez puts the clock into the archive, so the same dream twice made two different files."""
    arrays = {"frames": clip.frames_THWC, "flag": np.array(True), "text": np.array("playloom")}
    write_npz(tmp_path / "a.npz", arrays, packing=packing)
    monkeypatch.setattr("time.time", lambda: 2_000_000_000.0)
    write_npz(tmp_path / "b.npz", {name: array.copy() for name, array in arrays.items()}, packing=packing)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    with np.load(tmp_path / "a.npz", allow_pickle=False) as again:
        assert all(np.array_equal(again[name], array) for name, array in arrays.items())
    assert npz_names(tmp_path / "a.npz") == ("frames", "flag", "text")
    assert list(read_npz(tmp_path / "a.npz", ("text",))) == ["text"]
    assert all(info.date_time[0] == 1980 for info in zipfile.ZipFile(tmp_path / "a.npz").infolist())


def test_a_dream_goes_out_with_the_references_names(tmp_path, clip):
    given = np.array([True, True, False, False])
    write_dream_clip(
        tmp_path / "a.npz",
        context_THWC=clip.frames_THWC[:2],
        dreamed_SHWC=clip.frames_THWC[2:],
        actions_TA=clip.actions_TA[:4],
        given_T=given,
        manifest=MANIFEST,
        reconstructed_THWC=clip.frames_THWC,
    )
    with np.load(tmp_path / "a.npz", allow_pickle=False) as arrays:
        assert {name: (arrays[name].shape, str(arrays[name].dtype)) for name in arrays.files} == {
            "context_length": ((), "int64"),
            "steps_to_dream": ((), "int64"),
            "raw_context": ((2, 3, 6, 10), "uint8"),
            "dreamt_images": ((3, 3, 6, 10), "uint8"),
            "all_actions": ((5, 16), "float32"),
            "action_given": ((5,), "bool"),
            "manifest": ((), f"<U{len(MANIFEST.to_json())}"),
            "encoded_decoded_ground_truth_images": ((5, 3, 6, 10), "uint8"),
        }
        assert (int(arrays["context_length"]), int(arrays["steps_to_dream"])) == (2, 3)
        assert arrays["all_actions"][:, 14].tolist() == [0, 3, 5, 7, 5], "the open last step rests"
        assert arrays["action_given"].tolist() == [True, True, False, False, True]
        assert Manifest.from_json(str(arrays["manifest"])) == MANIFEST
    again = read_dream_clip(tmp_path / "a.npz")
    assert np.array_equal(again.frames_THWC, clip.frames_THWC)
    assert np.array_equal(again.actions_TA[:4], clip.actions_TA[:4])
