"""`playloom bench`: parses, measures, prints one table and a last line of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer


def register(app: typer.Typer) -> None:
    """Add `bench` to the program."""
    app.command("bench")(bench_command)


def bench_command(
    model: Annotated[str | None, typer.Option(help="A bundled model's name, or a model folder.")] = None,
    device: Annotated[
        str, typer.Option(help="cpu: the model; cuda: the large sizes; auto: both, where there is a GPU.")
    ] = "auto",
    presets: Annotated[
        str | None, typer.Option(help="Sizes to measure, as 200m,1.6b; on a CPU none unless asked for.")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(help="Of weights and cache; default: float32 on a CPU, bfloat16 on a GPU.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Cases: stream,first,start,batch,branch,env,order,many,absolute.")
    ] = None,
    ladder: Annotated[bool, typer.Option("--ladder", help="Speed and quality of every decoding order.")] = False,
    agreement: Annotated[
        bool, typer.Option("--agreement", help="The cached decoder against the naive one, bf16 against float32.")
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="A server of its own under load: users of /score, live players, memory.")
    ] = False,
    data: Annotated[
        Path | None, typer.Option(help="With --ladder: frame store or recordings with test episodes, as in evaluate.")
    ] = None,
    work: Annotated[Path, typer.Option(help="With --ladder: folder for a test set recorded here.")] = Path(
        "out/evaluation"
    ),
    frames: Annotated[int, typer.Option(help="Frames of the sustained case, and at most of any other.")] = 300,
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: as torch chooses.")] = None,
    seed: Annotated[int, typer.Option(help="Decides dreams and random weights.")] = 0,
    quick: Annotated[bool, typer.Option("--quick", help="A short, rough look.")] = False,
    out: Annotated[Path | None, typer.Option(help="Also write the JSON to this file.")] = None,
) -> None:
    """Measure speed, each figure beside its bar, its floor and what one would otherwise take."""
    from playloom import benchmarks
    from playloom.errors import BadInputError

    if ladder + agreement + serve > 1:
        raise BadInputError("--ladder, --agreement and --serve are separate runs; ask for one of them")
    if (ladder or agreement or serve) and (only or presets or dtype):
        raise BadInputError("--only, --presets and --dtype belong to the speed table; leave them out here")
    if data is not None and not ladder:
        raise BadInputError("--data is for --ladder, which measures quality; add it or leave --data out")
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
    with _progress() as (tick, bar, found):
        if ladder:
            from playloom.evaluation import open_test_set

            report = benchmarks.ladder(open_test_set(data, work, bar), settings, tick=tick)
        elif agreement:
            report = benchmarks.agreement(settings, tick)
        elif serve:
            from playloom.benchmarks.service import service

            report = service(settings, tick=tick)
        else:
            report = benchmarks.bench(settings, tick, found)
    if out is not None:
        report.write(out)
    typer.echo(report.text())
    typer.echo(report.line())


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(name.strip() for name in (text or "").split(",") if name.strip())


@contextmanager
def _progress() -> Iterator[tuple[Any, Any, Any]]:
    """Three callbacks: (what) and (what, done, of) are shown on one status line, (row) stays on the screen."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("measuring") as status:
        yield (
            lambda what: status.update(f"measuring: {what}"),
            lambda what, done, total: status.update(f"{what}: {done} of {total}"),
            lambda row: console.print(row.said(), markup=False, highlight=False, soft_wrap=True),
        )
