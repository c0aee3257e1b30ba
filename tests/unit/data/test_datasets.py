"""Stores: whole or absent, resumable, and exactly what was put in."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from playloom.actions.codec import mirror_values
from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.data.recording import (
    build_frame_dataset,
    choose_edited,
    load_episode,
    load_meta,
    save_episode,
    tokenise_frames,
    tokenise_recordings,
)
from playloom.errors import RecordingError
from playloom.models.presets import preset
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.artifacts import array_encoder
from training_toys import HEIGHT, SLOTS, WIDTH, episode, frame_dataset, render, scroll, stick_actions, token_dataset


def writer_of(folder, rows=8):
    return FrameDataset.create(folder, rows, height=4, width=6, state_columns=("x", "dead"))


def part(seed, rows=4):
    random = np.random.default_rng(seed)
    frames = random.integers(0, 256, (rows, 4, 6, 3)).astype(np.uint8)
    states = random.random((rows, 2)).astype(np.float32)
    return frames, stick_actions(rows, seed), states, {"split": "train", "seed": seed}


def test_a_store_gives_back_what_was_written(tmp_path):
    store = token_dataset(tmp_path, episodes=3, steps=10)
    assert store.tokens_FN.shape == (30, SLOTS)
    assert store.tokens_FN.dtype == np.uint16
    assert [span.start for span in store.spans] == [0, 10, 20]
    assert (store.actions_FA[store.spans[2].rows] == stick_actions(10, 2)).all()
    assert len(store.of_split("train")) == 2
    assert store.tokenizer == "toy"


def test_an_unfinished_store_cannot_be_opened_and_goes_on_where_it_stopped(tmp_path):
    writer = writer_of(tmp_path)
    writer.append_episode(*part(0))
    with pytest.raises(RecordingError, match="unfinished"):
        FrameDataset.open(tmp_path)
    with pytest.raises(RecordingError, match="4 of 8"):
        writer.finish()
    del writer
    again = writer_of(tmp_path)
    assert again.has(0, 4, part(0)[3])
    assert not again.has(0, 4, part(1)[3])
    again.append_episode(*part(1))
    again.finish()
    store = FrameDataset.open(tmp_path)
    assert (store.frames_FHWC == np.concatenate([part(0)[0], part(1)[0]])).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["actions.npy", "frames.npy", "index.json", "states.npy"]


def test_a_writer_of_another_shape_starts_anew(tmp_path):
    writer_of(tmp_path, rows=8).append_episode(*part(0))
    assert writer_of(tmp_path, rows=12).done == 0


@pytest.mark.parametrize(
    "wrong", [np.full((2, 2), 70000), np.zeros((2, 2), np.float32), np.zeros((2, 1, 2), np.uint16)]
)
def test_rows_that_do_not_fit_are_refused(tmp_path, wrong):
    """Codes above 65,535 were wrapped, fractions cut off, and other shapes read in another order."""
    writer = TokenDataset.create(tmp_path, 2, slots=2, tokenizer="toy", state_columns=())
    with pytest.raises(RecordingError, match="tokens do not fit"):
        writer.append_episode(wrong, np.zeros((2, 16), np.uint8), np.zeros((2, 0), np.float32), {})


def test_damage_is_one_sentence(tmp_path):
    token_dataset(tmp_path)
    with pytest.raises(RecordingError, match="tokens"):
        FrameDataset.open(tmp_path)
    whole = (tmp_path / "tokens.npy").read_bytes()
    for data in (whole[:500], b"", whole.replace(b")", b" ", 1)):
        (tmp_path / "tokens.npy").write_bytes(data)
        with pytest.raises(RecordingError, match=r"tokens\.npy"):
            TokenDataset.open(tmp_path)
    np.save(tmp_path / "tokens.npy", np.zeros((3, SLOTS), np.uint16))
    with pytest.raises(RecordingError, match="3 rows"):
        TokenDataset.open(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    nameless = {key: value for key, value in index.items() if key != "tokenizer"}
    for wrong in ("{", '{"kind": "tokens"}', json.dumps({**index, "episodes": [{}]}), json.dumps(nameless)):
        (tmp_path / "index.json").write_text(wrong)
        with pytest.raises(RecordingError, match="damaged"):
            TokenDataset.open(tmp_path)
    with pytest.raises(RecordingError, match="dataset"):
        TokenDataset.open(tmp_path / "nowhere")


def test_a_store_larger_than_the_disk_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(RecordingError, match="GB free"):
        FrameDataset.create(tmp_path, 10**12, height=180, width=300, state_columns=("x",))


def recordings(folder, count=3):
    return [save_episode(folder, episode(seed)) for seed in range(count)]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])  # one: a process
def test_rendering_fills_the_store_with_the_renderers_pictures(tmp_path, workers):
    seen = []
    paths = recordings(tmp_path / "rec", 2)
    store = build_frame_dataset(
        tmp_path / "frames", paths, render, workers=workers, progress=lambda *now: seen.append(now)
    )
    assert store.frames_FHWC.shape == (24, HEIGHT, WIDTH, 3)
    for seed, span in enumerate(store.spans):
        assert (store.frames_FHWC[span.rows] == scroll(stick_actions(12, seed))).all()
        assert span.meta["seed"] == seed
    assert seen == [(12, 24), (24, 24)]


def too_short(recording):
    yield from list(render(recording))[:-1]


def test_a_renderer_that_gives_another_number_of_pictures_is_caught(tmp_path):
    with pytest.raises(RecordingError, match="11 pictures"):
        build_frame_dataset(tmp_path / "frames", recordings(tmp_path / "rec"), too_short)
    with pytest.raises(RecordingError, match="no recordings"):
        build_frame_dataset(tmp_path / "none", [], render)


def test_interrupted_rendering_goes_on_without_rendering_again(tmp_path):
    rendered = []
    interrupted = True

    def until_two(recording):
        if recording.meta.seed == 2 and interrupted:
            raise KeyboardInterrupt
        rendered.append(recording.meta.seed)
        return render(recording)

    paths = recordings(tmp_path / "rec")
    with pytest.raises(KeyboardInterrupt):
        build_frame_dataset(tmp_path / "frames", paths, until_two)
    rendered.clear()
    interrupted = False
    store = build_frame_dataset(tmp_path / "frames", paths, until_two)
    assert rendered == [0, 2]  # the first picture of episode 0 tells the size
    assert (store.frames_FHWC[store.spans[1].rows] == scroll(stick_actions(12, 1))).all()


def test_both_ways_to_codes_agree_with_the_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr("playloom.data.recording._BATCH", 5)
    tokenizer = FrameTokenizer(preset("tiny").tokenizer).eval()
    paths = recordings(tmp_path / "rec")
    frames = build_frame_dataset(tmp_path / "frames", paths, render)
    long = tokenise_frames(tmp_path / "a", frames, array_encoder(tokenizer), fingerprint="f")
    short = tokenise_recordings(tmp_path / "b", paths, render, array_encoder(tokenizer), fingerprint="f")
    assert (long.tokens_FN == short.tokens_FN).all()
    assert (long.states_FS == short.states_FS).all()
    codes = tokenizer.encode(torch.from_numpy(np.array(frames.frames_FHWC))).numpy()
    assert (long.tokens_FN == codes).all()
    assert not list((tmp_path / "b").glob(".rows-*"))


def test_codes_of_other_frames_take_the_place_of_interrupted_ones(tmp_path):
    def encode(pictures):
        return pictures[:, 0, :2, 0].astype(np.uint16)

    def stop(done, total):
        raise KeyboardInterrupt

    frames = frame_dataset(tmp_path / "frames")
    with pytest.raises(KeyboardInterrupt):
        tokenise_frames(tmp_path / "codes", frames, encode, fingerprint="f", progress=stop)
    others = dataclasses.replace(
        frames, spans=tuple(dataclasses.replace(span, meta={**span.meta, "seed": 77}) for span in frames.spans)
    )
    codes = tokenise_frames(tmp_path / "codes", others, encode, fingerprint="f")
    assert {span.meta["seed"] for span in codes.spans} == {77}
    assert (codes.tokens_FN == frames.frames_FHWC[:, 0, :2, 0]).all()


def test_mirrored_episodes_have_mirrored_pictures_and_controllers(tmp_path):
    tokenizer = FrameTokenizer(preset("tiny").tokenizer).eval()
    frames = frame_dataset(tmp_path / "frames")
    store = tokenise_frames(tmp_path / "a", frames, array_encoder(tokenizer), fingerprint="f", mirror=True)
    assert [bool(span.meta.get("mirrored")) for span in store.spans] == [False, False, False, True, True]
    plain, mirrored = store.spans[1], store.spans[3]
    assert (store.actions_FA[mirrored.rows] == mirror_values(store.actions_FA[plain.rows])).all()
    flipped = np.ascontiguousarray(frames.frames_FHWC[plain.rows][:, :, ::-1])
    assert (store.tokens_FN[mirrored.rows] == tokenizer.encode(torch.from_numpy(flipped)).numpy()).all()


def test_index_is_plain_json(tmp_path):
    token_dataset(tmp_path)
    index = json.loads((tmp_path / "index.json").read_text())
    assert index["kind"] == "tokens"
    assert index["episodes"][1] == {"start": 30, "length": 30, "meta": {"split": "train", "seed": 1}}


def negative(recording):
    return (255 - frame for frame in render(recording))


def test_edited_episodes_are_added_for_training_and_not_rendered_again(tmp_path):
    tokenizer = FrameTokenizer(preset("tiny").tokenizer).eval()
    paths = recordings(tmp_path / "rec", 5)  # the first validates
    edited = choose_edited(paths, 0.5)
    assert len(edited) == 2 and edited == choose_edited(paths, 0.5) and paths[0] not in edited
    assert choose_edited(paths, 0) == [] and choose_edited(paths, 1) == paths[1:]
    with pytest.raises(RecordingError, match=r"1\.5"):
        choose_edited(paths, 1.5)
    done = []

    def broken(recording):
        done.append(recording.meta.seed)
        return negative(recording) if len(done) == 1 else too_short(recording)

    shared = {"fingerprint": "f", "edited": edited}
    with pytest.raises(RecordingError, match="11 pictures"):
        tokenise_recordings(tmp_path / "a", paths, render, array_encoder(tokenizer), render_edited=broken, **shared)
    done.clear()
    store = tokenise_recordings(tmp_path / "a", paths, render, array_encoder(tokenizer), render_edited=broken, **shared)
    assert done == [load_meta(edited[1]).seed]
    assert [bool(span.meta.get("edited")) for span in store.spans] == [False] * 5 + [True] * 2
    for path, span in zip(edited, store.spans[5:], strict=True):
        recording = load_episode(path)
        assert span.meta["seed"] == recording.meta.seed and span.meta["split"] == "train"
        assert (store.actions_FA[span.rows] == recording.actions_TA).all()
        frames = torch.from_numpy(np.stack(list(negative(recording))))
        assert (store.tokens_FN[span.rows] == tokenizer.encode(frames).numpy()).all()
