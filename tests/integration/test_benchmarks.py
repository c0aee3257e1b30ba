"""Benchmarks without a clock: floors against counted truth, rows and their forms, settings, the ladder's verdict."""

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from conftest import loud_model, tiny_config
from playloom.benchmarks.agreement import KeptDraws
from playloom.benchmarks.floor import (
    Cost,
    attention_flops,
    cache_reads,
    counted_flops,
    frame_cost,
    linear_flops,
    pass_weights,
    prefill_cost,
    step_flops,
    tokenizer_cost,
)
from playloom.benchmarks.ladder import RULE, Rung, verdicts
from playloom.benchmarks.rates import Rates, measure_rates
from playloom.benchmarks.rows import Bar, BenchReport, BenchRow, show, speed_table
from playloom.benchmarks.settings import BenchSettings
from playloom.benchmarks.shape_run import random_prompt, rolling
from playloom.errors import BadInputError, ConfigError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.decode_order import schedule
from playloom.models.presets import PRESETS, preset

MIXED = {"local_steps": 2, "global_every": 2, "qk_norm": True, "layers": 3}


class AttentionReads(TorchDispatchMode):
    """Counts the numbers in all keys and values that attention is given."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if "scaled_dot_product" in str(func):
            self.numbers += args[1].numel() + args[2].numel()
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("changes", [{}, MIXED, {"parallel": True}])
@pytest.mark.parametrize("row_delay", [None, 2, 1])
def test_cache_reads_are_what_attention_is_given_in_a_frame_of_a_full_context(row_delay, changes):
    model = loud_model(tiny_config(**changes))
    dreamer = Engine(model, row_delay=row_delay)
    prompt, actions = random_prompt(model.config, seed=0)
    session = dreamer.open(prompt, sampling=Sampling(temperature=0.0))
    for action_A in actions[:3]:
        session.step(action_A)
    session.step(actions[3], frame=None)
    sizes = model.config.layout
    draws = KeptDraws(sizes.image_slots, sizes.vocab.codebook_size, model.device)
    with torch.inference_mode(), AttentionReads() as reads:
        dreamer.decoder.dream_frame([session.state], draws)
    assert reads.numbers == cache_reads(model.config, dreamer.schedule)


@pytest.mark.parametrize(
    "config", [tiny_config(), tiny_config(**MIXED), tiny_config(kv_heads=None), tiny_config(parallel=True)]
)
def test_pass_weights_are_the_parameters_a_pass_reads(config):
    model = loud_model(config)
    net, codes = model.transformer, model.config.layout.vocab.codebook_size
    blocks = sum(weight.numel() for weight in (*net.blocks.parameters(), *net.norm.parameters()))
    assert pass_weights(model.config) == blocks + net.token.weight[:codes].numel()


@pytest.mark.parametrize("changes", [{}, MIXED, {"parallel": True}])
def test_step_flops_are_what_torch_counts(changes):
    """`forward` computes masked pairs of its own step too; the floor leaves them out."""
    model = loud_model(tiny_config(**changes))
    config, order = model.config, schedule(model.config.layout, 1)
    net, positions = config.transformer, config.layout.positions
    inputs_1TP = torch.zeros(1, 4, positions, dtype=torch.int64)
    counted = counted_flops(lambda: model.transformer(inputs_1TP, order.visible_PP()))
    masked = int((~order.visible_PP()).sum())
    assert counted == sum(
        step_flops(config, order, past, logits=False) + net.layers * attention_flops(net, masked) for past in range(4)
    )
    hidden_ND = torch.zeros(config.layout.image_slots, net.width)
    head = counted_flops(lambda: model.transformer.logits(hidden_ND, 0, config.layout.vocab.codebook_size))
    assert head == step_flops(config, order, 3) - step_flops(config, order, 3, logits=False)
    assert linear_flops(net) > 0


def test_a_frame_shares_the_weights_between_sessions_but_not_cache_or_flops():
    config = tiny_config()
    order = schedule(config.layout, 1)
    one, two, three = (frame_cost(config, order, torch.bfloat16, sessions) for sessions in (1, 2, 3))
    assert three.bytes - two.bytes == two.bytes - one.bytes == 2 * cache_reads(config, order)
    assert one.bytes - (two.bytes - one.bytes) == 2 * order.image_passes * pass_weights(config)
    assert three.flops == 3 * one.flops == 3 * step_flops(config, order, 3)
    assert frame_cost(config, order, torch.float32).bytes == 2 * one.bytes


def test_absolute_positions_pay_their_prefill_and_grouped_heads_read_less():
    absolute = tiny_config("absolute", rows=False)
    order = schedule(absolute.layout)
    alone = step_flops(absolute, order, 3)
    assert (
        frame_cost(absolute, order, torch.float32).flops
        == alone + prefill_cost(absolute, order, torch.float32, 3).flops
    )
    every, grouped = tiny_config(kv_heads=None), tiny_config()
    order = schedule(grouped.layout, 1)
    assert cache_reads(every, order) == 2 * cache_reads(grouped, order)


def test_the_floor_is_the_slower_of_bytes_and_flops(tiny_model):
    rates = Rates(bytes_per_second=10.0, flops_per_second=100.0)
    assert Cost(bytes=20, flops=100).seconds(rates) == 2.0
    assert Cost(bytes=20, flops=500).seconds(rates) == 5.0
    assert Cost(bytes=1, flops=2) + Cost(bytes=3, flops=4) == Cost(bytes=4, flops=6)
    one, two = (tokenizer_cost(tiny_model.tokenizer, decode=count) for count in (1, 2))
    assert two.flops == 2 * one.flops > 0 and two.bytes == one.bytes
    assert one.bytes == sum(4 * weight.numel() for weight in tiny_model.tokenizer.decoder.parameters())
    assert tokenizer_cost(tiny_model.tokenizer, encode=1).flops > 0


def test_rates_are_measured():
    rates = measure_rates(torch.device("cpu"), torch.float32, seconds=0.01)
    assert rates.bytes_per_second > 1e8 and rates.flops_per_second > 1e8
    assert set(rates.to_json()) == {"gigabytes_per_second", "gigaflops_per_second"}


def test_bars_are_shown_and_reached():
    assert Bar(most=32.0).words("ms") == "<= 32 ms" and Bar(least=10.0).words("frames/s") == ">= 10 frames/s"
    even = Bar(least=0.9, most=1.1)
    assert even.words("x") == "0.9 to 1.1 x"
    assert [even.reached(value) for value in (0.89, 0.9, 1.1, 1.11)] == [False, True, True, False]


ROWS = [
    BenchRow(case="stream", name="rate", value=12.5, unit="frames/s", bar=Bar(least=10.0), floor=50.0, beside=2.0),
    BenchRow(case="stream", name="p95", value=200.0, unit="ms", bar=Bar(most=150.0), floor=20.0, note="said once"),
    BenchRow(case="order", name="1.6b", value=None, unit="ms", bar=Bar(most=82.0), note="not measured: too large"),
    BenchRow(case="order", name="200m", value=math.nan, unit="ms", note="said once", detail={"ms": np.arange(2.0)}),
]


def test_a_row_knows_its_verdict_and_its_distance_from_the_floor():
    assert [row.reached for row in ROWS] == [True, False, None, None]
    assert [row.times_floor for row in ROWS] == [4.0, 10.0, None, None]


def test_the_table_is_aligned_and_numbers_its_notes():
    lines = speed_table(ROWS).splitlines()
    assert lines[2].startswith("stream  rate") and lines[3].startswith("        p95") and "missed" in lines[3]
    assert lines[2].index("12.5") == lines[3].index("200 ms") == lines[4].index("not measured")
    assert lines[3].endswith("[1]") and lines[5].endswith("[1]") and lines[4].endswith("[2]")
    assert lines[6:] == ["[1] said once", "[2] not measured: too large"]


def test_figures_are_shown_in_three_digits():
    assert [show(value, "ms") for value in (1234.5, 123.45, 12.345, 1.2345, 0.12345)] == [
        "1234 ms",
        "123 ms",
        "12.3 ms",
        "1.23 ms",
        "0.123 ms",
    ]
    assert show(None, "ms") == show(math.inf, "ms") == ""


def test_json_is_strict_one_line_and_written_whole(tmp_path: Path):
    report = BenchReport(kind="speed", rows=ROWS, table="t", run={"date": "d"}, notes=("a note",))
    assert report.text() == "t\na note" and "\n" not in report.line()
    content = json.loads(report.line())
    report.write(tmp_path / "deep" / "speed.json")
    assert json.loads((tmp_path / "deep" / "speed.json").read_text()) == content
    first, *_, last = content["rows"]
    assert (first["bar"], first["reached"], first["times_floor"]) == (">= 10 frames/s", True, 4.0)
    assert last["value"] is None and last["detail"] == {"ms": [0.0, 1.0]} and content["date"] == "d"


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"only": ("strem",)}, "unknown case 'strem'; choose from stream, first"),
        ({"presets": ("20m",)}, "unknown preset '20m'"),
        ({"device": "gpu"}, "unknown device 'gpu'.*(cpu|cuda)"),
        ({"dtype": "fp8"}, "unknown dtype 'fp8'"),
        ({"frames": 0}, "frames is 0"),
        ({"threads": 0}, "threads"),
    ],
)
def test_settings_refuse_what_they_do_not_know(asked, sentence):
    with pytest.raises(ConfigError, match=sentence):
        BenchSettings(**asked)


def test_what_is_measured_where():
    assert BenchSettings(device="cpu").shape_device is None
    asked = BenchSettings(device="cpu", presets=("tiny",))
    assert asked.shape_device == torch.device("cpu") and asked.bundled
    assert asked.dtype_on(torch.device("cpu")) is torch.float32
    assert asked.dtype_on(torch.device("cuda")) is torch.bfloat16
    assert BenchSettings(dtype="float16").dtype_on(torch.device("cuda")) is torch.float16
    assert not BenchSettings(device="cuda").bundled
    assert BenchSettings(only=("many",)).wants("many") and not BenchSettings(only=("many",)).wants("order")
    assert BenchSettings(quick=True).count(300, 40) == 40 and BenchSettings(frames=20).count(300, 40) == 20
    if not torch.cuda.is_available():
        assert BenchSettings().shape_device is None
        with pytest.raises(ConfigError, match="cuda is not available"):
            assert BenchSettings(device="cuda").shape_device


@pytest.mark.parametrize("name", list(PRESETS))
def test_every_size_can_roll_and_keeps_its_shape(name):
    config, given = rolling(preset(name)), preset(name)
    assert config.rows and config.transformer.positions == "rolling"
    assert (config.transformer.width, config.tokenizer) == (given.transformer.width, given.tokenizer)
    assert schedule(config.layout, 1).image_passes == given.tokenizer.grid_height + given.tokenizer.grid_width - 1


def rung(order: str, rate: float, image: list[float], psnr: list[float]) -> Rung:
    psnr_M = {step: np.array(psnr) for step in (1, 3, 10)}
    return Rung(
        model="toy", order=order, passes=1, rate=rate, image_B=np.array(image), psnr_M=psnr_M, right_T=np.ones(4)
    )


def test_the_ladder_takes_the_fastest_order_that_is_not_worse_beyond_noise():
    raster = rung("raster", 1.0, [2.0, 2.1, 1.9, 2.0], [18.0, 17.0, 19.0, 18.0])
    close = rung("row lag 2", 2.0, [2.1, 2.0, 1.8, 2.1], [18.1, 16.9, 19.2, 17.9])
    worse = rung("row lag 1", 3.0, [2.5, 2.6, 2.41, 2.5], [18.1, 16.9, 19.2, 17.9])
    rows = verdicts([raster, close, worse])
    assert [row.chosen for row in rows] == [False, True, False]
    assert worse.worse(raster) == ("cross-entropy",) and close.worse(raster) == ()
    assert "* within noise" in rows[1].cells()[-1] and rows[2].cells()[-1] == "worse: cross-entropy"
    content = rows[2].to_json()
    assert content["worse_beyond_noise"] == ["cross-entropy"] and not content["chosen"]
    loss = content["loss_to_raster"]["cross-entropy"]
    assert (
        loss["mean"] == pytest.approx(0.5025) and loss["standard_error"] == pytest.approx(0.0025) and loss["count"] == 4
    )
    assert "two standard errors" in RULE


def test_a_lower_psnr_or_a_wrong_turn_counts_as_worse():
    raster = rung("raster", 1.0, [2.0, 2.0], [18.0, 18.0])
    dim = rung("row lag 1", 2.0, [2.0, 2.0], [17.0, 17.01])
    assert dim.worse(raster) == ("PSNR 1", "PSNR 3", "PSNR 10")
    astray = dataclasses.replace(raster, rate=2.0, right_T=np.zeros(4))
    assert astray.worse(raster) == ("direction",)
    assert verdicts([raster, dim, astray])[0].chosen


def test_random_prompts_are_legal_and_repeatable():
    config = tiny_config()
    prompt, actions = random_prompt(config, seed=3)
    again, _ = random_prompt(config, seed=3)
    assert prompt.codes_TN is not None and again.codes_TN is not None
    assert prompt.codes_TN.shape == (4, config.layout.image_slots) and (prompt.codes_TN == again.codes_TN).all()
    assert actions.shape == (64, 16) and len(prompt.actions_TA) == 3
    assert prompt.codes_TN.max() < config.layout.vocab.codebook_size
    with pytest.raises(BadInputError, match="actions between"):
        dataclasses.replace(prompt, actions_TA=actions)
