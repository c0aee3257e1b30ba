"""`playloom bench`: measure speed, and print one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from playloom.cli import common
from playloom.errors import BadInputError


def register(app: typer.Typer) -> None:
    """Add `bench` to the program."""
    app.command("bench")(bench_command)


def bench_command(
    call: typer.Context,
    model: common.Model = None,
    device: Annotated[
        str, typer.Option(help="cpu: the model; cuda: the large sizes; auto: both, where there is a GPU.")
    ] = "auto",
    presets: Annotated[
        str | None, typer.Option(help="Sizes to measure, as 200m,1.6b; on a CPU none unless asked for.")
    ] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16", "float64"] | None,
        typer.Option(help="Of weights and cache; default: float32 on a CPU, bfloat16 on a GPU."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(help="Cases, as stream,first: stream first start batch branch env order many absolute."),
    ] = None,
    ladder: Annotated[bool, typer.Option("--ladder", help="Speed and quality of every decoding order.")] = False,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="The cached decoder against the naive one, bf16 against float32.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="A server of its own under load: users of /score, live players, memory.")
    ] = False,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, help="With --ladder: frame store or recordings with test episodes, as in evaluate."),
    ] = None,
    cache_dir: Annotated[Path, typer.Option(help="With --ladder: folder for a test set recorded here.")] = Path(
        "out/evaluation"
    ),
    frames: Annotated[int, typer.Option(min=1, help="Frames of the sustained case, and at most of any other.")] = 300,
    threads: common.Threads = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides dreams and random weights.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A short, rough look.")] = False,
    out: Annotated[
        Path | None, typer.Option(callback=common.out_file, help="Also write the JSON to this file.")
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Measure speed, each figure beside its bar, its floor and what one would otherwise take."""
    if ladder + agreement + serve > 1:
        raise BadInputError("--ladder, --agreement and --serve are separate runs; ask for one of them")
    if ladder or agreement or serve:
        common.refuse(call, ("only", "presets", "dtype"), "belongs to the speed table")
    if not ladder:
        common.refuse(call, ("data", "cache_dir"), "applies to --ladder only")
    with common.progress("measuring") as bar:
        from playloom import benchmarks
        from playloom.device import set_threads

        set_threads(threads)
        settings = benchmarks.BenchSettings(
            model=model,
            device=device,
            presets=_names(presets),
            dtype=dtype,
            only=_names(only),
            frames=frames,
            threads=threads,
            seed=seed,
            quick=quick,
        )
        if ladder:
            from playloom.evaluation.test_set import open_test_set

            report = benchmarks.ladder(
                open_test_set(data, cache_dir, lambda what, done, total: bar(done, total, what)),
                settings,
                tick=bar.show,
            )
        elif agreement:
            report = benchmarks.agreement(settings, bar.show)
        elif serve:
            from playloom.benchmarks.service import service

            report = service(settings, tick=bar.show)
        else:
            report = benchmarks.bench(settings, bar.show, lambda row: bar.print(row.said()))
    if out is not None:
        report.write(out)
    typer.echo(report.line() if as_json else report.text())


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())
