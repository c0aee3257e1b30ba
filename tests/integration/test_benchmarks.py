"""The benchmark scripts: bytes and FLOPs against counted truth, rows, and every script once at toy size."""

import argparse
import dataclasses
import json
import math
import sys

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import _roofline
import bench_decode
import bench_model
import bench_server
import decode_order_sweep
import parity
from _gpt2 import measure_baseline, time_gpt2
from _harness import Row, Target, report, run, run_case, show, table
from _roofline import (
    Cost,
    PeakRates,
    attention_flops,
    cache_reads,
    counted_flops,
    frame_cost,
    measure_peak_rates,
    pass_weights,
    prefill_cost,
    step_flops,
    tokenizer_cost,
)
from conftest import loud_model, tiny_config
from playloom.actions.codec import SLOT_SIZES
from playloom.data.dataset import FrameDataset
from playloom.data.recording import STATE_COLUMNS
from playloom.errors import ConfigError, PictureError, PlayloomError
from playloom.evaluation.config import EvaluationSettings
from playloom.inference.benchmark import first_prompt
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.torch_sampling import BatchSampler
from playloom.models.checkpoint import save_model
from playloom.models.decode_order import schedule
from playloom.models.presets import preset
from playloom.server.settings import Settings

CPU = torch.device("cpu")
MIXED = {"local_steps": 2, "global_every": 2, "qk_norm": True, "layers": 3}


@pytest.fixture(autouse=True)
def small_peaks(monkeypatch):
    """Peak rates of small arrays: some processors multiply large bf16 matrices for seconds."""
    monkeypatch.setitem(_roofline._BYTES, "cpu", 1 << 20)
    monkeypatch.setitem(_roofline._SIDE, "cpu", 64)


@pytest.fixture
def folder(tmp_path):
    model = dataclasses.replace(loud_model(tiny_config()), card={"row_delay": 1, "sampling": {"temperature": 0.5}})
    save_model(tmp_path / "model", model, dtype=torch.float32)
    return tmp_path / "model"


def rows_of(script, capsys, *words):
    script.main([*map(str, words), "--quick", "--json"])
    return {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}


# -- Roofline --------------------------------------------------------------------------------------------------------


class AttentionReads(TorchDispatchMode):
    """Counts the numbers in all keys and values that attention is given."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(func):
            self.numbers += args[1].numel() + args[2].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, MIXED, {"parallel": True}])
@pytest.mark.parametrize("row_delay", [None, 2, 1])
def test_cache_reads_are_what_attention_is_given_in_a_frame_of_a_full_context(row_delay, changes):
    model = loud_model(tiny_config(**changes))
    engine, layout = Engine(model, row_delay=row_delay), model.config.layout
    prompt, actions = bench_decode.random_prompt(model.config, seed=0)
    session = engine.open(prompt, sampling=Sampling(temperature=0.0))
    for action_A in actions[:3]:
        session.step(action_A)
    session.step(actions[3], frame=None)
    greedy = Sampling(temperature=0.0)
    draws = BatchSampler([greedy], torch.zeros(1, layout.image_slots, layout.vocab.codebook_size))
    with torch.inference_mode(), AttentionReads() as reads:
        engine.decoder.dream_frame([session.state], draws)
    assert reads.numbers == cache_reads(model.config, engine.schedule)


@pytest.mark.parametrize("changes", [{}, MIXED, {"kv_heads": None}, {"parallel": True}])
def test_weights_and_flops_are_those_of_the_networks(changes):
    """`forward` computes masked pairs of its own step too; the roofline leaves them out."""
    model = loud_model(tiny_config(**changes))
    config, order, net = model.config, schedule(model.config.layout, 1), model.transformer
    codes = config.layout.vocab.codebook_size
    blocks = sum(weight.numel() for weight in (*net.blocks.parameters(), *net.norm.parameters()))
    assert pass_weights(config) == blocks + net.token.weight[:codes].numel()
    inputs_1TP = torch.zeros(1, 4, config.layout.positions, dtype=torch.int64)
    masked = config.transformer.layers * attention_flops(
        config.transformer, int((~torch.from_numpy(order.visible_PP)).sum())
    )
    counted = counted_flops(lambda: net(inputs_1TP, torch.from_numpy(order.visible_PP)))
    assert counted == sum(step_flops(config, order, past, logits=False) + masked for past in range(4))
    hidden_ND = torch.zeros(config.layout.image_slots, config.transformer.width)
    head = counted_flops(lambda: net.logits(hidden_ND, 0, codes))
    assert head == step_flops(config, order, 3) - step_flops(config, order, 3, logits=False)


def test_a_batch_shares_the_weights_but_not_cache_or_flops():
    config = tiny_config()
    order = schedule(config.layout, 1)
    one, two, three = (frame_cost(config, order, torch.bfloat16, sessions) for sessions in (1, 2, 3))
    assert three.bytes - two.bytes == two.bytes - one.bytes == 2 * cache_reads(config, order)
    assert one.bytes - (two.bytes - one.bytes) == 2 * order.image_passes * pass_weights(config)
    assert three.flops == 3 * one.flops == 3 * step_flops(config, order, 3)
    assert cache_reads(tiny_config(kv_heads=None), order) == 2 * cache_reads(config, order)
    absolute = tiny_config("absolute", rows=False)
    order = schedule(absolute.layout)
    frame, prefill = (cost(absolute, order, torch.float32, *n) for cost, n in ((frame_cost, ()), (prefill_cost, (3,))))
    assert frame.flops == step_flops(absolute, order, 3) + prefill.flops


def test_a_roofline_is_the_slower_of_bytes_and_flops(tiny_model):
    rates = PeakRates(bandwidth=10.0, flops=100.0)
    assert Cost(20, 100).seconds(rates) == 2.0 and Cost(20, 500).seconds(rates) == 5.0
    one, two = (tokenizer_cost(tiny_model.tokenizer, decode=count) for count in (1, 2))
    assert two.flops == 2 * one.flops > 0
    assert two.bytes == one.bytes == sum(4 * weight.numel() for weight in tiny_model.tokenizer.decoder.parameters())
    measured = measure_peak_rates(CPU, torch.float32, seconds=0.01)
    assert measured.bandwidth > 1e7 and measured.flops > 1e7


# -- Harness ---------------------------------------------------------------------------------------------------------


def test_rows_tables_and_json(tmp_path, capsys):
    rows = [
        Row("stream", "rate", 12.5, "frames/s", target=Target(least=10.0), roofline=50.0),
        Row("stream", "p95", 200.0, "ms", target=Target(most=150.0), roofline=20.0, note="once"),
        Row("order", "200m", math.nan, "ms", note="once", detail={"ms": np.arange(2.0)}),
        *run_case("order", "1.6b", "ms", lambda: [][0]),
    ]
    assert [row.reached for row in rows] == [True, False, None, None]
    assert [row.times_roofline for row in rows] == [4.0, 10.0, None, None]
    lines = table(rows).splitlines()
    assert lines[2].index("12.5") == lines[3].index("200 ms") == lines[5].index("not measured")
    assert lines[6] == "[1] once" and "IndexError" in lines[7]
    assert [show(value, "ms") for value in (1234.5, 0.12345, None)] == ["1234 ms", "0.123 ms", ""]
    assert Target(0.9, 1.1).text("x") == "0.9 to 1.1 x" and not Target(0.9, 1.1).reached(1.11)
    given = argparse.Namespace(out=tmp_path / "deep" / "speed.json", json=True)
    report(given, [row.to_json() for row in rows], "", CPU)
    content = json.loads(given.out.read_text())
    assert content == json.loads(capsys.readouterr().out) and content["versions"]["torch"] == torch.__version__
    assert content["rows"][2]["value"] is None and content["rows"][2]["detail"] == {"ms": [0.0, 1.0]}


def test_an_error_of_the_user_ends_a_script_with_code_2(capsys):
    def main():
        raise ConfigError("no such device")

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 2 and "no such device" in capsys.readouterr().err


# -- Scripts ---------------------------------------------------------------------------------------------------------


def test_gpt2_draws_one_frame_of_tokens_or_says_why_not(monkeypatch):
    before = torch.random.get_rng_state()
    baseline = time_gpt2(preset("tiny"), CPU, torch.float32)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert baseline.frame and baseline.prefill and "all 24 tokens" in baseline.note
    late = time_gpt2(preset("tiny"), CPU, torch.float32, budget=0.0, warmup=False)
    assert late.frame is None and "of 24 tokens" in late.note
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install" in measure_baseline(preset("tiny"), CPU, torch.float32).note


def test_bench_model(folder, capsys, monkeypatch):
    monkeypatch.setattr(bench_model, "program_seconds", lambda words: 1 / 0)
    rows = rows_of(bench_model, capsys, "--model", folder, "--frames", 3)
    assert rows.pop("start")["note"].startswith("not measured: ZeroDivisionError")
    assert "onnx" in rows.pop("backends")["note"]
    assert all(row["value"] > 0 for row in rows.values()) and {row["case"] for row in rows.values()} >= {
        "env",
        "branch",
    }
    assert rows["time per frame, p95"]["baseline"] > 0 and rows["batch of 8, all frames"]["times_roofline"] > 0


def test_the_program_is_timed_in_a_new_process():
    assert bench_model.program_seconds(["--version"]) > 0
    with pytest.raises(PlayloomError, match="nowhere"):
        bench_model.program_seconds(["dream", "--prompt", "bundled:nowhere"])


def test_bench_decode_where_one_batch_fails(capsys, monkeypatch):
    """In bf16 and with captures, as on a GPU."""
    timed = bench_decode.time_batch

    def time_batch(engine, prompt, actions, size, *rest, **how):
        if size == 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return timed(engine, prompt, actions, min(size, 2), *rest, **how)

    monkeypatch.setattr(bench_decode, "time_batch", time_batch)
    monkeypatch.setattr(bench_decode, "cuda_capture", lambda _: lambda work: work)
    options = ("--device", "cpu", "--presets", "tiny", "--dtype", "bfloat16", "--frames", 2)
    rows = rows_of(bench_decode, capsys, *options)
    failed = {name for name, row in rows.items() if row["value"] is None}
    assert len(rows) == 16 and len(failed) == 2 and all("batch of 16" in name for name in failed)
    assert rows["tiny, rolling, bf16, k = 1"]["detail"]["passes"] == 9
    assert rows["tiny, rolling, bf16, raster, no CUDA graphs"]["baseline"] > 0


def test_replayed_frames_are_compared_with_plain_ones():
    """A capture that replays something else is found."""
    model = loud_model(tiny_config())
    prompt, played = first_prompt(model)
    result = parity.graphs_and_plain(model, 1, prompt, played[:4], lambda work: work)
    assert result.equal == result.tokens == 4 * 24
    assert parity.graphs_and_plain(model, 1, prompt, played[:4], lambda work: lambda: None).equal < result.tokens


def test_bf16_weights_keep_exact_angles():
    """Angles once followed the weights into bf16, which moved far columns by whole places."""
    model = loud_model(tiny_config()).to("cpu", torch.bfloat16)
    rotary = model.transformer.rotary
    assert rotary is not None and rotary.step_freq_F.dtype == rotary.place_angle_PF.dtype == torch.float64
    assert torch.equal(rotary.step_freq_F, loud_model(tiny_config()).transformer.rotary.step_freq_F)


def test_parity_covers_every_order(folder, capsys):
    parity.main(["--model", str(folder), "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["order"] for row in rows] == ["raster", "row delay 4", "row delay 2", "row delay 1"]
    assert all(0 < row["equal"] <= row["tokens"] == 72 for row in rows)


def result(rate, image, psnr, right=1.0):
    return decode_order_sweep.OrderResult(
        model="toy",
        order="order",
        passes=1,
        rate=rate,
        image_B=np.array(image),
        psnr_M={step: np.array(psnr) for step in (1, 3, 10)},
        right_T=np.full(4, right),
    )


def test_the_sweep_chooses_the_fastest_order_that_is_not_worse_beyond_noise():
    raster = result(1.0, [2.0, 2.1, 1.9, 2.0], [18.0, 17.0, 19.0, 18.0])
    close = result(2.0, [2.1, 2.0, 1.8, 2.1], [18.1, 16.9, 19.2, 17.9])
    worse = result(3.0, [2.5, 2.6, 2.41, 2.5], [18.1, 16.9, 19.2, 17.9])
    assert decode_order_sweep.fastest_within_noise([raster, close, worse]) is close
    assert worse.worse(raster) == ("cross-entropy",) and close.worse(raster) == ()
    loss = decode_order_sweep.to_json(worse, raster, False)["loss_to_raster"]["cross-entropy"]
    assert loss["mean"] == pytest.approx(0.5025) and loss["standard_error"] == pytest.approx(0.0025)
    dim = result(4.0, raster.image_B, raster.psnr_M[1] - [1.0, 1.0, 0.99, 1.0])
    assert dim.worse(raster) == ("PSNR 1", "PSNR 3", "PSNR 10")
    assert result(4.0, raster.image_B, raster.psnr_M[1], right=0.0).worse(raster) == ("direction",)


def small_store(folder, size):
    source = np.random.default_rng(0)
    writer = FrameDataset.create(folder, 40, height=size[0], width=size[1], state_columns=STATE_COLUMNS)
    frames = source.integers(0, 256, (40, *size, 3)).astype(np.uint8)
    actions = source.integers(0, SLOT_SIZES, (40, 16)).astype(np.uint8)
    states = np.zeros((40, len(STATE_COLUMNS)), np.float32)
    writer.append_episode(frames, actions, states, {"split": "test", "seed": 40})
    writer.finish()
    return folder


@pytest.mark.slow
def test_the_sweep_measures_every_order_by_the_evaluation(folder, tmp_path, capsys, monkeypatch):
    small = EvaluationSettings(windows=3, horizon_segments=2, control_segments=2, control_steps=2)
    monkeypatch.setattr(EvaluationSettings, "quick", lambda self: small)
    words = ["--model", str(folder), "--frames", "2", "--quick", "--data"]
    decode_order_sweep.main([*words, str(small_store(tmp_path / "store", (16, 24))), "--json"])
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["passes"] for row in rows] == [24, 18, 12, 9] and sum(row["chosen"] for row in rows) == 1
    assert all(row["frames_per_second"] > 0 and row["direction_right"] is not None for row in rows)
    assert all(loss["mean"] == 0 for loss in rows[0]["loss_to_raster"].values())
    with pytest.raises(PictureError, match="30"):
        decode_order_sweep.main([*words, str(small_store(tmp_path / "big", (20, 30)))])


@pytest.mark.slow
def test_a_small_load_on_a_server_gives_every_row(folder):
    """A group that the server has no room for costs no other row."""
    assert set(bench_server.SETTINGS) <= set(Settings.model_fields)
    load = bench_server.Load(users=(1, 2), requests=2, players=(1, 2), seconds=0.5, memory=(4, 8), context=1, held=1)
    rows = bench_server.measure(str(folder), load, {**bench_server.SETTINGS, "max_sessions": 1})
    assert {row.case for row in rows} == {"score 1", "score 2", "live 1", "live 2", "memory"}
    assert [row.case for row in rows if row.case != "memory" and not row.value] == ["live 2"]
    with pytest.raises(PlayloomError, match="no-such-model"), bench_server.server_process("no-such-model", {}):
        pass
