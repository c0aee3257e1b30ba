"""The recipe: settings that can be changed, stamps that notice it, a run in pieces from nothing to a model's folder."""

import dataclasses
import json
import time

import pytest
from typer.testing import CliRunner

import training_toys as toys
from playloom.cli.app import app
from playloom.data.prepare import tokenise_recordings
from playloom.data.prompt_selection import CONTEXT_STEPS, FOLLOWING_STEPS
from playloom.data.prompts import load_bundled_prompt
from playloom.data.recording import list_episodes, save_episode
from playloom.errors import BadInputError, ConfigError, RecordingError
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import load_model
from playloom.models.world_model import build_tokenizer, build_transformer
from playloom.recipes.collect import LARGEST, collect
from playloom.recipes.learning import cut_store
from playloom.recipes.piece import Piece, PieceOver
from playloom.recipes.recipe import RecordSettings, changed, parse_change
from playloom.recipes.run import STAGES, plan_lines, run_recipe
from playloom.recipes.shop import Machine
from playloom.recipes.stamps import Stamp, read_stamp, settings_hash, write_stamp
from playloom.recipes.table import RECIPES, recipe, toy

PACKAGE_BYTES = 24_000_000
LONG = CONTEXT_STEPS + FOLLOWING_STEPS
MACHINE = Machine(device="cpu", threads=1, processes=2)


@pytest.mark.parametrize("name", RECIPES)
def test_shipped_weights_fit_the_package_and_one_carried_file_each(name):
    model = recipe(name).model
    sizes = []
    for part in (build_tokenizer(model), build_transformer(model)):
        tensors = part.state_dict().values()
        sizes.append(sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in tensors))
    assert sum(sizes) <= PACKAGE_BYTES
    assert max(sizes) < LARGEST


def test_any_setting_can_be_changed_by_its_path():
    path, value = parse_change("world.loop.minutes=30")
    longer = changed(recipe("arena"), {path: value, "model.transformer.layers": 3})
    assert longer.world.loop.minutes == 30.0 and longer.model.transformer.layers == 3
    assert changed(longer, {"world.loop.minutes": 9.5, "model.transformer.layers": 9}) == recipe("arena")
    assert parse_change("world.loop.schedule=wsd") == ("world.loop.schedule", "wsd")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("world.loop.minuets", 3, "did you mean minutes"),
        ("word.loop.minutes", 3, "no settings 'word'"),
        ("world.loop.minutes", "long", "minutes is 'long'; expected a number"),
        ("record.first", 10_000, "do not make sense"),
    ],
)
def test_a_wrong_change_is_one_sentence(path, value, words):
    with pytest.raises(ConfigError, match=words):
        changed(recipe("arena"), {path: value})


def test_an_unknown_recipe_and_a_change_without_a_value():
    with pytest.raises(ConfigError, match="did you mean arena"):
        recipe("arenna")
    with pytest.raises(ConfigError, match="not a change"):
        parse_change("world.loop.minutes")
    with pytest.raises(ConfigError, match="there is no stage 'wrold'; did you mean world"):
        run_recipe(toy(recipe("arena")), "nowhere", redo="wrold")


def test_the_plan_shows_every_stage_and_what_is_begun(tmp_path):
    result = CliRunner().invoke(app, ["recipe", "arena-cpu", "--plan", "--out", str(tmp_path)])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert [line.split()[0] for line in lines] == [stage.name for stage in STAGES]
    assert all("to do" in line for line in lines)
    shown = toy(recipe("arena-cpu"))
    stage = STAGES[0]
    settings = dict(stage.settings(shown))
    stamp = Stamp(stage="record", hash=settings_hash(settings, {}), settings=settings, finished=True, seconds=90)
    write_stamp(tmp_path, stamp)
    assert "done, 1.5 min" in plan_lines(shown, tmp_path)[0]
    other = dataclasses.replace(shown, record=RecordSettings(seed=36, episodes=4))
    assert "changed" in plan_lines(other, tmp_path)[0]


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), float("inf")])
def test_a_piece_is_a_time(minutes):
    with pytest.raises(ConfigError, match="expected more than 0"):
        Piece(minutes)


def test_a_machine_has_at_least_one_of_each():
    with pytest.raises(ConfigError, match="processes is 0; expected 1 or more"):
        Machine(processes=0)


def test_a_place_for_the_outputs_that_cannot_be_is_told_first(tmp_path):
    """It was a traceback, after the last stage."""
    (tmp_path / "taken").write_text("a file")
    words = ["recipe", "arena", "--toy", "--out", str(tmp_path / "run"), "--collect", str(tmp_path / "taken")]
    with pytest.raises(BadInputError, match="cannot write"):
        app(words, standalone_mode=False)
    assert not (tmp_path / "run").exists()


def test_a_piece_ends_and_a_fresh_one_always_begins():
    over, endless, short = Piece(1e-9), Piece(None), Piece(1)
    time.sleep(0.001)
    with pytest.raises(PieceOver):
        over.check()
    endless.check()
    assert endless.loop_minutes is None
    short.need(10)
    short.fresh = False
    short.need(0.5)
    with pytest.raises(PieceOver):
        short.need(10)


def test_codes_that_are_there_in_time_make_a_whole_store(tmp_path):
    paths = [save_episode(tmp_path / "recordings", toys.episode(seed)) for seed in range(3)]
    encode = build_tokenizer(toys.TINY).eval().encode

    class Enough(Exception):
        pass

    def stop(done, total):
        if done >= 24:
            raise Enough

    growing = tmp_path / "all"
    with pytest.raises(Enough):
        tokenise_recordings(growing, paths, toys.render, encode, fingerprint="toy", progress=stop)
    store = cut_store(growing, tmp_path / "cut", paths, slots=toys.SLOTS, tokenizer="toy")
    whole = tokenise_recordings(growing, paths, toys.render, encode, fingerprint="toy")
    assert len(whole) == 36 and len(store) == 24 and store.tokenizer == "toy"
    assert (store.tokens_FN == whole.tokens_FN[:24]).all()
    assert (store.actions_FA == whole.actions_FA[:24]).all()
    assert store.spans == whole.spans[:2]


def test_no_code_in_time_is_said(tmp_path):
    paths = [save_episode(tmp_path / "recordings", toys.episode(0))]
    with pytest.raises(RecordingError, match=r"tokens\.minutes"):
        cut_store(tmp_path / "all", tmp_path / "cut", paths, slots=toys.SLOTS, tokenizer="toy")


def test_a_damaged_stamp_is_named(tmp_path):
    (tmp_path / "stamps").mkdir()
    (tmp_path / "stamps" / "world.json").write_text("{")
    with pytest.raises(RecordingError, match=r"world\.json is damaged"):
        read_stamp(tmp_path, "world")


@pytest.mark.slow
def test_a_toy_run_in_pieces_from_nothing_to_a_model(tmp_path):
    pytest.importorskip("vizdoom")
    run = tmp_path / "run"
    short = {"record.first": 3, "world.loop.steps": 3, "tokenizer.training.loop.steps": 3}
    wanted = changed(toy(recipe("arena-cpu")), short)
    lines = []

    def go(which=wanted, **options):
        lines.clear()
        return run_recipe(which, run, machine=MACHINE, say=lines.append, **options)

    first = go(piece_minutes=0.01)
    assert not first.finished and first.stage == "record"
    assert len(list_episodes(run / "record")) < 4 and not read_stamp(run, "record").finished

    second = go()
    assert second.finished
    assert lines[0] == "record: goes on"
    assert len(list_episodes(run / "record")) == 4, "the rest was recorded beside the tokenizer"
    card = load_model(second.result / "model").card
    assert card["data"]["seeds"] == {"train": [16], "validation": [17], "test": [18], "heldout": [19]}
    assert card["world"]["updates"] == card["tokenizer"]["updates"] == 3
    assert card["row_delay"] == 2 and Sampling.from_card(card) == wanted.evaluate.measure.sampling
    assert {row["part"] for row in card["evaluation"]["rows"]} >= {"tokenizer", "horizon", "control"}
    assert set(card["wall_seconds"]) >= {"record", "tokenizer", "tokens", "world", "evaluate", "all"}
    text = (second.result / "model" / "card.md").read_text()
    assert "* test seeds: 18" in text and "| horizon |" in text
    (moment,) = sorted((second.result / "moments").glob("*.npz"))
    assert load_bundled_prompt(moment).meta["seed"] == 18 and len(load_bundled_prompt(moment).frames_THWC) == LONG

    assert go().finished and not lines, "what is done is not done again"

    go(dataclasses.replace(wanted, export=dataclasses.replace(wanted.export, moments=2)))
    assert any(line.startswith("export: done again") for line in lines)
    assert not any(line.startswith(("world", "evaluate")) for line in lines)

    with pytest.raises(ConfigError, match=r"learning_rate 0\.0015 -> 0\.01.*--redo world"):
        go(changed(wanted, {"world.loop.learning_rate": 0.01}))
    go(changed(wanted, {"world.loop.steps": 4}), until="world")
    assert "world: goes on, because loop.steps 3 -> 4" in lines
    assert json.loads((run / "stamps" / "world.json").read_text())["facts"]["updates"] == 4

    files, notes = collect(run, tmp_path / "out")
    assert not notes and len(files) <= 8
    assert all(len(path.relative_to(tmp_path / "out").parts) <= 2 for path in files)
    assert {"model.json", "evaluation.json", "extras.zip"} <= {path.name for path in files}
