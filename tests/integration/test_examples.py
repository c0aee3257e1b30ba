"""Every file in examples/ runs as it stands, in a folder of its own."""

import json
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from playloom.actions.script import parse_script
from playloom.cli.app import app
from playloom.data.prompts import find_prompt, load_prompt_file
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt
from playloom.models.checkpoint import load_model
from playloom.models.onnx.export import export_onnx

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Run an example in a folder of its own, in this process, which has torch already; return what it printed."""
    start = subprocess.run

    def here(command: list[str], **options: Any) -> Any:
        """The program `playloom` in this process too."""
        if command[:3] != [sys.executable, "-m", "playloom"]:
            return start(command, **options)
        done = CliRunner().invoke(app, command[3:], catch_exceptions=False)
        assert done.exit_code == 0 and options == {"check": True}
        return subprocess.CompletedProcess(command, done.exit_code)

    def go(name: str, *arguments: str) -> str:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(subprocess, "run", here)
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return go


def test_they_are_short():
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert [name[:2] for name in names] == ["01", "02", "03", "04", "05", "06", "07"]
    lines = [len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) for name in names]
    assert max(lines[:5]) <= 40 and max(lines) <= 200


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "arguments", "written"),
    [
        ("01_dream.py", (), ["dream.gif", "dream.mp4", "dream.png", "dream.npz"]),
        ("02_fork_and_compare.py", (), ["branches.png"]),
        ("03_train_tiny.py", ("3",), ["tiny.gif"]),
        ("04_rl_in_the_dream.py", ("1",), []),
    ],
)
def test_they_run(name, arguments, written, tmp_path, run):
    said = run(name, *arguments)
    assert said.strip() and all((tmp_path / file).stat().st_size > 0 for file in written)


@pytest.mark.slow
def test_a_program_without_playloom_makes_the_same_pictures(tmp_path, monkeypatch):
    folder, prompt = tmp_path / "model", load_prompt_file(find_prompt("plaza-explorer"))
    export_onnx("arena-live", folder)
    about = json.loads((folder / "onnx.json").read_text(encoding="utf-8"))
    about["sampling"]["temperature"] = 1e-6
    (folder / "onnx.json").write_text(json.dumps(about), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["", str(folder), str(find_prompt("plaza-explorer"))])
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # a second thread would wait in a loop, on the core of another test
    with monkeypatch.context() as one_thread:
        one_thread.setattr(onnxruntime, "InferenceSession", partial(onnxruntime.InferenceSession, sess_options=options))
        made = runpy.run_path(str(EXAMPLES / "07_onnx_without_playloom.py"))["pictures"]
    engine = Engine(load_model("arena-live"), row_delay=2, backend="onnx")
    context = Prompt(frames_THWC=prompt.frames_THWC[:10], actions_TA=prompt.actions_TA[:9])
    actions_SA = np.stack([prompt.actions_TA[9], *[parse_script("forward").values_SA[0]] * 29])
    steps = engine.dream(context, steps=30, actions_SA=actions_SA, sampling=Sampling(temperature=0.0))
    assert all((np.asarray(picture) == step.frame_HWC).all() for picture, step in zip(made, steps, strict=True))
    assert (tmp_path / "onnx.gif").stat().st_size > 0


@pytest.mark.slow
def test_a_planner_goes_from_the_dream_into_the_game(tmp_path, monkeypatch, capsys):
    """Not as `__main__`, which the process of every game would import again, for three seconds each."""
    pytest.importorskip("vizdoom")
    path = EXAMPLES / "06_plan_in_the_dream.py"
    assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), "those processes would play, too"
    tiny = {"recorded": 2, "recorded-steps": 24, "updates": 5, "games": 1, "seconds": 0.3, "out": "planner"}
    words = [f"--{name}={value}" for name, value in tiny.items()]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [path.name, *words])
    runpy.run_path(str(path))["main"]()
    lines = capsys.readouterr().out.splitlines()
    players = ["random", "novice", "model", "planner", "walker", "forward"]
    assert [line[:20].strip() for line in lines[-6:]] == players
    found = json.loads((tmp_path / "planner" / "report.json").read_text(encoding="utf-8"))["players"]
    assert list(found) == players and all(found[name]["games"] == 1 for name in players)
    held = {name: value["mean"] for name, value in found["forward"].items() if name in ("changes", "way", "blocked")}
    assert held["changes"] == 0 < max(held["way"], held["blocked"])  # its only game begins at a torch


def test_the_client_asks_a_server(tmp_path, run):
    from serving_toys import served

    with served() as (host, _):
        run("05_serve_client.py", f"http://{host}")
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"step-{number}.png" for number in (1, 2, 3)]


def test_the_notebook_was_run_and_its_code_compiles():
    path = EXAMPLES / "branching.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert path.stat().st_size < 1_000_000
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)), "run it again, from its top"
    for cell in code:
        compile("".join(cell["source"]), str(path), "exec")


@pytest.mark.slow
def test_the_notebooks_code_runs(tmp_path, monkeypatch):
    cells = json.loads((EXAMPLES / "branching.ipynb").read_text(encoding="utf-8"))["cells"]
    monkeypatch.chdir(tmp_path)
    names = {}
    exec("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"), names)
    assert names["model"].name == "arena-live"
