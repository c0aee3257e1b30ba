"""`playloom bench`: the figures, their relations, and the two forms of the output."""

import json

from typer.testing import CliRunner

from playloom.cli.app import app
from playloom.inference.benchmark import benchmark, first_prompt, synchronized_time, time_batch, time_frames
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import save_model


def test_a_dream_is_timed_frame_by_frame(tiny_model):
    prompt, played = first_prompt(tiny_model)
    assert prompt.frames_THWC.shape == (4, 16, 24, 3) and len(played) > 40
    times = time_frames(Engine(tiny_model, row_delay=1), prompt, played[:3], 5, sampling=Sampling())
    assert len(times) == 6 and (times > 0).all()


def test_a_batch_can_be_timed_without_a_warm_up(tiny_model):
    prompt, played = first_prompt(tiny_model)
    started = synchronized_time("cpu")
    rate, _ = time_batch(Engine(tiny_model, row_delay=1), prompt, played, 2, 3, sampling=Sampling(), warmup=0)
    assert rate > 6 / (synchronized_time("cpu") - started), "not 6 frames since the machine was started"


def test_every_figure_is_measured(tiny_model):
    parts = []
    result = benchmark(Engine(tiny_model, row_delay=1), frames=4, batch_sizes=(1, 3), progress=parts.append)
    latency = list(result["latency_ms"].values())
    assert latency == sorted(latency) and latency[0] > 0 and result["first_frame_ms"] > 0
    assert [batch["dreams"] for batch in result["batches"]] == [1, 3] and result["row_delay"] == 1
    assert all(batch["frames_per_second"] > 0 for batch in result["batches"])
    net, positions = tiny_model.config.transformer, tiny_model.config.layout.positions
    steps = sum(net.window(layer).capacity + 1 for layer in range(net.layers))
    least = steps * positions * 2 * net.key_value_heads * net.head_width * 4 / 2**20
    assert least <= result["session_mib"] <= 2.5 * least  # room to write into may come on top
    assert parts[-1] == "batch of 3"


def test_the_command_prints_a_table_or_json(tiny_model, tmp_path):
    save_model(tmp_path / "model", tiny_model)
    words = ["bench", "--model", str(tmp_path / "model"), "--frames", "2", "--device", "cpu"]
    shown = CliRunner().invoke(app, words)
    assert shown.exit_code == 0, shown.output
    assert "p50 / p95 / p99" in shown.stdout and "batch of 8 dreams" in shown.stdout
    result = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert result["frames"] == 2 and result["machine"]["cores"]
