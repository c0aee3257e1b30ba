"""Speed at toy size, every case for real: a model's, a size's, the program's start; and the command."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
import typer
from test_evaluation_report import small_store
from typer.testing import CliRunner

from conftest import loud_model, tiny_config
from playloom.benchmarks import shapes
from playloom.benchmarks.run import NO_GPU, bench
from playloom.benchmarks.settings import SHAPE_CASES, BenchSettings
from playloom.benchmarks.start import run_seconds
from playloom.benchmarks.stream import bundled_prompt, time_dream
from playloom.cli import bench as command
from playloom.errors import PlayloomError
from playloom.evaluation.config import EvaluationSettings
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import save_model

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = dataclasses.replace(loud_model(tiny_config()), card={"row_delay": 1, "sampling": {"temperature": 0.5}})
    save_model(tmp_path / "model", model, dtype=torch.float32)
    return tmp_path / "model"


def test_the_model_cases_measure_every_figure(folder: Path) -> None:
    said: list[str] = []
    settings = BenchSettings(model=str(folder), device="cpu", only=("stream", "first", "batch", "branch"), quick=True)
    report = bench(settings, said.append)
    rows = {row["name"]: row for row in report.to_json()["rows"]}
    assert rows["40 frames sustained, k = 1"]["bar"] == ">= 10 frames/s"
    assert rows["key to frame, p95"]["bar"] == "<= 150 ms" and rows["key to frame, p50"]["beside"] > 0
    assert rows["a frame around 50 over one around 20, in turns"]["bar"] == "0.9 to 1.1 x"
    assert rows["first frame after 4 pictures"]["bar"] == "<= 1 s"
    assert all(f"{size} dreams at once, all their frames" in rows for size in (1, 2, 4, 8))
    assert all(row["value"] > 0 for row in rows.values())
    assert all(row["times_floor"] > 1 for row in rows.values() if row["floor"])
    run = report.to_json()
    assert run["model"] == "tiny" and run["rates"]["cpu"]["gigabytes_per_second"] > 0
    assert run["machine"]["cores"] and run["versions"]["torch"] == torch.__version__ and run["date"]
    net, positions = tiny_config().transformer, tiny_config().layout.positions
    steps = sum(net.window_steps(layer) for layer in range(net.layers))
    least = steps * positions * 2 * net.key_value_heads * net.head_width * 4
    assert least <= rows["memory of one dream"]["value"] * 2**20 <= 2.5 * least  # room to write into may come on top
    assert not report.notes  # no case of the sizes was asked for, so none was skipped
    assert "GPT-2 of the same shape" in said and "8 dreams at once" in said


def test_sizes_are_measured_on_a_cpu_too_and_have_no_bars_there() -> None:
    settings = BenchSettings(device="cpu", presets=("tiny",), only=("order", "many", "absolute"), quick=True)
    report = bench(settings).to_json()
    names = [row["name"] for row in report["rows"]]
    assert "tiny, rolling, fp32, k = 1: a frame" in names and "tiny, rolling, fp32, raster: a frame" in names
    assert "tiny, 4 key/value heads: 16 at once over one" in names
    assert "tiny, absolute: of which prefill (opening on 9 steps)" in names
    assert all(row["value"] > 0 and row["bar"] is None for row in report["rows"])
    passes = [row["detail"]["passes"] for row in report["rows"] if row["case"] == "order"]
    assert passes == [9, 24]


def test_a_row_that_fails_says_why_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bf16, as on a GPU. Raster order, sixteen dreams and GPT-2 fail, each in another way; nothing else does."""
    real_spans, real_together = shapes.frame_spans, shapes.together

    def frame_spans(run, dreamer):  # type: ignore[no-untyped-def]
        if dreamer.schedule.row_delay == 1 or not dreamer.layout.rows:
            return real_spans(run, dreamer)
        raise RuntimeError("CUDA error: operation not permitted\nmore of it")

    def together(dreamer, prompt, actions, size, *rest, **how):  # type: ignore[no-untyped-def]
        if size == 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real_together(dreamer, prompt, actions, size, *rest, **how)

    monkeypatch.setattr(shapes, "frame_spans", frame_spans)
    monkeypatch.setattr(shapes, "together", together)
    monkeypatch.setattr("playloom.benchmarks.peer._gpt2", lambda *_: (_ for _ in ()).throw(ValueError("no such thing")))
    said: list[str] = []
    settings = BenchSettings(device="cpu", presets=("tiny",), dtype="bfloat16", only=SHAPE_CASES, quick=True)
    report = bench(settings, found=lambda row: said.append(row.said()))
    rows = {row["name"]: row for row in report.to_json()["rows"]}
    failed = {name: row["note"] for name, row in rows.items() if row["value"] is None}
    assert failed == {
        "tiny, rolling, bf16, raster: a frame": "not measured: RuntimeError: CUDA error: operation not permitted",
        "tiny, k = 1: 16 at once, all their frames": "not measured: the device ran out of memory",
        "tiny, 4 key/value heads, k = 1: 16 at once, all their frames": "not measured: the device ran out of memory",
    }
    assert rows["tiny, rolling, bf16, k = 1: a frame"]["note"] == "beside: not measured: ValueError: no such thing"
    assert len(rows) == len(said) == 14 and "many: tiny: 64 at once over one: " in " ".join(said)


def test_where_frames_are_captured_plain_ones_are_measured_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "cuda_capture", lambda _: lambda work: work)
    report = bench(BenchSettings(device="cpu", presets=("tiny",), only=("order",), quick=True)).to_json()
    assert [row["name"].partition("fp32, ")[2] for row in report["rows"]] == [
        "k = 1: a frame",
        "k = 1: a frame, nothing captured",
        "raster: a frame",
        "raster: a frame, nothing captured",
    ]
    assert all(row["value"] > 0 for row in report["rows"])


def test_a_case_of_the_model_that_fails_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("playloom.benchmarks.bundled.together", lambda *_: 1 / 0)
    report = bench(BenchSettings(model=str(folder), device="cpu", only=("batch", "branch"), quick=True)).to_json()
    first, *others = report["rows"]
    assert first["value"] is None and first["note"] == "not measured: ZeroDivisionError: division by zero"
    assert len(others) == 3 and all(row["value"] > 0 for row in others)


def test_without_a_gpu_a_sentence_says_what_is_skipped() -> None:
    report = bench(BenchSettings(device="cpu", only=("order",)))
    assert report.rows == [] and report.notes == (NO_GPU.format("200m and 1.6b"),)


def test_a_dream_is_timed_frame_by_frame(tiny_model) -> None:
    prompt, played = bundled_prompt(tiny_model)
    assert prompt.frames_THWC.shape == (4, 16, 24, 3) and len(played) > 40
    times = time_dream(Engine(tiny_model, row_delay=1), prompt, played[:3], 5, sampling=Sampling())
    assert len(times.frames_F) == 5 and times.first > 0
    assert times.rate == pytest.approx(5 / times.frames_F.sum())
    assert times.quantile(0.5) == pytest.approx(sorted(times.frames_F)[2])


def test_the_program_is_timed_as_a_user_starts_it() -> None:
    assert run_seconds(["--help"], threads=1) > 0
    with pytest.raises(PlayloomError, match=r"dream failed in a fresh process \(code 2\): .*moment"):
        run_seconds(["dream", "--prompt", "moment:nowhere"], threads=1)


def run(*arguments: str):
    app = typer.Typer()
    command.register(app)
    return CliRunner().invoke(app, arguments)


def test_the_command_prints_a_table_and_writes_json(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "speed.json"
    result = run(
        *(
            "--model",
            str(folder),
            "--device",
            "cpu",
            "--quick",
            "--only",
            "branch, order",
            "--frames",
            "3",
            "--threads",
            "1",
        ),
        *("--out", str(out)),
    )
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    content = json.loads(out.read_text())
    assert content["settings"]["frames"] == 3 and content["threads"] == 1
    assert lines[0].split()[:3] == ["case", "figure", "value"] and "no GPU" in lines[-1]


def test_the_command_runs_the_ladder(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_store(tmp_path / "store")
    small = EvaluationSettings(windows=2, horizon_moments=2, control_moments=1, control_steps=2)
    monkeypatch.setattr(EvaluationSettings, "quick", lambda self: small)
    result = run("--ladder", "--quick", "--frames", "2", "--model", str(folder), "--data", str(tmp_path / "store"))
    assert result.exit_code == 0, result.output
    assert "two standard errors" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--ladder", "--agreement"], "separate runs"),
        (["--agreement", "--only", "stream"], "belongs to the speed table"),
        (["--data", "."], "--data applies to --ladder only"),
        (["--only", "strem"], "unknown case"),
    ],
)
def test_the_command_refuses_what_does_not_fit(arguments: list[str], sentence: str) -> None:
    result = run(*arguments)
    assert isinstance(result.exception, PlayloomError) and sentence in str(result.exception)
