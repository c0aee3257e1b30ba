"""`playloom play` and what it stands on, with the real tiny model: the same dreams, whole files, whole sentences."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import Future

import numpy as np
import pytest

from conftest import loud_model, tiny_config
from engine_toys import ThreadedEngine, prompt_of
from live_toys import TURN, WALK
from playloom.actions.codec import REST_VALUES
from playloom.actions.script import parse_script
from playloom.cli.app import main
from playloom.errors import ActionError, BadInputError
from playloom.inference.engine import Engine
from playloom.inference.generate import DreamJob, run_dream
from playloom.inference.realtime.clock import VirtualTime
from playloom.inference.realtime.recorder import write_play
from playloom.inference.realtime.session import LiveJob, LiveSession, play_live
from playloom.inference.realtime.state import LiveFrame
from playloom.inference.session import StepInput, StepResult
from playloom.media.action_table import read_actions, write_actions
from playloom.media.clips import Clip, write_clip
from playloom.models.checkpoint import save_model
from playloom.provenance import Manifest
from video_toys import read_frames, read_manifest

SCRIPT = "forward for 2; turn_left for 2; rest"


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(folder, loud_model(tiny_config()), dtype=None)
    return str(folder)


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    source = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("clip") / "clip.npz"
    frames = source.integers(0, 256, (6, 16, 24, 3), dtype=np.uint8)
    write_clip(path, Clip(frames, np.tile(REST_VALUES, (6, 1))))
    return str(path)


@pytest.fixture
def said(model, clip, monkeypatch, capsys):
    """Runs `playloom play` with the tiny model: (exit code, what it printed, what it complained)."""

    def run(*words: str, prompt: str = clip) -> tuple[int, str, str]:
        common = ("--model", model, "--prompt", prompt, "--context", "3", "--device", "cpu")
        monkeypatch.setattr(sys, "argv", ["playloom", "play", *words, *common])
        with pytest.raises(SystemExit) as exit_info:
            main()
        printed = capsys.readouterr()
        return int(exit_info.value.code or 0), printed.out, printed.err

    return run


def test_frames_are_decoded_while_the_next_step_runs(tiny_model):
    actions_SA = np.stack([TURN, WALK, TURN, TURN])
    wanted = list(Engine(tiny_model, row_delay=1).dream(prompt_of(3), steps=4, actions_SA=actions_SA, seed=3))
    engine = ThreadedEngine(tiny_model, row_delay=1)
    engine.hold_frames(4)
    dreamed = list(engine.dream(prompt_of(3), steps=4, actions_SA=actions_SA, seed=3))
    engine = ThreadedEngine(tiny_model, row_delay=1)
    engine.hold_frames(4)
    played: list[LiveFrame] = []
    with LiveSession(engine, prompt_of(3), seed=3, time=VirtualTime(), fps=1000) as live:
        begin, actions = live.begin, iter(actions_SA)
        live.begin = lambda limit: (live.set_input(next(actions)), begin(limit))[1]  # type: ignore[method-assign]
        live.run(played.append, ticks=4)
    for frames in (dreamed, played):
        assert all((w.frame_HWC == f.frame_HWC).all() for w, f in zip(wanted, frames, strict=True))


@pytest.mark.parametrize("kind", [Engine, ThreadedEngine])
def test_the_same_actions_give_the_frames_of_the_dreamer(tiny_model, kind):
    engine = kind(tiny_model, row_delay=1)
    actions_SA = np.stack([REST_VALUES, TURN, TURN, WALK, REST_VALUES, TURN])
    wanted = list(engine.dream(prompt_of(3), steps=6, actions_SA=actions_SA, seed=11))
    with LiveSession(engine, prompt_of(3), seed=11, time=VirtualTime()) as live:
        pulled = [live.step(action_A) for action_A in actions_SA]
        live.restart()
        pushed: list[LiveFrame] = []
        live.set_input(actions_SA[0])

        def take(frame: LiveFrame) -> None:
            pushed.append(frame)
            live.set_input(actions_SA[len(pushed) % 6])

        live.run(take, ticks=6)
    for frames in (pulled, pushed):
        assert all((w.frame_HWC == f.frame_HWC).all() for w, f in zip(wanted, frames, strict=True))
        assert all((f.action_A == a).all() for f, a in zip(frames, actions_SA, strict=True))


def test_the_model_plays_what_the_dreamer_would(tiny_model):
    engine = Engine(tiny_model, row_delay=1)
    wanted = list(engine.dream(prompt_of(3), mode="full", steps=4, seed=2))
    with LiveSession(engine, prompt_of(3), seed=2, controller="model", time=VirtualTime()) as live:
        frames = [live.step() for _ in range(4)]
    for step, frame in zip(wanted, frames, strict=True):
        assert (step.action_A == frame.action_A).all() and (step.frame_HWC == frame.frame_HWC).all()
        assert not frame.action_given


def test_the_command_plays_and_counts_everything(said, tmp_path):
    out = tmp_path / "play"
    code, printed, _ = said(
        *(
            "--headless",
            "--script",
            SCRIPT,
            "--seconds",
            "1",
            "--fps",
            "20",
            "--out",
            str(out),
            "--decode-order",
            "1",
            "--json",
        )
    )
    assert code == 0
    figures = json.loads(printed)
    assert figures["folder"] == str(out) and figures["notes"] == []
    assert figures["frames"] + figures["skipped"] == figures["ticks_wanted"] == 20
    assert 0 <= figures["late"] <= figures["frames"] == figures["frame_latency_ms"]["count"]
    assert 0 < figures["key_to_frame_ms"]["count"] <= figures["inputs"] - figures["dropped_inputs"]
    assert (figures["model"], figures["controller"], figures["seed"], figures["failure"]) == ("tiny", "person", 0, None)
    assert figures["machine"]["torch"] and figures["machine"]["device"] == "cpu"

    table = read_actions(out / "actions.csv", "named").values_SA
    scripted = {row.tobytes() for row in parse_script(SCRIPT).values_SA}
    assert len(table) == figures["frames"] and {row.tobytes() for row in table} <= scripted
    frames = read_frames(out / "play.mp4")
    assert figures["frames"] <= len(frames) - 3 <= 20, "the frames it begins with go before"
    assert (out / "sheet.png").is_file()
    manifest = read_manifest(out / "play.mp4")
    assert manifest is not None and (manifest.mode, manifest.seed, manifest.order) == ("world", 0, "row delay 1")
    report = json.loads((out / "report.json").read_text())
    assert report["frames"] == figures["frames"] and report["manifest"]["model"] == "tiny"


def test_what_was_played_can_be_dreamed_again(model, clip, tmp_path):
    settings = {"model": model, "prompt": clip, "context": 3, "seed": 4, "decode_order": 1, "temperature": 0.7}
    job = LiveJob(script_SA=parse_script(SCRIPT).values_SA, seconds=0.6, fps=10, out=tmp_path / "play", **settings)
    result = play_live(job)
    assert result.report["failure"] is None and result.folder == tmp_path / "play"
    again = run_dream(DreamJob(actions=str(result.folder / "actions.csv"), out=tmp_path / "dream", **settings))
    dreamed, played = read_frames(again.written.folder / "dream.mp4")[3:], read_frames(result.folder / "play.mp4")[3:]
    assert len(dreamed) == result.report["frames"]
    for ours, theirs, other in ((played[0], dreamed[0], dreamed[-1]), (played[-1], dreamed[-1], dreamed[0])):
        same, unlike = (np.abs(ours.astype(int) - frame).mean() for frame in (theirs, other))
        assert same < unlike / 3, "the same frame, up to what the video's compression takes"
    assert play_live(job).folder == tmp_path / "play-2", "an older run is never overwritten"


def test_progress_counts_skipped_ticks(model, clip):
    """It counted frames, so a slow run seemed to end half way."""
    done: list[tuple[int, int]] = []
    job = LiveJob(model=model, prompt=clip, context=3, controller="model", seconds=3600, fps=2000)
    report = play_live(job, progress=lambda *ticks: done.append(ticks), stop=lambda: len(done) >= 3).report
    assert len(done) == report["frames"] < done[-1][0] and {total for _, total in done} == {7_200_000}


def test_the_model_plays_without_a_script(said):
    code, printed, _ = said("--headless", "--controller", "model", "--seconds", "0.2", "--json")
    figures = json.loads(printed)
    assert code == 0 and figures["inputs"] == 0 and figures["key_to_frame_ms"]["p50"] is None


def test_a_csv_of_either_schema_is_a_script(said, tmp_path):
    path = tmp_path / "held.csv"
    write_actions(path, np.stack([TURN, WALK]), "binned")
    words = ("--headless", "--script", str(path), "--seconds", "0.2")
    code, printed, _ = said(*words, "--schema", "auto")
    assert code == 0 and "binned schema" in printed
    code, _, complaint = said(*words, "--schema", "named")
    assert code == 2 and "--schema binned" in complaint


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("--script", "jump"), "--headless"),
        (("--headless",), "--script is required"),
        (("--headless", "--script", "  "), "the action script is empty"),
        (("--headless", "--script", "jmp"), "did you mean jump"),
        (("--headless", "--script", "jump", "--fps", "0"), "rate is 0 Hz; expected more than 0"),
        (("--headless", "--script", "jump", "--fps", "-5"), "rate is -5 Hz"),
        (("--headless", "--script", "jump", "--seconds", "0"), "seconds is 0; expected more than 0"),
        (("--headless", "--script", "jump", "--seconds", "1e308", "--fps", "1e308"), "seconds is 1e+308; expected"),
        (("--headless", "--script", "jump", "--controller", "robot"), "'robot'"),
        (("--headless", "--script", "jump", "--seed", "-1"), "--seed"),
    ],
)
def test_what_is_wrong_is_one_sentence(said, words, sentence):
    code, _, complaint = said(*words)
    assert code == 2 and sentence in complaint and len(complaint.splitlines()) == 1


def test_a_place_that_cannot_be_written_is_refused_before_play(said, tmp_path):
    """It played the whole minute first."""
    (tmp_path / "file").write_text("")
    words = ("--headless", "--script", SCRIPT, "--seconds", "600", "--out", str(tmp_path / "file" / "play"))
    code, printed, complaint = said(*words)
    assert (code, printed) == (2, "") and "cannot write" in complaint and len(complaint.splitlines()) == 1


def test_an_empty_script_is_refused_by_the_library():
    with pytest.raises(ActionError, match="no actions"):
        LiveJob(script_SA=np.zeros((0, 16), np.uint8))


@pytest.mark.parametrize(
    ("error", "sentence"),
    [(BadInputError("that did not fit"), "that did not fit"), (RuntimeError("no memory"), "RuntimeError: no memory")],
)
def test_a_dream_that_fails_leaves_its_figures(said, tmp_path, monkeypatch, error, sentence):
    true_step = Engine.step_async

    def step_async(engine: Engine, inputs: list[StepInput]) -> Future[list[StepResult]]:
        if inputs[0].session.index == 2:
            raise error
        return true_step(engine, inputs)

    monkeypatch.setattr(Engine, "step_async", step_async)
    out = tmp_path / "play"
    code, printed, complaint = said("--headless", "--script", SCRIPT, "--seconds", "9", "--out", str(out))
    assert code == 2 and complaint == f"playloom: the dream failed after 2 frames: {sentence}\n"
    assert "2 frames in" in printed and "{" not in printed, "no JSON that nobody asked for"
    assert len(read_actions(out / "actions.csv", "named").values_SA) == 2
    assert json.loads((out / "report.json").read_text())["failure"] == sentence


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_with_the_figures_so_far(model, clip, number, code):
    words = [
        "--json",
        "--headless",
        "--script",
        SCRIPT,
        "--seconds",
        "600",
        "--model",
        model,
        "--prompt",
        clip,
        "--context",
        "3",
    ]
    with subprocess.Popen(
        [sys.executable, "-c", "from playloom.cli.app import main; main()", "play", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        assert any("playing tiny" in line for line in process.stderr)  # a slow start is reported before
        process.send_signal(number)
        printed, complaint = process.communicate(timeout=60)
    figures = json.loads(printed)
    assert process.returncode == code and complaint == "" and figures["frames"] < 600 == figures["ticks_wanted"] / 10


def test_a_frame_is_held_for_the_ticks_missed_after_it(tmp_path):
    def frame(sequence: int, skipped: int, brightness: int) -> LiveFrame:
        return LiveFrame(
            sequence=sequence,
            restarts=0,
            time=0.1 * sequence,
            frame_HWC=np.full((32, 48, 3), brightness, np.uint8),
            action_A=WALK,
            action_given=True,
            latency=0.05,
            late_by=0.0,
            skipped=skipped,
            key_to_frame=None,
        )

    manifest = Manifest(model="tiny", weights="00", seed=0, mode="world")
    frames = [frame(0, 0, 40), frame(1, 3, 200), frame(2, 0, 120)]
    folder = write_play(tmp_path / "play", frames, manifest=manifest, report={"frames": 3})
    film = read_frames(folder / "play.mp4")
    assert [round(int(picture[-30, 12, 0]), -1) for picture in film] == [40, 40, 40, 40, 200, 120]
    assert film[0, -16:-8, 40:100].std() > 20, "the mark is on every frame"
