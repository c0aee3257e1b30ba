"""Decoder training: pictures change, and nothing else does."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from conftest import loud_model
from playloom.cli.app import app
from playloom.data.dataset import TokenDataset
from playloom.errors import CheckpointError, ConfigError, RecordingError
from playloom.models.checkpoint import load_model, save_model
from playloom.models.folder import read_card
from playloom.models.tokenizer.losses import TokenizerLossConfig
from playloom.training.artifacts import load_origin, load_tokenizer
from playloom.training.checkpoint import load_newest
from playloom.training.data_source import PrepareOptions
from playloom.training.decoder import DecoderJob, DecoderTask, DecoderTrainingConfig, deepen_decoder, run_decoder
from playloom.training.task import StepContext
from playloom.training.tokenizer import train_tokenizer
from training_toys import TINY, frame_store, loop, read_log, render, tokenizer_config

GAN = TokenizerLossConfig(adversarial=0.1, discriminator_width=8, discriminator_layers=1)
DEEPER = {"decoder_blocks": tuple(n + 1 for n in TINY.tokenizer.decoder_blocks), "decoder_layers": 2}
SILENT = {"say": lambda sentence: None}


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    return frame_store(tmp_path_factory.mktemp("frames"))


@pytest.fixture(scope="module")
def tokenizer_run(frames, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TINY.tokenizer, tokenizer_config(steps=40, learning_rate=3e-3), frames, out)
    return out


@pytest.fixture(scope="module")
def model(tokenizer_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    whole = loud_model(TINY)
    card = {"row_delay": 1, "evaluation": {"rows": []}}
    save_model(folder, dataclasses.replace(whole, tokenizer=load_tokenizer(tokenizer_run).tokenizer, card=card))
    return folder


def config(**settings):
    own = {name: settings.pop(name) for name in list(settings) if name in DecoderTrainingConfig.__dataclass_fields__}
    return DecoderTrainingConfig(loop=loop(**settings), **{"validation_pictures": 8, **own})


def job(source, frames, out, **settings):
    return DecoderJob(
        source=str(source),
        data=frames.folder,
        out=out,
        config=config(**settings),
        prepare=PrepareOptions(render=render),
    )


def test_codes_and_all_that_makes_them_stay_bit_for_bit(frames, model, tmp_path):
    result = run_decoder(job(model, frames, tmp_path, steps=30, learning_rate=3e-3, **DEEPER), **SILENT)
    assert result.path == tmp_path / "model"
    assert (result.path / "transformer.safetensors").read_bytes() == (model / "transformer.safetensors").read_bytes()
    before, after = (load_file(folder / "tokenizer.safetensors") for folder in (model, result.path))
    kept = [name for name in before if not name.startswith("decoder.")]
    assert any(name.startswith("encoder.") for name in kept) and "quantizer.codebook_KC" in kept
    for name in kept:
        assert before[name].numpy().tobytes() == after[name].numpy().tobytes(), name
    assert {name for name in after if not name.startswith("decoder.")} == set(kept)
    old, new = load_model(model), load_model(result.path)
    assert new.config.tokenizer == dataclasses.replace(old.config.tokenizer, **DEEPER)
    assert new.config.transformer == old.config.transformer
    pictures = torch.from_numpy(np.array(frames.frames_FHWC))
    assert torch.equal(new.tokenizer.encode(pictures), old.tokenizer.encode(pictures))
    assert (TokenDataset.open(tmp_path / "codes").tokens_FN == old.tokenizer.encode(pictures).numpy()).all()


def test_it_learns_and_the_card_tells(frames, model, tmp_path):
    result = run_decoder(job(model, frames, tmp_path, steps=60, learning_rate=3e-3, ema_decay=0.9), **SILENT)
    log = [line for line in read_log(tmp_path) if "psnr" in line]
    assert np.mean([line["psnr"] for line in log[-5:]]) > log[0]["psnr"] + 0.5
    assert {"psnr", "ssim", "sharpness"} <= set(result.validation)
    card = load_model(result.path).card
    assert card["row_delay"] == 1
    assert "decoder, fine-tuned: 60 updates" in read_card(str(result.path))
    assert [one["updates"] for one in card["decoder"]] == [60]
    assert card["decoder"][0]["before"] == load_origin(str(model)).name
    assert "evaluation" not in card  # those figures were of the old decoder
    twice = run_decoder(job(result.path, frames, tmp_path / "again", steps=1), **SILENT)
    assert [one["updates"] for one in load_model(twice.path).card["decoder"]] == [60, 1]
    assert (tmp_path / "previews" / "step-000000060.png").exists()


def test_a_tokenizers_run_gives_a_tokenizer(frames, tokenizer_run, tmp_path):
    result = run_decoder(job(tokenizer_run, frames, tmp_path, steps=3), **SILENT)
    assert result.path == tmp_path
    old, new = (load_tokenizer(folder).tokenizer for folder in (tokenizer_run, tmp_path))
    pictures = torch.from_numpy(np.array(frames.frames_FHWC[:8]))
    codes = old.encode(pictures)
    assert torch.equal(new.encode(pictures), codes)
    assert not torch.equal(new.decode(codes), old.decode(codes))


def test_a_deeper_decoder_begins_with_the_same_pictures(tokenizer_run):
    old = load_tokenizer(tokenizer_run).tokenizer
    grown = deepen_decoder(old, blocks=DEEPER["decoder_blocks"], layers=2, seed=1)
    codes = torch.randint(0, old.config.codebook_size, (4, old.config.image_slots))
    assert sum(p.numel() for p in grown.decoder.parameters()) > sum(p.numel() for p in old.decoder.parameters())
    assert torch.equal(grown.decode(codes), old.decode(codes))
    trained = {name.split(".")[0] for name, weight in grown.named_parameters() if weight.requires_grad}
    assert trained == {"decoder"}
    with pytest.raises(ConfigError, match="decoder_blocks"):
        deepen_decoder(old, blocks=(1, 1, 1, 1), layers=None, seed=0)


def test_a_resumed_gan_is_exact(frames, tokenizer_run, tmp_path):
    settings = {"loss": GAN, "adversarial_from": 0.5, "steps": 6, "ema_decay": 0.9, **DEEPER}
    run_decoder(job(tokenizer_run, frames, tmp_path / "whole", **settings), **SILENT)
    lines = [line for line in read_log(tmp_path / "whole") if "loss" in line]
    assert ["discriminator" in line for line in lines] == [False] * 3 + [True] * 3
    for _ in range(6):
        run_decoder(job(tokenizer_run, frames, tmp_path / "parts", **settings, max_minutes=1e-9), **SILENT)
    whole, parts = (load_newest(tmp_path / name / "checkpoints").tensors for name in ("whole", "parts"))
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    assert not any("encoder" in name or "quantizer" in name for name in whole)
    with pytest.raises(CheckpointError, match="another run"):
        run_decoder(job(tokenizer_run, frames, tmp_path / "whole", steps=6), **SILENT)


def test_neither_module_gets_the_others_gradients(frames, tokenizer_run, tmp_path):
    codes = TokenDataset.open(made_codes(frames, tokenizer_run, tmp_path))
    grown = deepen_decoder(load_tokenizer(tokenizer_run).tokenizer, blocks=None, layers=None, seed=0)
    task = DecoderTask(grown, config(loss=GAN, adversarial_from=0.0), frames, codes)
    context = StepContext(3, 0.5, np.random.default_rng(0))
    seen = []
    for part in task.losses(task.modules, task.batch(0), context):
        part.loss.backward()
        seen.append({n: any(p.grad is not None for p in m.parameters()) for n, m in task.modules.items()})
        for module in task.modules.values():
            module.zero_grad(set_to_none=True)
    assert seen == [{"decoder": True, "discriminator": False}, {"decoder": False, "discriminator": True}]


def test_codes_of_other_episodes_are_refused(frames, tokenizer_run, tmp_path):
    made_codes(frames, tokenizer_run, tmp_path)
    fewer = frame_store(tmp_path / "fewer", episodes=2)
    with pytest.raises(RecordingError, match="36 frames"):
        run_decoder(job(tokenizer_run, fewer, tmp_path / "run", steps=2), **SILENT)
    longer = frame_store(tmp_path / "longer", episodes=2, steps=18)
    with pytest.raises(RecordingError, match="other episodes"):
        run_decoder(job(tokenizer_run, longer, tmp_path / "run", steps=2), **SILENT)


def test_what_is_no_model_is_one_sentence(frames, tmp_path):
    with pytest.raises(CheckpointError, match="neither"):
        run_decoder(job(tmp_path, frames, tmp_path / "run", steps=1), **SILENT)
    for values, message in (
        ({"adversarial_from": 2.0}, "adversarial_from"),
        ({"validation_pictures": 0}, "validation_pictures"),
    ):
        with pytest.raises(ConfigError, match=message):
            config(**values)


def test_pictures_of_another_size_are_refused(frames, tmp_path):
    with pytest.raises(RecordingError, match="another size"):
        run_decoder(job("arena-live", frames, tmp_path / "run", steps=1), **SILENT)


def test_the_command_trains_resumes_and_refuses_other_sizes(frames, model, tmp_path):

    def playloom(*more):
        words = ["train", "decoder", "--model", model, "--data", frames.folder, "--out", tmp_path / "run", *more]
        result = CliRunner().invoke(app, [*map(str, words), "--steps", "2", "--batch", "4", "--device", "cpu"])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.output

    settings = tmp_path / "decoder.json"
    settings.write_text('{"decoder_layers": 2, "validation_pictures": 4, "loop": {"threads": 1}}')
    assert "36 frames in 3 episodes" in playloom("--config", settings, "--prepare-only")
    assert not (tmp_path / "run" / "checkpoints").exists()
    said = playloom("--config", settings)
    assert "finished after 2 steps" in said and f"result: {tmp_path / 'run' / 'model'}" in said.replace("\n", "")
    assert "finished after 2 steps" in playloom("--config", settings)
    settings.write_text('{"model": {}}')
    with pytest.raises(ConfigError, match="decoder_blocks"):
        playloom("--config", settings)
    settings.write_text('{"encoder_layers": 3}')
    with pytest.raises(ConfigError, match="encoder_layers"):
        playloom("--config", settings)


def made_codes(frames, tokenizer_run, folder):
    """The codes that a short run leaves."""
    run_decoder(job(tokenizer_run, frames, folder / "run", steps=1), **SILENT)
    index = json.loads((folder / "run" / "codes" / "index.json").read_text())
    assert index["rows"] == len(frames)
    return folder / "run" / "codes"
