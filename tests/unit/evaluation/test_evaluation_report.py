"""The report's forms, the whole evaluation on a tiny model, and its command."""

import dataclasses
import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from conftest import loud_model, tiny_config
from evaluation_toys import frame_dataset, noise, random_actions
from playloom.atomic_io import folder_lock
from playloom.cli.app import app
from playloom.data.dataset import FrameDataset
from playloom.errors import CheckpointError, ConfigError, MissingExtraError, PictureError, RecordingError, StorageError
from playloom.evaluation import rollout
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.heads import auroc
from playloom.evaluation.report import (
    Report,
    Row,
    is_significant,
    markdown,
    rollout_plot,
    rollout_strip,
    standard_error,
    summary,
    table,
)
from playloom.evaluation.suite import evaluate, open_test_set
from playloom.media.images import read_picture
from playloom.models.card import format_value
from playloom.models.checkpoint import load_model, save_model
from playloom.models.folder import read_model
from playloom.models.onnx.export import export_onnx

SMALL = EvaluationSettings(
    frames=6,
    windows=3,
    horizon_segments=2,
    horizon_steps=3,
    greedy_segments=1,
    greedy_steps=1,
    collapse_step=4,
    control_segments=2,
    control_steps=2,
    game_segments=1,
    estimator_pairs=5,
    encoded_frames=40,
    inverse_updates=2,
    drift_dreams=2,
    drift_steps=20,
    revisit_segments=2,
    diversity_segments=2,
    diversity_steps=2,
    persistency_segments=2,
    persistency_steps=2,
    persistency_kept=0,
)
ROWS = [
    Row("horizon", "PSNR at step 1", 21.25, "dB", {"repeat": 20.0}, bar="> repeat", passed=True),
    Row("horizon", "PSNR at step 3", 18.0, "dB", bar="> repeat", passed=False),
    Row("control", "direction | right", 0.5, "%"),
    Row("control", "turn", math.nan, "deg", bar="9", passed=False),
]


def small_store(folder: Path, *, split: str = "test", size: tuple[int, int] = (16, 24)) -> FrameDataset:
    lengths = [40, 30, 20]
    metas = [{"split": name, "seed": steps} for name, steps in zip((split, split, "heldout"), lengths, strict=True)]
    yaw = np.concatenate([5 * np.arange(steps) % 360 for steps in lengths])
    return frame_dataset(folder, noise(90, size), random_actions(90), lengths=lengths, states={"yaw": yaw}, metas=metas)


def test_the_table_is_aligned_and_says_what_failed() -> None:
    lines = table(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    column = lines[0].index("value")
    assert lines[2][column:].startswith("21.25 dB") and lines[2].endswith("reached")
    assert lines[3][column:].startswith("18.00 dB") and lines[3].endswith("missed")
    assert lines[3].startswith("  ") and lines[4].startswith("control")
    assert "repeat 20.00 dB" in lines[2] and lines[4][column:].strip() == "50.0 %"
    assert "n/a" in lines[5]


def test_markdown_has_a_row_each_and_escapes_bars() -> None:
    lines = markdown(ROWS).splitlines()
    assert len(lines) == 2 + len(ROWS)
    assert all(line.replace("\\|", "").count("|") == 7 for line in lines)


def test_the_summary_counts_and_names() -> None:
    report = Report(rows=tuple(ROWS), curves={}, run={})
    assert summary(report) == "1 of 3 bars reached; not reached: horizon: PSNR at step 3; control: turn"


def test_json_is_strict_and_complete(tmp_path: Path) -> None:
    curves = {"a": np.array([1.0, np.nan]), "b": [math.inf]}
    report = Report(rows=tuple(ROWS), curves=curves, run={"seed": np.int64(3)})
    report.write(tmp_path / "deep" / "figures.json")
    content = json.loads((tmp_path / "deep" / "figures.json").read_text(), parse_constant=pytest.fail)
    assert content["format"] == 1 and content["run"] == {"seed": 3}
    assert content["curves"] == {"a": [1.0, None], "b": [None]}
    assert set(content["rows"][0]) == {field.name for field in dataclasses.fields(Row)}
    assert content["rows"][3]["value"] is None and content["rows"][0]["baselines"] == {"repeat": 20.0}


def test_figures_are_shown_in_the_digits_they_deserve() -> None:
    assert [format_value(1.23456, unit) for unit in ("", "dB", "nats", "%", "codes")] == [
        "1.235", "1.23 dB", "1.235 nats", "123.5 %", "1 codes",
    ]  # fmt: skip


def test_a_standard_error_counts_episodes_not_segments() -> None:
    values = np.random.default_rng(0).normal(0, 1, 50)
    assert standard_error(values) == pytest.approx(values.std(ddof=1) / math.sqrt(50), rel=0.1)
    twice = np.concatenate([values, values])
    episodes = np.concatenate([np.arange(50), np.arange(50)])
    assert standard_error(twice, episodes) == pytest.approx(standard_error(values), rel=1e-9)
    assert standard_error(twice) == pytest.approx(standard_error(values) / math.sqrt(2), rel=0.15)
    assert standard_error(values, statistic=np.median) == pytest.approx(1.25 / math.sqrt(50), rel=0.3)
    assert math.isnan(standard_error(values[:1])) and standard_error(values, np.zeros(50)) == standard_error(values)
    row = Row.of("horizon", "PSNR", values + 20, "dB", episodes_M=np.arange(50))
    assert row.cells()[2] == f"{row.value:.2f} ± {row.error:.2f} dB" and row.count == 50


def test_draws_without_a_value_leave_a_standard_error() -> None:
    """Deaths in three of twenty episodes: some draws have none, and no area under the curve."""
    episodes = np.arange(20).repeat(10)
    dead = (episodes < 3) & (np.arange(200) % 10 == 9)
    scores = dead + np.random.default_rng(0).normal(size=200)
    error = standard_error(np.stack([scores, dead], axis=1), episodes, auroc)
    assert 0.01 < error < 0.2
    assert math.isnan(standard_error(scores, episodes, lambda _: math.nan))


def test_beyond_noise_asks_for_two_standard_errors() -> None:
    source = np.random.default_rng(0)
    assert is_significant(source.normal(1.0, 1.0, 50))
    assert not is_significant(source.normal(0.0, 1.0, 50))
    assert not is_significant(-source.normal(1.0, 1.0, 50))
    assert not is_significant(np.array([5.0]))


def test_settings_refuse_nonsense_and_quick_is_smaller() -> None:
    for wrong in ({"windows": 0}, {"diversity_segments": -1}, {"diversity_steps": 0}, {"persistency_kept": 1.5}):
        with pytest.raises(ConfigError, match=next(iter(wrong))):
            EvaluationSettings(**wrong)
    assert EvaluationSettings(persistency_segments=0).persistency_segments == 0
    quick = EvaluationSettings().quick()
    assert quick.horizon_segments < EvaluationSettings().horizon_segments and quick.game_segments == 0
    assert (quick.horizon_steps, quick.collapse_step) == (30, 50)


@dataclasses.dataclass
class Evaluated:
    """A tiny model, its store and its whole evaluation: the costly part, once."""

    folder: Path
    report: Report
    done: list[str]

    def command(self, out: Path, *words: str) -> list[str]:
        call = ["evaluate", "--model", str(self.folder / "model"), "--data", str(self.folder / "store")]
        return [*call, "--cache-dir", str(out), "--quick", "--decode-order", "2", "--threads", "1", *words]


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Evaluated:
    folder, done = tmp_path_factory.mktemp("evaluated"), list[str]()
    save_model(folder / "model", loud_model(tiny_config()))
    model, store = load_model(folder / "model"), small_store(folder / "store")
    settings = dataclasses.replace(SMALL, row_delay=2)
    return Evaluated(folder, evaluate(model, store, settings, pictures=folder / "pictures", progress=done.append), done)


@pytest.fixture
def small_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    def quick(self: EvaluationSettings) -> EvaluationSettings:
        return dataclasses.replace(SMALL, row_delay=self.row_delay, seed=self.seed)

    monkeypatch.setattr(EvaluationSettings, "quick", quick)


@pytest.mark.slow
def test_evaluate_measures_every_part(evaluated: Evaluated) -> None:
    parts = list(dict.fromkeys(row.part for row in evaluated.report.rows))
    assert parts == [
        "tokenizer",
        "likelihood",
        "alignment",
        "horizon",
        "collapse",
        "control",
        "inverse dynamics",
        "drift",
        "revisit",
        "diversity",
        "persistency",
    ]
    assert {"horizon", "control, left", "diversity, full dream", "persistency"} <= set(evaluated.done)
    content = evaluated.report.to_json()
    json.dumps(content, allow_nan=False)
    run, fingerprint = content["run"], load_model(evaluated.folder / "model").fingerprint
    assert run["model"]["fingerprint"] == fingerprint and run["data"]["test_seeds"] == [30, 40]
    assert run["machine"]["cpu"] and run["machine"]["cores"] and run["machine"]["torch"] and run["seconds"]["all"] > 0
    assert len(content["curves"]["horizon"]["dream_psnr"]) == 4
    manifest = read_picture(evaluated.folder / "pictures" / "strip.png").manifest
    assert manifest is not None and manifest.weights == fingerprint
    assert read_picture(evaluated.folder / "pictures" / "horizon.png").frame_HWC.shape == (400, 720, 3)


@pytest.mark.slow
def test_the_command_repeats_it_prints_the_table_and_writes_json(
    evaluated: Evaluated, tmp_path: Path, small_quick: None
) -> None:
    result = CliRunner().invoke(app, evaluated.command(tmp_path / "work"))
    assert result.exit_code == 0, result.output
    assert "note: rows without the real game: no test episode can be replayed" in result.output
    assert "PSNR of reconstructions" in result.output and "missed" in result.output and "bars reached" in result.output
    content = json.loads((tmp_path / "work" / "evaluation.json").read_text())
    assert content["run"]["settings"]["row_delay"] == 2
    assert content["rows"] == evaluated.report.to_json()["rows"], "same seed, same figures"
    assert (tmp_path / "work" / "strip.png").is_file()


def terminate(*_: object, **__: object) -> None:
    signal.raise_signal(signal.SIGTERM)


def fail(*_: object, **__: object) -> None:
    raise RecordingError("no stretch of 14 steps")


@pytest.mark.slow
@pytest.mark.parametrize("end", [terminate, fail])
def test_an_evaluation_that_ends_early_keeps_the_parts_that_were_done(
    end: Callable[..., None], evaluated: Evaluated, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_quick: None
) -> None:
    """After an error the figures of minutes were lost."""
    monkeypatch.setattr(rollout, "measure_rollout", end)
    result = CliRunner().invoke(app, evaluated.command(tmp_path, "--seed", "1"))
    assert result.exit_code == 143 if end is terminate else isinstance(result.exception, RecordingError), result.output
    assert "figures so far" in result.stderr
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["run"]["parts"] == ["tokenizer", "likelihood"] and content["rows"]
    whole = {(row.part, row.name): row.value for row in evaluated.report.rows}
    assert any(whole[row["part"], row["name"]] != row["value"] for row in content["rows"]), "another seed"


def test_the_command_refuses_nonsense_before_it_measures(tmp_path: Path) -> None:
    small_store(tmp_path / "store")
    save_model(tmp_path / "model", loud_model(tiny_config()))
    call = ["evaluate", "--model", str(tmp_path / "model"), "--data", str(tmp_path / "store")]
    call += ["--cache-dir", str(tmp_path / "work")]
    refused = CliRunner().invoke(app, [*call, "--decode-order", "0"])
    assert isinstance(refused.exception, ConfigError) and "row delay 0 does not fit" in str(refused.exception)
    refused = CliRunner().invoke(app, [*call, "--threads", "-1"])
    assert refused.exit_code == 2 and "--threads" in refused.stderr
    refused = CliRunner().invoke(app, [*call, "--out", str(tmp_path)])
    assert "it is a folder" in str(refused.exception), "now, not after minutes"


def test_the_graphs_follow_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their description kept the decode order of the export, which a page without a server plays."""
    pytest.importorskip("onnx")
    save_model(tmp_path / "model", loud_model(tiny_config()))
    export_onnx(tmp_path / "model")
    settings = {"row_delay": 4, "sampling": {"temperature": 0.5}}
    model = {"fingerprint": read_model(tmp_path / "model").fingerprint}
    machine = {"device": "cpu", "cpu": "", "cores": 1, "torch": ""}
    run = {"settings": settings, "model": model, "machine": machine, "seconds": {"all": 1}, "notes": []}
    report = Report(rows=tuple(ROWS), curves={}, run=run)
    monkeypatch.setattr("playloom.cli.evaluate._measure", lambda *_: report)
    call = ["evaluate", "--model", str(tmp_path / "model"), "--cache-dir", str(tmp_path / "work"), "--update-card"]
    assert CliRunner().invoke(app, call).exit_code == 0
    assert read_model(tmp_path / "model").card["row_delay"] == 4
    described = json.loads((tmp_path / "model" / "onnx.json").read_text())
    assert described["step"]["row_delay"] == 4 and described["sampling"] == {"temperature": 0.5}
    model["fingerprint"] = "of before"  # as if a training had exported again during the evaluation
    refused = CliRunner().invoke(app, call)
    assert isinstance(refused.exception, CheckpointError) and "other weights" in str(refused.exception)
    assert "PSNR at step 1" in refused.stdout, "the figures are shown all the same"


def test_evaluate_says_what_does_not_fit(tmp_path: Path) -> None:
    model = loud_model(tiny_config())
    with pytest.raises(PictureError, match="30 x 20"):
        evaluate(model, small_store(tmp_path / "big", size=(20, 30)), SMALL)
    with pytest.raises(ConfigError, match=r"\b7\b"):
        evaluate(model, small_store(tmp_path / "store"), dataclasses.replace(SMALL, row_delay=7))
    with pytest.raises(RecordingError, match="504"):
        evaluate(model, FrameDataset.open(tmp_path / "store"), dataclasses.replace(SMALL, collapse_step=500))


def test_a_store_without_test_episodes_is_refused(tmp_path: Path) -> None:
    small_store(tmp_path / "train", split="train")
    with pytest.raises(RecordingError, match="test split"):
        open_test_set(tmp_path / "train", tmp_path / "work")
    with pytest.raises(RecordingError, match="not a folder"):
        open_test_set(tmp_path / "nothing", tmp_path / "work")


def test_a_test_set_is_prepared_by_one_process_at_a_time(tmp_path: Path) -> None:
    """Two evaluations with one cache folder wrote into the same files, and one of them crashed."""
    with folder_lock(tmp_path / "work"), pytest.raises(StorageError, match="another process"):
        open_test_set(tmp_path / "nothing", tmp_path / "work")


@pytest.mark.parametrize("package", ["scipy", "matplotlib"])
def test_without_the_extra_the_command_names_it(package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    refused = CliRunner().invoke(app, ["evaluate", "--cache-dir", str(tmp_path)])
    assert isinstance(refused.exception, MissingExtraError) and "'playloom[evaluate]'" in str(refused.exception)


@pytest.mark.slow  # without a cache of fonts, matplotlib runs fc-list
def test_a_plot_shows_its_lines_and_a_strip_marks_dreams() -> None:
    curves = {"steps": [1, 2, 3], "dream_psnr": np.array([20.0, 18, 15]), "repeat_psnr": np.array([17.0, 17, 17])}
    picture = rollout_plot({**curves, "ceiling_psnr": {"1": 22.0, "3": 22.0}}, "title")
    assert picture.shape == (400, 720, 3) and picture.dtype == np.uint8
    for colour in ((220, 90, 20), (110, 110, 110), (40, 150, 70)):
        assert (picture == colour).all(-1).sum() > 100
    black = np.zeros((4, 18, 30, 3), np.uint8)
    actions = np.zeros((4, 16), np.uint8)
    actions[:, 12:] = 5
    sheet = rollout_strip(black, black, actions, [1, 4], "title")
    badge = (sheet == (20, 20, 20)).all(-1)
    assert badge.any() and not badge[: sheet.shape[0] // 2].any()
    actions[:, 12:] = [1, 9, 9, 9]
    other = actions - (np.arange(16) == 15)
    sheets = [rollout_strip(black, black, one.astype(np.uint8), [4], "title") for one in (actions, other)]
    assert (sheets[0] != sheets[1]).any(), "the caption was cut off before its last input"
