"""`playloom train`: recordings to a model that loads, by the commands a user types."""

import json
from contextlib import nullcontext
from dataclasses import replace
from threading import Event

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from playloom.cli.app import app
from playloom.data.dataset import FrameDataset, TokenDataset
from playloom.data.prompts import find_prompt, list_prompts, load_prompt_file, prompt_folder
from playloom.envs import WorldModelEnv
from playloom.errors import BadInputError, CheckpointError, ConfigError, PictureError, RecordingError
from playloom.media.clips import read_dream_clip
from playloom.models.checkpoint import load_model
from playloom.models.folder import read_card, update_card
from playloom.training.artifacts import load_origin, load_tokenizer
from playloom.training.data_source import detect_dataset_kind
from training_toys import HEIGHT, WIDTH, frame_dataset, read_log, scroll, stick_actions

WINDOWS = {"window_steps": 5, "validation_windows": 4}
SHORT = ["--preset", "tiny", "--steps", "3", "--batch", "4", "--device", "cpu", "--threads", "1"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return frame_dataset(tmp_path_factory.mktemp("frames"), episodes=4, steps=60).folder


def playloom(*words):
    result = CliRunner().invoke(app, ["train", *map(str, words)])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def failed(*words):
    """The complaint of a command with exit code 2."""
    result = playloom(*words)
    assert result.exit_code == 2
    return result.stderr


@pytest.fixture(scope="module")
def tokenizer(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer")
    result = playloom("tokenizer", "--data", data, "--out", out, *SHORT)
    assert result.exit_code == 0
    assert "finished after 3 steps" in result.output
    return out


@pytest.fixture(scope="module")
def trained(data, tokenizer, tmp_path_factory):
    """A world training that others start from."""
    out = tmp_path_factory.mktemp("trained")
    (out / "world.json").write_text(json.dumps(WINDOWS))
    words = ["world", "--data", data, "--tokenizer", tokenizer, "--config", out / "world.json", *SHORT]
    assert playloom(*words, "--out", out / "run").exit_code == 0
    return out / "run"


def test_frames_to_a_model_that_loads(data, tokenizer, tmp_path):
    config = tmp_path / "world.json"
    config.write_text(json.dumps({**WINDOWS, "loop": {"validate_steps": 2}}))
    words = ["world", "--data", data, "--tokenizer", tokenizer, "--out", tmp_path / "run", "--config", config]
    prepared = playloom(*words, *SHORT, "--prepare-only")
    assert "alignment aligned" in prepared.output
    assert not (tmp_path / "run" / "checkpoints").exists()
    result = playloom(*words, *SHORT)
    assert result.exit_code == 0
    previews = sorted(path.name for path in (tmp_path / "run" / "previews").iterdir())
    assert previews == ["step-000000002.png", "step-000000003.png"]
    model = load_model(tmp_path / "run" / "model")
    assert model.card["updates"] == 3
    for folder, said in ((tokenizer, "codes per frame"), (tmp_path / "run", "playloom dream --model FOLDER")):
        text = read_card(str(folder))
        assert said in text and "3 updates in" in text and "240 frames" in text and '"validate_steps"' in text
    frames = FrameDataset.open(data)
    store = TokenDataset.open(tmp_path / "run" / "tokens")
    codes = model.tokenizer.encode(torch.from_numpy(np.array(frames.frames_FHWC[:20]))).numpy()
    assert (store.tokens_FN[:20] == codes).all()
    measured = {"row_delay": 4, "sampling": {"temperature": 0.5}, "evaluation": {"run": {}, "rows": []}}
    update_card(tmp_path / "run" / "model", measured)
    before, log = load_model(tmp_path / "run" / "model"), read_log(tmp_path / "run")
    assert "finished after 3 steps" in playloom(*words, *SHORT).output
    after = load_model(tmp_path / "run" / "model")
    assert after.weights == before.weights and measured.items() <= after.card.items(), "its figures were lost"
    assert read_log(tmp_path / "run") == log
    with pytest.raises(ConfigError, match="already"):
        playloom(*words, *SHORT, "--resume", "never")


def test_a_model_carries_its_game(data, tokenizer, tmp_path, monkeypatch):
    """Its name, prompts of its own data, and what its controls do: in its folder, and wherever it is used."""
    config, controls, run = tmp_path / "world.json", tmp_path / "controls.toml", tmp_path / "run"
    config.write_text(json.dumps(WINDOWS))
    words = ["world", "--data", data, "--tokenizer", tokenizer, "--out", run, "--config", config, *SHORT]
    for text, said in (("[controls]\nbuton_A = 'jump'", "button_A"), ("[controls]\nbutton_A = 1", "button_A = 'jump'")):
        controls.write_text(text)
        with pytest.raises(ConfigError, match=said):
            playloom(*words, "--controls", controls)
    with pytest.raises(ConfigError, match="--name"):
        playloom(*words, "--name", " ")
    controls.write_text("[controls]\nright_stick_x = 'scroll'")
    playloom(*words, "--name", "Scroll world", "--controls", controls)
    model = load_model(run / "model")
    assert model.config.name == "Scroll world"
    moves = {name for name, words in model.card["controls"].items() if words is not None}
    assert moves == {"right_stick_x"} and len(model.card["controls"]) == 16
    assert "right_stick_x scroll; never moved in training: trigger_LT" in read_card(str(run))
    prompts = list_prompts(run / "model" / "prompts")
    assert prompts == ["Scroll_world"], "one episode of 60 steps validates"
    prompt = load_prompt_file(find_prompt(prompts[0], prompt_folder(run / "model")))
    frames = FrameDataset.open(data)
    assert np.array_equal(prompt.frames_THWC, frames.frames_FHWC[frames.of_split("validation")[0].rows])
    before = (run / "model" / "prompts" / "Scroll_world.npz").read_bytes()
    playloom(*words, "--name", "Other")
    assert load_model(run / "model").config.name == "Other", "the same run goes on under another name"
    assert (run / "model" / "prompts" / "Scroll_world.npz").read_bytes() == before
    monkeypatch.chdir(tmp_path)
    folder = ["--model", run / "model", "--steps", "1", "--device", "cpu", "--threads", "1"]
    for given in ([], ["--prompt", "Scroll_world"]):
        result = CliRunner().invoke(app, list(map(str, ["dream", *folder, *given, "--out", f"dream{len(given)}"])))
        assert result.exit_code == 0, result.exception
        manifest = read_dream_clip(tmp_path / f"dream{len(given)}" / "dream.npz").manifest
        assert manifest is not None and (manifest.model, manifest.prompt) == ("Other", "Scroll_world")
    env = WorldModelEnv(run / "model", max_steps=2)
    first, _ = env.reset(seed=0)
    assert np.array_equal(first, prompt.frames_THWC[model.config.transformer.context_steps - 1])
    env.close()


def test_one_command_trains_a_whole_model(data, tmp_path):
    """Its folder is all that is needed; the same command with more time goes on."""
    run = tmp_path / "mine"
    words = ["--data", data, "--out", run, "--device", "cpu", "--threads", "1"]
    short = [*words, "--preset", "tiny", "--minutes", "0.02"]
    with pytest.raises(BadInputError, match="before world"):
        playloom("--data", data, "world", "--out", run)
    for wrong, said in (
        (["--data", data], "--out"),
        ([*short[:-1], "0"], "minutes"),
        ([*short[:-1], "inf", "--data", tmp_path], "minutes"),  # before the data are looked at
        ([*short, "--data", tmp_path], "neither"),
        ([*short, "--start", "arena-live"], "--preset"),
    ):
        with pytest.raises((ConfigError, RecordingError), match=said):
            playloom(*wrong)
    done = playloom(*short)
    assert done.exit_code == 0 and done.output.rstrip().endswith(f"next: playloom serve --model {run / 'model'}")
    assert done.output.index("alignment aligned") < done.output.index("240 frames in 4 episodes")
    model, state = load_model(run / "model"), json.loads((run / "stages.json").read_text())
    assert model.config.name == data.name and state["tokenizer"] == model.card["tokenizer"]
    assert list_prompts(run / "model" / "prompts") == [data.name]
    settings = model.card["settings"]
    assert (settings["loop"]["optimizer"], settings["loop"]["batch"], settings["action_weight"]) == ("muon", 2, 4.0)
    assert settings["loop"]["minutes"] >= 0.02 / 2
    weights = (run / "tokenizer" / "tokenizer.safetensors").read_bytes()
    assert "alignment" not in playloom(*short[:-1], "0.05").output
    assert load_model(run / "model").card["updates"] > model.card["updates"], "more minutes are the world model's"
    assert (run / "tokenizer" / "tokenizer.safetensors").read_bytes() == weights
    finer = ["--data", data, "--out", tmp_path / "finer", "--start", run, *short[4:8], *short[-2:], "--name", "Finer"]
    assert playloom(*finer).exit_code == 0 and load_model(tmp_path / "finer" / "model").config.name == "Finer"
    assert load_tokenizer(tmp_path / "finer" / "tokenizer").ancestors == (state["tokenizer"],)


def test_a_stopped_tokenizer_goes_on_before_the_codes(data, tmp_path, monkeypatch):
    words = ["--data", data, "--out", tmp_path, "--preset", "tiny", "--device", "cpu", "--minutes"]
    stop = Event()
    stop.set()
    monkeypatch.setattr("playloom.training.loop.stop_requests", lambda: nullcontext(stop))
    stopped = playloom(*words, "9")
    assert stopped.exit_code == 3 and "saved at step 1" in stopped.output and "next" not in stopped.output
    assert not (tmp_path / "tokens").exists() and not (tmp_path / "stages.json").exists()
    monkeypatch.undo()
    assert playloom(*words, "0.02").exit_code == 0 and load_model(tmp_path / "model").card["updates"] > 0


def test_who_played_is_said_and_on_the_card(tokenizer, tmp_path):
    writer = FrameDataset.create(tmp_path / "played", 240, height=HEIGHT, width=WIDTH, state_columns=("x",))
    for seed, style in enumerate(("explorer", "model-tiny", "explorer", "model-tiny")):
        actions = stick_actions(60, seed)
        meta = {"split": "train" if seed else "validation", "style": style}
        writer.append_episode(scroll(actions), actions, np.zeros((60, 1), np.float32), meta)
    writer.finish()
    config = tmp_path / "world.json"
    config.write_text(json.dumps(WINDOWS))
    run = tmp_path / "run"
    words = ["world", "--data", tmp_path / "played", "--tokenizer", tokenizer, "--out", run, "--config", config]
    assert "in 4 episodes, played by explorer 1, model-tiny 2," in playloom(*words, *SHORT).output
    assert load_model(run / "model").card["data"]["players"] == {"explorer": 1, "model-tiny": 2}


def test_misaligned_data_end_the_run_unless_it_is_told_to_go_on(tokenizer, tmp_path):
    writer = FrameDataset.create(tmp_path / "late", 240, height=HEIGHT, width=WIDTH, state_columns=("x",))
    for seed in range(2):
        actions = stick_actions(121, seed)
        pictures = scroll(actions)[1:]
        writer.append_episode(pictures, actions[:-1], np.zeros((120, 1), np.float32), {"split": "train"})
    writer.finish()
    config = tmp_path / "world.json"
    config.write_text(json.dumps(WINDOWS))
    words = ["world", "--data", tmp_path / "late", "--tokenizer", tokenizer, "--out", tmp_path / "run", *SHORT]
    with pytest.raises(BadInputError, match="later"):
        playloom(*words, "--config", config)
    assert "do not fit" in playloom(*words, "--config", config, "--alignment", "warn").output


def test_bad_input_is_one_sentence(data, tmp_path):
    words = ["tokenizer", "--out", tmp_path / "run", *SHORT]
    with pytest.raises(RecordingError, match="neither"):
        playloom(*words, "--data", tmp_path)
    with pytest.raises(ConfigError, match="tiny"):
        playloom(*words, "--data", data, "--preset", "tinny")
    with pytest.raises(RecordingError, match="forgotten"):
        playloom(*words, "--data", tmp_path / "forgotten")
    config = tmp_path / "c.json"
    for text, message in (
        ('{"brightnes": 0.1}', "did you mean brightness"),
        ("[1]", "list"),
        ("{", "damaged"),
        ('{"model": {"nam": "x"}}', "did you mean name"),
        ('{"model": 5}', "model is 5; expected"),
        ('{"loop": 5}', "loop is 5; expected"),
    ):
        config.write_text(text)
        with pytest.raises(ConfigError, match=message):
            playloom(*words, "--data", data, "--config", config)
    with pytest.raises(ConfigError, match=r"none\.json"):
        playloom(*words, "--data", data, "--config", tmp_path / "none.json")
    for flag, value in (("--resume", "yes"), ("--precision", "fp8"), ("--steps", "0")):
        assert flag in failed(*words, "--data", data, flag, value)
    world = ["world", "--data", data, "--out", tmp_path / "w", *SHORT]
    with pytest.raises(RecordingError, match="tokenizer"):
        playloom(*world)
    with pytest.raises(CheckpointError, match="no tokenizer"):
        playloom(*world, "--tokenizer", tmp_path)
    assert "--alignment" in failed(*world, "--alignment", "lax")


def test_several_processes_do_not_prepare_the_same_data(data, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(RecordingError, match="--prepare-only"):
        playloom("world", "--data", data, "--tokenizer", tokenizer, "--out", tmp_path, *SHORT)


def test_kinds_of_folders(data, tmp_path):
    assert detect_dataset_kind(data) == "frames"
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(RecordingError, match="damaged"):
        detect_dataset_kind(tmp_path)


def test_a_world_training_begins_with_a_trained_model(trained, tmp_path):
    first, second, heavier = trained, tmp_path / "second", tmp_path / "heavier.json"
    heavier.write_text(json.dumps({**WINDOWS, "action_weight": 4.0}))
    start = ["world", "--data", first / "tokens", "--config", heavier, "--start", first, "--out", second]
    still = ["--steps", "1", "--batch", "4", "--device", "cpu", "--threads", "1", "--learning-rate", "1e-12"]
    assert "finished after 1 step " in playloom(*start, *still).output
    before, after = read_log(first)[-1], read_log(second)[0]
    assert after["step"] == 0, "the weights it starts from are validated first"
    assert after["validation/image"] == pytest.approx(before["validation/image"], abs=1e-3)
    old, new = load_model(first / "model"), load_model(second / "model")
    assert new.config == replace(old.config, name="tokens")
    for name, weight in old.transformer.state_dict().items():
        assert torch.allclose(new.transformer.state_dict()[name], weight, atol=1e-4), name
    assert new.card["start"] == {**old.card, "transformer": load_origin(str(first)).transformer}
    assert new.card["start"]["data"]["frames"] == 240, "what it learned from before is not forgotten"
    assert old.card["row_delay"] == new.card["row_delay"] == 2
    assert "finished after 1 step " in playloom(*start, *still).output, "the same command goes on"
    with pytest.raises(CheckpointError, match="another run"):
        playloom("world", "--data", first / "tokens", "--config", heavier, "--out", second, *SHORT)


def test_the_card_recommends_an_order_that_was_trained(tokenizer, trained, tmp_path):
    config = tmp_path / "world.json"
    words = ["world", "--data", trained / "tokens", "--config", config, *SHORT[2:]]
    for row_delays, weights, said in (((0,), (1,), None), ((0, 4, 1), (0.2, 0.2, 0.6), 1), ((0, 2), (0.5, 0), None)):
        config.write_text(json.dumps({**WINDOWS, "row_delays": row_delays, "row_delay_weights": weights}))
        alone, after = (tmp_path / f"{how}{row_delays}" for how in ("alone", "after"))
        playloom(*words, "--preset", "tiny", "--tokenizer", tokenizer, "--out", alone)
        playloom(*words, "--start", trained, "--out", after)
        assert load_model(alone / "model").card["row_delay"] == load_model(after / "model").card["row_delay"] == said


def test_what_a_start_may_not_be(data, tokenizer, tmp_path):
    words = ["world", "--data", data, "--out", tmp_path / "run"]
    with pytest.raises(ConfigError, match="--preset"):
        playloom(*words, "--start", "arena-live", "--preset", "tiny")
    config = tmp_path / "world.json"
    config.write_text(json.dumps({"model": {}}))
    with pytest.raises(ConfigError, match="'model'"):
        playloom(*words, "--start", "arena-live", "--config", config)
    with pytest.raises(CheckpointError, match="whole"):
        playloom(*words, "--start", tokenizer)
    with pytest.raises(CheckpointError, match="arena-live"):
        playloom(*words, "--start", "arena-liv")
    with pytest.raises(PictureError, match="24 x 16"):
        playloom(*words, "--start", "arena-live", "--steps", "1", "--device", "cpu", "--threads", "1")


def test_tokenizer_and_world_go_on_from_a_trained_model(data, tokenizer, trained, tmp_path):
    first, finer, second = trained, tmp_path / "finer", tmp_path / "second"
    still = ["--steps", "1", "--batch", "4", "--device", "cpu", "--threads", "1", "--learning-rate", "1e-12"]
    start = ["tokenizer", "--data", data, "--start", first]
    playloom(*start, "--out", finer, *still)
    old, new = load_tokenizer(tokenizer), load_tokenizer(finer)
    for key, weight in old.tokenizer.encoder.state_dict().items():
        assert torch.allclose(new.tokenizer.encoder.state_dict()[key], weight, atol=1e-4), key
    assert new.name != old.name, "the codebook follows the encoder, with whatever rate"
    assert new.ancestors == (old.name,)
    done = playloom("world", "--data", data, "--start", first, "--tokenizer", finer, "--out", second, *still)
    assert "finished after 1 step " in done.output
    assert load_model(second / "model").card["tokenizer"] == new.name
    assert load_model(second / "model").card["start"]["tokenizer"] == old.name
    finest = tmp_path / "finest"
    playloom("tokenizer", "--data", data, "--start", finer, "--out", finest, *still)
    assert load_tokenizer(finest).ancestors == (old.name, new.name)
    with pytest.raises(CheckpointError, match="another run"):
        playloom("tokenizer", "--data", data, "--preset", "tiny", "--out", finest, *still)
    with pytest.raises(ConfigError, match="--preset"):
        playloom(*start, "--preset", "tiny", "--out", tmp_path / "other", *still)
    with pytest.raises(ConfigError, match="--start"):
        playloom("tokenizer", "--data", data, "--start", finest, "--out", finest, *still)


def test_a_start_keeps_its_own_tokenizer_and_is_not_written_over(data, tokenizer, trained, tmp_path):
    first, other = trained, tmp_path / "other"
    playloom("tokenizer", "--data", data, "--out", other, *SHORT, "--seed", "1")
    start, length = ["world", "--data", data, "--start", first], ["--steps", "1", "--device", "cpu", "--threads", "1"]
    with pytest.raises(CheckpointError, match="--tokenizer"):
        playloom(*start, "--tokenizer", other, "--out", tmp_path / "second", *length)
    same = playloom(*start, "--tokenizer", tokenizer, "--out", tmp_path / "third", *length, "--batch", "4")
    assert "finished after 1 step " in same.output
    weights = (first / "model" / "transformer.safetensors").read_bytes()
    for place in (first, first / "model"):
        with pytest.raises(ConfigError, match="--start"):
            playloom("world", "--data", data, "--start", place, "--out", first, *length)
    assert (first / "model" / "transformer.safetensors").read_bytes() == weights
    with pytest.raises(ConfigError, match="--model"):
        playloom("heads", "--data", data, "--model", first, "--out", first, *length)


def test_a_session_that_ends_early_says_so_by_its_exit_code(data, tmp_path):
    """A script that calls it again must know whether to go on."""
    words = ["tokenizer", "--data", data, "--out", tmp_path / "run", *SHORT]
    unfinished = playloom(*words, "--max-minutes", "1e-9")
    assert unfinished.exit_code == 3 and "saved at step 1" in unfinished.output
    assert playloom(*words).exit_code == 0
