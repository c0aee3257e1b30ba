"""The recipes: settings that load, sessions that end and continue, a smoke test from nothing to a model's folder."""

import dataclasses
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from playloom.data.prompt_selection import CONTEXT_STEPS, FOLLOWING_STEPS
from playloom.data.prompts import load_prompt_file
from playloom.data.recording import list_episodes
from playloom.evaluation.config import EvaluationSettings
from playloom.games.recorder import plan_episode
from playloom.json_io import from_mapping, plain
from playloom.models.checkpoint import build_transformer, load_model
from playloom.models.config import ModelConfig
from playloom.models.presets import preset
from playloom.models.tokenizer.tokenizer import FrameTokenizer
from playloom.training.tokenizer import TokenizerTrainingConfig
from playloom.training.world_model import WorldConfig

ROOT = Path(__file__).resolve().parents[2]
RECIPES = ROOT / "recipes"
SCRIPTS = sorted(RECIPES.glob("arena_*.sh"))
PACKAGE_BYTES = 24_000_000
CARRIED_BYTES = 16 * 2**20
STUB = """#!/bin/sh
echo "$*" >> "$STUB_LOG"
case "$*" in $STUB_STOP) exit "$STUB_CODE" ;; esac
"""


def environment(**more):
    path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": path, "PYTHON": sys.executable, "THREADS": "1", "WORKERS": "2", **more}


def run(script, *words, **more):
    command = ["bash", str(script), *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment(**more))


@pytest.fixture
def stub(tmp_path):
    """A recipe whose `playloom` only notes its arguments; `stop` is a pattern of the call that fails with `code`."""
    program, log = tmp_path / "python", tmp_path / "log"
    program.write_text(STUB)
    program.chmod(0o755)

    def go(script, *words, stop="never", code=3):
        log.write_text("")
        more = {"PYTHON": str(program), "STUB_LOG": str(log), "STUB_STOP": stop, "STUB_CODE": str(code)}
        done = run(script, tmp_path / "run", *words, **more)
        return done, [line.removeprefix("-m playloom ") for line in log.read_text().splitlines()]

    return go


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.json")), ids=lambda path: path.name)
def test_settings_are_those_of_a_training(path):
    values = json.loads(path.read_text())
    kinds = {"tokenizer": TokenizerTrainingConfig, "evaluation": EvaluationSettings}
    kind = next((kinds[word] for word in kinds if path.stem.endswith(word)), WorldConfig)
    if "model" in values:
        assert_holds(ModelConfig.from_dict(values["model"]).to_dict(), values.pop("model"))
    assert_holds(plain(dataclasses.asdict(from_mapping(kind, values))), values)


def assert_holds(config, values):
    """The file's values are those of the config, which has defaults besides."""
    for key, value in values.items():
        if isinstance(value, dict):
            assert_holds(config[key], value)
        else:
            assert config[key] == value, key


@pytest.mark.parametrize("name", ["arena", "arena-live"])
def test_shipped_weights_fit_the_package_and_one_carried_file_each(name):
    sizes = []
    for part in (FrameTokenizer(preset(name).tokenizer), build_transformer(preset(name))):
        tensors = part.state_dict().values()
        sizes.append(sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in tensors))
    assert sum(sizes) <= PACKAGE_BYTES and max(sizes) < CARRIED_BYTES


@pytest.mark.parametrize(("script", "wanted"), [("arena_cpu.sh", 65), ("arena_gpu.sh", 80)])
def test_the_tokenizer_gets_its_number_of_episodes(script, wanted):
    count = int(re.search(r"tokenizer_episodes=(\d+)", (RECIPES / script).read_text())[1])
    assert sum(plan_episode(seed).split in ("train", "validation") for seed in range(count)) == wanted


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_clean(script):
    if shutil.which("shellcheck") is None:
        pytest.skip("needs shellcheck")
    done = subprocess.run(["shellcheck", script, RECIPES / "common.sh"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_stages_run_once_and_a_changed_one_runs_again_with_all_later_ones(stub, tmp_path):
    done, calls = stub(RECIPES / "arena_cpu.sh")
    assert done.returncode == 0, done.stderr
    names = ["record", "train tokenizer", "train tokenizer", "record", "train world", "train world", "evaluate", "view"]
    assert [call.split(" --")[0].split(" /")[0] for call in calls] == names
    assert "--hours 1.175000" in calls[0] and "--hours 3.325000" in calls[3]
    assert "--preset arena-live" in calls[1] and "--prepare-only" in calls[1] and "--prepare-only" not in calls[2]
    assert "--temperature 0.7" in calls[6] and len(list((tmp_path / "run/test_recordings").iterdir())) == 40
    assert stub(RECIPES / "arena_cpu.sh")[1] == []
    (tmp_path / "run/stamps/world").write_text("other settings")
    assert len(stub(RECIPES / "arena_cpu.sh")[1]) == 3


def test_a_session_ends_with_exit_code_3_and_its_results_are_collected(stub, tmp_path):
    words = ("--max-minutes", "9.5", "--collect", tmp_path / "taken")
    done, calls = stub(RECIPES / "arena_gpu.sh", *words, stop="*world*--max-minutes*")
    assert done.returncode == 3 and "same command" in done.stdout
    assert "--max-minutes 8." in calls[-1] and (tmp_path / "taken/extras.tar.gz").is_file()
    _, calls = stub(RECIPES / "arena_gpu.sh", *words, stop="*world*--max-minutes*")
    assert len(calls) == 1, "finished stages are skipped"
    done, calls = stub(RECIPES / "arena_gpu.sh", stop="*evaluate*", code=2)
    assert done.returncode == 2 and calls[-1].startswith("evaluate")
    weights = {"tokenizer.safetensors", "transformer.safetensors"}
    (tmp_path / "run/world/model").mkdir(parents=True)
    for name in {"model.json", "card.md", "onnx.json", "step.onnx"} | weights:
        (tmp_path / "run/world/model" / name).touch()
    stub(RECIPES / "arena_gpu.sh", *words, stop="*evaluate*")
    assert {path.name for path in (tmp_path / "taken/model").iterdir()} == {"model.json", "card.md"} | weights


@pytest.mark.parametrize("words", [("--max-minutes", "0"), ("--max-minutes",), ("--toy",), ("--max-minutes", "nan")])
def test_a_wrong_option_is_one_sentence(words, tmp_path):
    done = run(RECIPES / "arena_cpu.sh", tmp_path / "run", *words)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_smoke_test_makes_a_model_though_it_is_killed_once(tmp_path):
    pytest.importorskip("vizdoom")
    out, taken = tmp_path / "run", tmp_path / "taken"
    words = [RECIPES / "arena_gpu.sh", out, "--smoke-test", "--collect", taken]
    first = subprocess.Popen(["bash", *map(str, words)], env=environment(), start_new_session=True)
    try:
        while first.poll() is None and not (out / "stamps/frames").is_file():
            time.sleep(0.1)
        assert first.poll() is None
    finally:
        os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert 3 <= len(list_episodes(out / "recordings")) <= 4

    second = run(*words, "--max-minutes", "9")
    assert second.returncode == 0, second.stderr
    assert "stage frames" not in second.stdout and "stage tokenizer" in second.stdout
    card = load_model(out / "world/model").card
    assert card["updates"] == 6 and card["data"]["train_seeds"] == [16] and card["data"]["edited_episodes"] == 1
    assert card["evaluation"]["run"]["data"]["test_seeds"] == [18] and card["sampling"]["risk_weight"] == 3
    assert {row["part"] for row in card["evaluation"]["rows"]} >= {"tokenizer", "horizon", "control"}
    assert "| horizon |" in (taken / "model/card.md").read_text()
    (moment,) = (out / "prompts").glob("*.npz")
    prompt = load_prompt_file(moment)
    assert json.loads(moment.with_suffix(".json").read_text())["seed"] == 18
    assert len(prompt.frames_THWC) == CONTEXT_STEPS + FOLLOWING_STEPS
    files = [path.relative_to(taken) for path in taken.rglob("*") if path.is_file()]
    assert len(files) <= 8 and max(len(path.parts) for path in files) == 2
    assert {"model.json", "evaluation.json", "extras.tar.gz"} <= {path.name for path in files}
    assert "4 episodes" in (out / "recordings.log").read_text(), "the rest was recorded beside the tokenizer"
