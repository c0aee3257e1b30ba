"""The command line as a whole: flags checked before torch, progress without a terminal, stop signals, --json."""

import inspect
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import loud_model, tiny_config
from playloom.actions.codec import REST_VALUES, Schema
from playloom.atomic_io import next_free_path
from playloom.cli import common, evaluate
from playloom.cli.app import app
from playloom.data.dataset import FrameDataset
from playloom.errors import BadInputError
from playloom.media.clips import Clip, write_clip
from playloom.media.images import ResizeMode
from playloom.models.checkpoint import save_model

EVERY_WRONG_LINE = """
import contextlib, io, json, os, sys
from playloom.cli.app import main
ended = {}
for line in json.loads(sys.argv.pop()):
    sys.argv[1:] = line.split(" ")
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as error:
            code = error.code
    ended[line] = code, out.getvalue(), err.getvalue(), "torch" in sys.modules, os.listdir()
print(json.dumps(ended))
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(folder, loud_model(tiny_config()), dtype=None)
    return str(folder)


@pytest.fixture
def clips(tmp_path) -> Path:
    source = np.random.default_rng(0)
    for number in range(2):
        frames = source.integers(0, 256, (8, 16, 24, 3), dtype=np.uint8)
        write_clip(tmp_path / "clips" / f"{number}.npz", Clip(frames, np.tile(REST_VALUES, (8, 1))))
    return tmp_path / "clips"


def run(*words: object):
    return CliRunner().invoke(app, [str(word) for word in words])


@pytest.fixture(scope="module")
def ended(tmp_path_factory) -> dict[str, list]:
    """How each of the wrong lines ends, one after the other in one process and an empty folder."""
    (table,) = test_a_wrong_flag_is_one_sentence_without_torch.pytestmark
    lines = [words for words, _ in table.args[1]]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", EVERY_WRONG_LINE, json.dumps(lines)]
    place = tmp_path_factory.mktemp("empty")
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, cwd=place, env=environment).stdout)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("dream --mode dance", "world"),
        ("dream --steps -3", "--steps"),
        ("dream --top-p 2", "--top-p"),
        ("dream --device tpu", "tpu"),
        ("dream --prompt nofile.png", "nofile.png"),
        ("dream --prompt bundled:nowhere", "nowhere"),
        ("dream --actions jmup", "jump"),
        ("dream --out .", "current folder"),
        ("dream --out=", "current folder"),
        ("dream --out /dev/null", "is a file"),
        ("dream --clips nowhere --mode world", "--mode"),
        ("dream --clips nowhere --timestamp", "--timestamp"),
        ("dream --clips nowhere", "nowhere"),
        ("dream --batch 1", "--batch"),
        ("dream --mode policy --actions fire", "--actions"),
        ("play --seconds 60", "--seconds"),
        ("play --headless --no-browser --script fire", "--browser"),
        ("play --headless --controller robot", "robot"),
        ("act --mode 5v5", "ffa"),
        ("act --policy random --temperature 1", "--temperature"),
        ("evaluate --top-k 0", "--top-k"),
        ("evaluate --out .", "folder"),
        ("train world --data d --out r --precision fp8", "bf16-mixed"),
        ("train world --data d --out .", "current folder"),
        ("train world --data d --out r --max-minutes -1", "--max-minutes"),
        ("view --select-prompts 2 --figures nowhere", "--figures"),
        ("bench --frames 0", "--frames"),
        (f"models {'a' * 300}", "bundled model"),
        ("plan --hours inf", "finite"),
        ("bench --device tpu", "tpu"),
        ("serve --replicas 2", "--replicas"),
        ("record --hours 1e12", "1000"),
        ("view --figures --every 10 nowhere", "--every"),
        ("import nowhere", "nowhere"),
        ("import . --shard join --mask 0,0,9,9", "--mask does not apply to --shard join"),
        ("import . --shard join --strict", "--strict does not apply to --shard join"),
        ("import . --tokenizer arena-live --preset tiny", "--preset does not apply to --tokenizer"),
        ("import . --cluster --workers 2", "--workers does not apply to --cluster"),
    ],
)
def test_a_wrong_flag_is_one_sentence_without_torch(ended, words, said):
    code, printed, complaint, torch, files = ended[words]
    assert code == 2 and complaint.startswith("playloom: ") and said in complaint
    assert len(complaint.splitlines()) == 1 and not torch and printed == "" and not files


def test_a_plan_of_a_wrong_loop_is_one_sentence(tmp_path):
    (tmp_path / "own.json").write_text('{"loop": 5}')
    assert str(run("plan", "--config", tmp_path / "own.json").exception).startswith("loop is 5; expected")


def test_the_choices_are_those_of_the_library():
    from playloom.evaluation.online.run import PLAYERS
    from playloom.games.arena.maps import VARIANTS

    def choices(name: str) -> tuple[str, ...]:
        return get_args(get_type_hints(evaluate.act_command)[name])

    assert set(get_args(evaluate.Player)) == set(PLAYERS) and set(choices("variant")) == set(VARIANTS)
    assert set(get_args(get_args(common.Schema)[0])) == {*get_args(Schema), "auto"}
    assert get_args(get_args(common.Resize)[0]) == get_args(ResizeMode)


def test_prompts_are_selected_from_validation_where_no_episode_is_for_testing(tmp_path):
    """An import of fewer than twenty recordings has none."""
    writer = FrameDataset.create(tmp_path / "data", 40, height=8, width=16, state_columns=())
    for split in ("train", "validation"):
        frames = np.random.default_rng(0).integers(0, 255, (20, 8, 16, 3)).astype(np.uint8)
        writer.append_episode(frames, np.zeros((20, 16), np.uint8), np.zeros((20, 0), np.float32), {"split": split})
    writer.finish()
    done = run("view", tmp_path / "data", "--select-prompts", 1, "--out", tmp_path / "out")
    assert done.exit_code == 0 and json.loads((tmp_path / "out/prompt.json").read_text())["split"] == "validation"


def test_only_an_earlier_result_is_numbered(tmp_path, monkeypatch):
    """`--out good.csv` made good.csv-2, and `--out .` a folder beside the current one."""
    dream, other, empty = tmp_path / "dream", tmp_path / "other", tmp_path / "empty"
    for folder in (dream, other, empty):
        folder.mkdir()
    (dream / "manifest.json").write_text("{}")
    (other / "notes.txt").write_text("mine")
    assert next_free_path(dream, numbered=True).name == "dream-2" and next_free_path(empty, numbered=True) == empty
    for folder in (other, other / "notes.txt"):
        with pytest.raises(BadInputError, match="choose another"):
            next_free_path(folder, numbered=True)
    monkeypatch.chdir(empty)
    for folder in (".", "", "..", empty):
        with pytest.raises(BadInputError, match="current folder"):
            next_free_path(folder, numbered=True)


def test_clips_are_never_overwritten(model, clips, tmp_path):
    words = ("dream", "--model", model, "--clips", clips, "--context", 3, "--steps", 2, "--out", tmp_path / "o")
    first = run(*words)
    assert first.exit_code == 0, first.output
    before = (tmp_path / "o" / "0.npz").stat().st_mtime_ns
    (clips / "cut.npz").write_bytes((clips / "0.npz").read_bytes()[:100])
    second = run(*words, "--json")
    assert second.exit_code == 1, "something was skipped"
    result = json.loads(second.stdout)
    assert (
        result["folder"] == str(tmp_path / "o-2") and len(result["written"]) == 2 and "cut.npz" in result["skipped"][0]
    )
    assert (tmp_path / "o" / "0.npz").stat().st_mtime_ns == before
    assert isinstance(run(*words, "--out", clips).exception, BadInputError)


def test_json_is_all_that_is_printed(model, clips, tmp_path):
    words = (
        "dream",
        "--model",
        model,
        "--prompt",
        clips / "0.npz",
        "--context",
        3,
        "--steps",
        2,
        "--out",
        tmp_path / "o",
    )
    result = json.loads(run(*words, "--json").stdout)
    assert result["steps_dreamed"] == 2 and result["folder"] == str(tmp_path / "o") and "dream.mp4" in result["files"]
    assert set(json.loads(run("models", "--json").stdout)) == {"models", "prompts", "presets"}


def test_sigterm_keeps_what_was_dreamed(model, clips, tmp_path):
    words = ["dream", "--model", model, "--prompt", str(clips / "0.npz"), "--context", "3", "--steps", "5000"]
    code = (
        "import signal, sys; from playloom.inference import generate; real = generate._until_stopped\n"
        "def slow(dreamed, steps, progress, stop):\n"
        "    def told(done, total):\n"
        "        progress(done, total)\n"
        "        if done == 3: signal.raise_signal(signal.SIGTERM)\n"
        "    return real(dreamed, steps, told, stop)\n"
        "generate._until_stopped = slow\n"
        "from playloom.cli.app import main; main()"
    )
    command = [sys.executable, "-c", code, *words, "--out", str(tmp_path / "o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 143 and "stopped after 3 of 5000 steps" in done.stdout, done.stderr
    assert len(list((tmp_path / "o" / "raw").glob("*.png"))) == 3


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("after_step", [False, True])
def test_a_signal_ends_the_work_and_is_put_back(number, code, after_step, capsys):
    import typer

    before = signal.getsignal(number)
    with pytest.raises(typer.Exit) as ended, common.stopping("all is kept", after_step=after_step) as stop:
        signal.raise_signal(number)
        assert after_step and stop(), "the first one is only noted, or interrupts"
        signal.raise_signal(number)
    assert ended.value.exit_code == code and signal.getsignal(number) is before
    assert capsys.readouterr().err == "stopped; all is kept\n"


def test_without_a_terminal_progress_is_plain_lines(capsys):
    with common.progress("dreaming", "frames", every=0.05) as bar:
        bar(0, 8)
        time.sleep(0.1)
        bar(2, 8)
        time.sleep(0.3)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 3 and "\x1b" not in "".join(lines)
    assert lines[-1].startswith("dreaming: 2 of 8 frames, ") and "/s" in lines[-1] and "left" in lines[-1]
    bar(8, 8)
    assert "left" not in bar.bar.tasks[0].fields["text"], "the files are still to be written"


def test_a_training_bar_fits_eighty_columns(monkeypatch):
    from io import StringIO

    from rich.console import Console

    from playloom.training.logger import LoopProgress

    screen = Console(file=StringIO(), width=80, force_terminal=True)
    shown = common.Progress(screen, "training", "", False)
    rates = {"tokens": 123456.0, "flops": 1e9}
    report = {"step": 12345, "fraction": 0.5, "elapsed": 9.0, "eta": 4000.0, "learning_rate": 1.0}
    shown.training(LoopProgress(metrics={"loss": 12.345678}, rates=rates, **report))
    with screen.capture() as captured:
        screen.print(shown.bar.get_renderable())
    (line,) = captured.get().splitlines()
    assert "left" in line and "…" not in line


def test_play_serves_the_page_and_opens_it(monkeypatch, capsys):
    server = pytest.importorskip("playloom.server.main")
    from playloom.cli import dream

    opened = []
    monkeypatch.setattr(server, "run", lambda settings, say: say(f"serving on http://{settings.host}:7 (this machine)"))
    monkeypatch.setattr(dream.webbrowser, "open", opened.append)
    monkeypatch.setattr(common, "has_display", lambda: True)
    assert "http://127.0.0.1:7" in run("play").stdout and opened == ["http://127.0.0.1:7"]
    run("play", "--no-browser")
    monkeypatch.setattr(common, "has_display", lambda: False)
    assert run("play").exit_code == 0 and len(opened) == 1


def test_every_command_says_its_threads():
    from playloom.cli import dream, models, serve

    for command in (dream.dream_command, dream.play_command, evaluate.act_command, serve.serve_command):
        assert "threads" in inspect.signature(command).parameters
    for command in (evaluate.evaluate_command, models.bench_command):
        assert "threads" in inspect.signature(command).parameters


def test_help_does_not_wait_for_torch():
    code = "import sys, playloom.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_python_m_playloom_is_the_program(tmp_path):
    words = [sys.executable, "-m", "playloom", "--version"]
    assert subprocess.run(words, capture_output=True, text=True, check=True, cwd=tmp_path).stdout == "playloom 0.1.0\n"


def test_the_installed_program_answers():
    result = subprocess.run(
        [Path(sys.executable).with_name("playloom"), "dream", "--prompt", "nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2 and result.stderr.startswith("playloom: ")
