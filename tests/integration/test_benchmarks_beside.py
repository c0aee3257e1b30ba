"""What is set beside: GPT-2 of the same shape, decoders that must agree, orders on the ladder."""

import dataclasses
import sys
from pathlib import Path

import pytest
import torch
from test_engine_device import Recorder
from test_evaluation_report import small_store

from conftest import loud_model, tiny_config
from playloom.benchmarks.agreement import agreement, cached_against_naive, captured_against_plain
from playloom.benchmarks.ladder import ladder
from playloom.benchmarks.peer import measure_peer, peer_or_note
from playloom.benchmarks.settings import BenchSettings
from playloom.benchmarks.stream import bundled_prompt
from playloom.errors import MissingExtraError, PictureError
from playloom.evaluation.config import EvaluationSettings
from playloom.models.checkpoint import save_model
from playloom.models.presets import preset

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    model = dataclasses.replace(loud_model(tiny_config()), card={"row_delay": 1, "sampling": {"temperature": 0.5}})
    save_model(tmp_path / "model", model, dtype=torch.float32)
    return tmp_path / "model"


def test_gpt2_of_the_same_shape_draws_one_frame_of_tokens() -> None:
    before = torch.random.get_rng_state()
    frame = measure_peer(preset("tiny"), CPU, torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert frame.tokens == frame.asked == 24 and frame.frame_seconds == frame.seconds > 0
    assert frame.cache == "StaticCache" and frame.prefill_seconds > 0
    assert "all 24 tokens of a frame" in frame.note


def test_what_was_not_drawn_in_time_is_not_extrapolated() -> None:
    frame = measure_peer(preset("tiny"), CPU, torch.float32, budget_seconds=0.0, warm=False)
    assert 0 < frame.tokens < frame.asked and frame.frame_seconds is None
    assert f"the first {frame.tokens} tokens" in frame.note


def test_without_transformers_the_note_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'playloom\[bench\]'"):
        measure_peer(preset("tiny"), CPU, torch.float32)
    assert peer_or_note(preset("tiny"), CPU, torch.float32) == (
        None,
        "beside: not measured: pip install 'playloom[bench]'",
    )


def test_replayed_frames_are_counted_against_plain_ones() -> None:
    """And a capture that plays back something else is found out."""
    model = loud_model(tiny_config())
    prompt, played = bundled_prompt(model)
    recorder = Recorder()
    row = captured_against_plain(model, 1, prompt, played[:4], recorder)
    assert row.equal == row.tokens == 4 * 24 and recorder.replayed >= 4
    assert captured_against_plain(model, 1, prompt, played[:4], lambda work: lambda: None).equal < row.tokens


@pytest.mark.parametrize(("positions", "rows", "row_delay"), [("rolling", True, 1), ("absolute", False, None)])
def test_the_decoders_agree_to_the_last_logit(positions, rows, row_delay) -> None:
    model = loud_model(tiny_config(positions, rows))
    prompt, played = bundled_prompt(model)
    row = cached_against_naive(model, row_delay, prompt, played[:3])
    assert (row.tokens, row.equal) == (72, 72)
    assert row.largest_difference is not None and 0 < row.largest_difference < 1e-4
    spoilt = loud_model(tiny_config(positions, rows), seed=1)
    other = cached_against_naive(spoilt, row_delay, prompt, played[:1])
    assert other.equal == other.tokens == 24 and other.largest_logit != row.largest_logit


def test_bf16_weights_keep_exact_angles() -> None:
    """Angles once followed the weights into bf16, which moved far columns by whole places."""
    model = loud_model(tiny_config()).to("cpu", torch.bfloat16)
    rotary = model.transformer.rotary
    assert rotary is not None and model.transformer.token.weight.dtype == torch.bfloat16
    assert rotary.step_freq_F.dtype == rotary.place_angle_PF.dtype == torch.float64
    assert torch.equal(rotary.step_freq_F, loud_model(tiny_config()).transformer.rotary.step_freq_F)


def test_agreement_covers_every_order_and_both_number_types(folder: Path) -> None:
    report = agreement(BenchSettings(model=str(folder), frames=1))
    rows = report.to_json()["rows"]
    assert [row["order"] for row in rows] == ["raster", "row lag 4", "row lag 2", "row lag 1"] * 2
    assert all(row["equal"] == row["tokens"] == 24 for row in rows[:4])
    assert all(0 < row["equal"] <= row["tokens"] == 72 for row in rows[4:])
    assert report.table.splitlines()[2].startswith("cached, naive decoder  raster")


SMALL = EvaluationSettings(windows=3, horizon_moments=2, control_moments=2, control_steps=2)


def test_the_ladder_judges_every_order_by_the_evaluation(folder: Path, tmp_path: Path) -> None:
    store = small_store(tmp_path / "store")
    settings = BenchSettings(model=str(folder), frames=2)
    rows = ladder(store, settings, SMALL).to_json()["rows"]
    assert [row["order"] for row in rows] == ["raster", "row lag 4", "row lag 2", "row lag 1"]
    assert [row["passes"] for row in rows] == [24, 18, 12, 9]
    assert sum(row["chosen"] for row in rows) == 1
    assert all(row["frames_per_second"] > 0 and set(row["psnr"]) == {"1", "3", "10"} for row in rows)
    assert all(row["direction_right"] is not None for row in rows)
    same = rows[0]["loss_to_raster"]
    assert all(loss["mean"] == 0 for loss in same.values()) and same["cross-entropy"]["count"] == 3
    with pytest.raises(PictureError, match="30 x 20"):
        ladder(small_store(tmp_path / "big", size=(20, 30)), settings, SMALL)
