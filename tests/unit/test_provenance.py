"""The manifest survives its JSON, and the mark is on the copy only."""

import json

import numpy as np
import pytest

import playloom
from playloom.errors import BadInputError
from playloom.provenance import Manifest, created_at, frames_hash, stamp

MANIFEST = Manifest(
    model="tiny",
    weights="ab12",
    seed=7,
    mode="world",
    sampling={"temperature": 0.9, "top_k": None},
    order="diagonal",
    parent="ff",
    created="1970-01-01T00:00:00+00:00",
)


def test_a_manifest_survives_json():
    assert Manifest.from_json(MANIFEST.at_step(3).to_json()) == MANIFEST.at_step(3)
    bare = Manifest(model="tiny", weights="ab12", seed=7, mode="full")
    assert Manifest.from_json(bare.to_json()) == bare


def test_json_says_who_and_what_and_leaves_out_the_unknown():
    known = json.loads(Manifest(model="tiny", weights="ab12", seed=7, mode="full").to_json())
    assert known == {
        "generator": "playloom",
        "version": playloom.__version__,
        "model": "tiny",
        "weights": "ab12",
        "seed": 7,
        "mode": "full",
        "note": "generated",
    }


def test_the_time_can_be_pinned_and_is_now_otherwise():
    assert created_at() > "2024" and created_at().endswith("+00:00")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nonsense", "no playloom manifest"),
        ("[1]", "object"),
        ('{"model": "a", "weights": "b", "seed": 1, "mode": "x", "sede": 1}', "did you mean seed"),
        ('{"model": "a", "seed": 1}', "weights"),
    ],
)
def test_what_is_no_manifest_is_said(text, says):
    with pytest.raises(BadInputError, match=says):
        Manifest.from_json(text)


def test_the_hash_names_pictures_and_their_size():
    frames = np.arange(2 * 4 * 6 * 3, dtype=np.uint8).reshape(2, 4, 6, 3)
    assert frames_hash(frames) == frames_hash(frames.copy()) != frames_hash(frames.reshape(2, 6, 4, 3))
    changed = frames.copy()
    changed[0, 0, 0, 0] ^= 1
    assert frames_hash(changed) != frames_hash(frames)
    assert frames_hash(frames[:, ::-1]) == frames_hash(frames[:, ::-1].copy()), "strides must not matter"


@pytest.mark.parametrize("size", [(180, 300), (720, 1200), (8, 8), (1, 1), (90, 150)])
def test_the_mark_is_on_a_copy_in_the_lower_right_corner(size):
    frame = np.full((*size, 3), 128, np.uint8)
    marked = stamp(frame)
    assert (frame == 128).all() and marked.shape == frame.shape and marked.dtype == np.uint8
    changed = (marked != frame).any(axis=-1)
    assert changed[-1, -1] and changed.mean() > 0
    if min(size) >= 90:
        rows, columns = np.nonzero(changed)
        assert rows.min() > 0.85 * size[0] and columns.min() > 0.5 * size[1]
        # Legible: letters stand out from the badge, on more than a handful of pixels.
        badge = marked[rows.min() :, columns.min() :].astype(int).sum(axis=-1)
        assert (badge > 400).sum() > 40 and (badge < 100).mean() > 0.5


def test_the_mark_is_the_same_on_any_picture():
    dark, light = np.zeros((180, 300, 3), np.uint8), np.full((180, 300, 3), 255, np.uint8)
    same = (stamp(dark) == stamp(light)).all(axis=-1)
    assert 300 < same.sum() < 0.05 * same.size
