"""Models on disk: round trips, and every kind of damage as one sentence."""

import dataclasses
import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

import playloom
from conftest import loud_model, tiny_config
from playloom.cli.app import app
from playloom.errors import CheckpointError, StorageError
from playloom.models.card import model_card
from playloom.models.checkpoint import load_model, save_model
from playloom.models.folder import copy_model, fingerprint, model_folder, read_card, update_card
from playloom.training.artifacts import load_origin, load_tokenizer, save_tokenizer
from playloom.training.checkpoint import Snapshot, save_snapshot


@pytest.fixture
def saved(tmp_path, tiny_model):
    save_model(tmp_path / "model", tiny_model, dtype=None)
    return tmp_path / "model"


def test_a_model_comes_back_as_it_went(saved, tiny_model):
    again = load_model(saved)
    assert again.config == tiny_model.config
    for name, tensor in tiny_model.transformer.state_dict().items():
        assert torch.equal(again.transformer.state_dict()[name], tensor)
    assert not again.transformer.training and again.fingerprint == load_model(saved).fingerprint


@pytest.mark.parametrize("mask", [0o022, 0o027])
def test_every_file_has_the_mode_that_the_umask_asks_for(tmp_path, tiny_model, mask):
    """Weights of mode 0600 cannot be served by another user."""
    before = os.umask(mask)
    try:
        save_model(tmp_path / "model", tiny_model)
        save_tokenizer(tmp_path / "tokenizer", tiny_model.tokenizer)
        weights = dict(tiny_model.transformer.state_dict())
        save_snapshot(tmp_path / "run", Snapshot(1, 0, 0.0, 0.0, {}, weights), keep=1)
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o777 for path in files} == {0o666 & ~mask}
    assert len([path for path in files if path.suffix == ".safetensors"]) == 4


def test_a_models_card_is_shown_by_its_name_or_folder(saved, tiny_model):
    out = CliRunner().invoke(app, ["models", "arena-live"], catch_exceptions=False).output
    assert out.startswith("# Model arena-live\n") and "FAIL" not in out
    assert "playloom dream" in CliRunner().invoke(app, ["models", str(saved)], catch_exceptions=False).output
    (saved / "card.md").unlink()
    assert read_card(str(saved)) == model_card(tiny_model.config, {}), "made from model.json where there is none"
    with pytest.raises(CheckpointError, match="arena-live"):
        read_card("arena-liv")


def test_half_precision_halves_the_file_and_keeps_the_numbers_close(tmp_path, tiny_model, saved):
    save_model(tmp_path / "half", tiny_model)
    whole, half = (folder / "transformer.safetensors" for folder in (saved, tmp_path / "half"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    weight = load_model(tmp_path / "half").transformer.token.weight
    assert weight.dtype == torch.float32
    torch.testing.assert_close(weight, tiny_model.transformer.token.weight, rtol=1e-3, atol=1e-4)


def test_a_truncated_file_is_a_sentence(saved):
    path = saved / "transformer.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(saved)


def test_weights_of_another_config_name_the_tensor(saved):
    other = tiny_config()
    other = dataclasses.replace(other, transformer=dataclasses.replace(other.transformer, width=16))
    content = json.loads((saved / "model.json").read_text())
    content["config"] = other.to_dict()
    (saved / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"does not fit the config beside it \(size mismatch for token\.weight"):
        load_model(saved)


def test_nan_weights_are_refused(saved):
    path = saved / "transformer.safetensors"
    state = load_file(path)
    state["norm.bias"][0] = torch.nan
    save_file(state, path)
    content = json.loads((saved / "model.json").read_text())
    content["weights"][path.name] = fingerprint(path)
    (saved / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=r"norm\.bias"):
        load_model(saved)


def test_swapped_weights_are_noticed(saved, tmp_path):
    save_model(tmp_path / "other", loud_model(tiny_config(), seed=1), dtype=None)
    (saved / "transformer.safetensors").write_bytes((tmp_path / "other" / "transformer.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match="not the file"):
        load_model(saved)


def test_missing_and_unknown_folders_are_sentences(tmp_path, saved):
    (saved / "tokenizer.safetensors").unlink()
    with pytest.raises(CheckpointError, match="missing"):
        load_model(saved)
    with pytest.raises(CheckpointError, match=r"model\.json"):
        load_model(tmp_path / "nothing")
    with pytest.raises(CheckpointError, match="neither"):
        model_folder(str(tmp_path / "nothing"))


@pytest.mark.parametrize("text", ["x" * 300, "x" * 300 + "/y", "\0"])
def test_a_text_that_no_path_can_be_is_a_sentence(text):
    for load in (model_folder, load_model, read_card, load_origin, playloom.load):
        with pytest.raises(CheckpointError, match=r"model\.json"):
            load(text)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        load_tokenizer(Path(text))


@pytest.mark.parametrize("text", ["{", "[" * 100_000])
def test_a_damaged_json_is_a_sentence(saved, text):
    (saved / "model.json").write_text(text)
    with pytest.raises(CheckpointError, match="damaged"):
        load_model(saved)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": 2}, "of format 2"),
        ({"format": None}, "of format None"),
        ({"card": "good"}, "card"),
        ({"card": {"row_delay": "1"}}, "row_delay is wrong"),
        ({"card": {"sampling": 5}}, "sampling is wrong"),
        ({"card": {"sampling": {"temperature": "hot"}}}, "temperature is wrong"),
        ({"card": {"sampling": {"temprature": 1}}}, "did you mean temperature"),
        ({"weights": {}}, "it has no 'tokenizer.safetensors'"),
    ],
)
def test_what_model_json_may_not_say(saved, change, words):
    content = json.loads((saved / "model.json").read_text())
    (saved / "model.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(CheckpointError) as caught:
        load_model(saved)
    assert words in str(caught.value)


def test_a_card_of_a_damaged_folder_is_a_sentence(saved):
    (saved / "card.md").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"card\.md cannot be read"):
        read_card(str(saved))
    (saved / "card.md").unlink()
    (saved / "model.json").write_text('{"format": 1}')
    with pytest.raises(CheckpointError, match="it has no 'config'"):
        read_card(str(saved))


def test_a_model_copied_onto_itself_stays(saved):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    copy_model(saved, saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@contextmanager
def no_room_beyond(size):
    """No file may grow larger than this, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_the_model_that_was_there(saved, tmp_path):
    """Its files were replaced one by one, so the new tokenizer stood beside the old transformer, without graphs."""
    (saved / "transformer.onnx").write_text("graph")
    (saved / "notes.txt").write_text("mine")
    other = loud_model(tiny_config(), seed=1)
    save_model(tmp_path / "other", other, dtype=None)
    before, largest = contents(saved), max(path.stat().st_size for path in saved.iterdir())
    with no_room_beyond(largest - 1):
        with pytest.raises(StorageError, match="no room"):
            save_model(saved, other, dtype=None)
        with pytest.raises(StorageError, match="no room"):
            copy_model(tmp_path / "other", saved)
    assert contents(saved) == before
    copy_model(tmp_path / "other", saved)
    copied = {**contents(tmp_path / "other"), Path("notes.txt"): b"mine"}
    assert contents(saved) == copied, "graphs of other weights go, the user's files stay"


def test_a_card_keeps_what_was_measured_while_the_weights_are_the_same(saved, tiny_model):
    update_card(saved, {"evaluation": {"rows": []}, "row_delay": 3})
    save_model(saved, dataclasses.replace(tiny_model, card={"row_delay": 2}), dtype=None, keep_measured=True)
    assert load_model(saved).card == {"evaluation": {"rows": []}, "row_delay": 3}
    save_model(saved, dataclasses.replace(tiny_model, card={"row_delay": 2}), keep_measured=True)
    assert load_model(saved).card == {"row_delay": 2}, "rounded weights are others"
    (saved / "model.json").write_text("{")
    save_model(saved, tiny_model, keep_measured=True)
    assert load_model(saved).card == {}, "a damaged folder is repaired"


def test_figures_follow_the_model(saved, tmp_path, tiny_model):
    """The card of a copy, and of a model with new heads, said that nothing was measured."""
    row = {"part": "horizon", "name": "PSNR | step 1", "value": 20.0, "unit": "dB", "baselines": {"repeat": None}}
    row |= {"bar": "", "passed": True, "count": 4, "error": 0.5}
    update_card(saved, {"evaluation": {"rows": [row]}})
    save_model(tmp_path / "copy", load_model(saved))
    for folder in (saved, tmp_path / "copy"):
        assert "| horizon | PSNR \\| step 1 | 20.00 ± 0.50 dB | repeat n/a |  | reached |" in read_card(str(folder))


def test_a_layer_and_a_half_is_a_sentence(saved):
    content = json.loads((saved / "model.json").read_text())
    content["config"]["transformer"]["layers"] = 1.5
    (saved / "model.json").write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match="layers"):
        load_model(saved)


@pytest.mark.parametrize("value", [10**9, 1e308, float("inf"), float("nan"), -1, None, "x", [10**9], True])
def test_absurd_sizes_are_sentences(saved, value):
    """A billion layers hung, a billion recent outputs took the machine's memory, a width of 1e308 was a traceback."""
    whole = json.loads((saved / "model.json").read_text())
    for part in ("tokenizer", "transformer"):
        for name, before in whole["config"][part].items():
            if isinstance(before, bool) or name in ("revive_after", "local_steps", "kv_heads"):
                continue
            sizes = {**whole["config"][part], name: [value] * len(before) if isinstance(before, list) else value}
            config = {**whole["config"], part: sizes}
            (saved / "model.json").write_text(json.dumps({**whole, "config": config}))
            with pytest.raises(CheckpointError):
                load_model(saved)


def test_a_card_has_the_facts_of_each_training(tiny_model):
    """Values that were not finite are null in JSON."""
    part = {"updates": 1200, "training_seconds": 90.0, "hardware": "CPU", "validation": {"psnr": 20.0, "x": None}}
    data = {"frames": 5000, "episodes": 9, "train_seeds": [0, 1, 2, 7], "players": {"rusher": 9}}
    card = {
        **part,
        "data": data,
        "start": {},
        "row_delay": 2,
        "sampling": None,
        "settings": {"a": 1},
    }
    text = model_card(tiny_model.config, card)
    assert "* 1,200 updates in 1.5 minutes on CPU; last validation: psnr 20\n" in text
    assert "initialised from another model" in text
    data |= {"edited_episodes": 2, "mirrored_episodes": 3}
    copies = "9 episodes, 2 of them edited copies, 3 of them mirrored copies\n"
    assert copies in model_card(tiny_model.config, {"data": data})
    assert "5,000 frames in 9 episodes\n" in text and "training seeds: 0-2, 7" in text and "rusher 9" in text
    assert "row delay 2" in text and '"a": 1' in text
