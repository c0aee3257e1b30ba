"""Tokenizer training: it learns, the GAN's modules keep apart, and the export is float16."""

import dataclasses
import json

import numpy as np
import pytest
import torch

from playloom.data.dataset import FrameDataset
from playloom.errors import CheckpointError, PictureError
from playloom.models.presets import preset
from playloom.models.tokenizer.losses import TokenizerLossConfig
from playloom.models.tokenizer.metrics import PSNR_CAP
from playloom.training.artifacts import load_tokenizer
from playloom.training.checkpoint import load_newest
from playloom.training.task import StepContext
from playloom.training.tokenizer import TokenizerTask, train_tokenizer
from training_toys import HEIGHT, TINY, WIDTH, frame_dataset, read_log, scroll, stick_actions, tokenizer_config

GAN = TokenizerLossConfig(adversarial=0.1, discriminator_width=8, discriminator_layers=1)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return frame_dataset(tmp_path_factory.mktemp("frames"))


def train(store, out, **settings):
    return train_tokenizer(TINY.tokenizer, tokenizer_config(**settings), store, out)


def test_it_learns_and_the_export_is_rounded(store, tmp_path):
    run = train(store, tmp_path, steps=60, learning_rate=3e-3, validate_steps=1000)
    log = [line for line in read_log(tmp_path) if "psnr" in line]
    assert np.mean([line["psnr"] for line in log[-5:]]) > log[0]["psnr"] + 3
    for tensor in load_tokenizer(tmp_path).tokenizer.state_dict().values():
        if tensor.is_floating_point():
            assert torch.equal(tensor, tensor.half().float())
    assert set(run.validation) == {"psnr", "ssim", "sharpness", "codes_used", "code_perplexity"}
    assert 0 < run.validation["codes_used"] <= 1
    assert (tmp_path / "previews" / "step-000000060.png").exists()


def test_validation_pictures_of_one_colour_do_not_end_the_run(tmp_path):
    """A loading screen of one colour can be reconstructed exactly: its PSNR is infinite, and it has no sharpness."""
    writer = FrameDataset.create(tmp_path / "data", 24, height=HEIGHT, width=WIDTH, state_columns=())
    for split in ("train", "validation"):
        actions = stick_actions(12, seed=0)
        frames = scroll(actions) if split == "train" else np.full((12, HEIGHT, WIDTH, 3), 128, np.uint8)
        writer.append_episode(frames, actions, np.zeros((12, 0), np.float32), {"split": split})
    writer.finish()
    task = TokenizerTask(TINY.tokenizer, tokenizer_config(), FrameDataset.open(tmp_path / "data"))
    with torch.no_grad():
        for parameter in task.tokenizer.decoder.parameters():
            parameter.zero_()  # so it gives grey pictures
    found = task.validate()
    assert found["psnr"] == PSNR_CAP and "sharpness" not in found
    assert all(np.isfinite(value) for value in found.values())


def test_pictures_smaller_than_the_window_of_ssim_do_not_end_the_run(tmp_path):
    sizes = dataclasses.replace(TINY.tokenizer, frame_height=8, frame_width=12)
    writer = FrameDataset.create(tmp_path / "data", 12, height=8, width=12, state_columns=())
    actions = stick_actions(12, seed=0)
    writer.append_episode(scroll(actions, 8, 12), actions, np.zeros((12, 0), np.float32), {"split": "train"})
    writer.finish()
    run = train_tokenizer(sizes, tokenizer_config(steps=1), FrameDataset.open(tmp_path / "data"), tmp_path / "run")
    assert run.finished and "psnr" in run.validation and "ssim" not in run.validation


def test_the_discriminator_joins_late_and_a_resumed_gan_is_exact(store, tmp_path):
    settings = {"loss": GAN, "adversarial_from": 0.5, "brightness": 0.1, "mirror": True}
    train(store, tmp_path / "whole", steps=10, **settings)
    lines = [line for line in read_log(tmp_path / "whole") if "psnr" in line]
    assert ["discriminator" in line for line in lines] == [False] * 5 + [True] * 5
    assert ["adaptive_weight" in line for line in lines] == [False] * 5 + [True] * 5
    halves = tmp_path / "halves"
    train(store, halves, steps=10, max_minutes=1e-9, **settings)
    for _ in range(9):
        train(store, halves, steps=10, max_minutes=1e-9, **settings)
    whole, parts = (load_newest(out / "checkpoints").tensors for out in (tmp_path / "whole", halves))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert any(name.startswith("optimiser.discriminator") for name in whole)


def test_neither_module_gets_the_others_gradients(store):
    task = TokenizerTask(TINY.tokenizer, tokenizer_config(loss=GAN, adversarial_from=0.0), store)
    assert not any("discriminator" in name for name, _ in task.modules["tokenizer"].named_parameters())
    context = StepContext(3, 0.5, np.random.default_rng(0))
    seen = []
    for part in task.losses(task.modules, task.batch(0), context):
        part.loss.backward()
        seen.append({n: any(p.grad is not None for p in m.parameters()) for n, m in task.modules.items()})
        for module in task.modules.values():
            module.zero_grad(set_to_none=True)
    assert seen == [
        {"tokenizer": True, "discriminator": False},
        {"tokenizer": False, "discriminator": True},
    ]


def test_mirroring_and_brightness_reach_the_network(store):
    config = tokenizer_config(mirror=True, brightness=0.3)
    task = TokenizerTask(TINY.tokenizer, config, store)
    frames = torch.from_numpy(np.array(store.frames_FHWC[:8]))
    changed = task.augmented(frames, np.random.default_rng(1))
    assert changed.shape == frames.shape
    assert changed.dtype == torch.uint8
    assert not torch.equal(changed, frames)


def test_pictures_of_another_size_are_refused(store, tmp_path):
    with pytest.raises(PictureError, match="wrong size: got 24 x 16 pixels, expected 300 x 180"):
        train_tokenizer(preset("arena-small").tokenizer, tokenizer_config(), store, tmp_path)


def test_a_damaged_export_is_one_sentence(store, tmp_path):
    with pytest.raises(CheckpointError, match="first"):
        load_tokenizer(tmp_path)
    train(store, tmp_path, steps=1)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps({**content, "weights": "0" * 16}))
    with pytest.raises(CheckpointError, match="not the file"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(CheckpointError, match="damaged"):
        load_tokenizer(tmp_path)
