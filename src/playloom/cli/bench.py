"""`playloom bench`: measure a model's speed on this machine."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from playloom.cli import common


def bench_command(
    model: common.Model = None,
    device: common.Device = "auto",
    backend: common.Backend = "torch",
    frames: Annotated[int, typer.Option(min=1, help="Frames of the long dream.")] = 300,
    threads: common.Threads = None,
    as_json: common.Json = False,
) -> None:
    """Measure frames per second, latency, the first frame and batches of several dreams.

    The default generates about 500 frames. Close other programs first.
    """
    with common.progress("measuring", timed=True) as bar:
        from playloom.device import set_threads
        from playloom.inference.benchmark import benchmark
        from playloom.inference.generate import open_engine

        set_threads(threads)
        result = benchmark(open_engine(model, device=device, backend=backend), frames=frames, progress=bar.show)
    if as_json:
        common.print_json(result)
        return
    where = result["machine"]
    name = where["cpu"] if where["device"] == "cpu" else where["device"]
    typer.echo(f"{result['model']}, {result['dtype']}, {name}, {common.count(where['threads'], 'thread')}")
    typer.echo(common.text_table(("figure", "value"), _lines(result)))


def _lines(result: dict[str, Any]) -> list[tuple[str, str]]:
    latency = " / ".join(f"{value:.0f}" for value in result["latency_ms"].values())
    return [
        (f"one dream, {result['frames']} frames", f"{result['frames_per_second']:.1f} frames/s"),
        ("time per frame, p50 / p95 / p99", f"{latency} ms"),
        ("first frame after a prompt", f"{result['first_frame_ms']:.0f} ms"),
        *(
            (f"batch of {common.count(row['dreams'], 'dream')}", f"{row['frames_per_second']:.1f} frames/s together")
            for row in result["batches"]
        ),
        ("memory of one dream", f"{result['session_mib']:.2f} MiB"),
    ]
