"""`playloom evaluate`: parses, measures, prints one table, writes JSON."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from playloom.checkpoint import Model
    from playloom.evaluation import EvaluationSettings


def register(app: typer.Typer) -> None:
    """Add `evaluate` to the program."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    model: Annotated[str | None, typer.Option(help="A bundled model's name, or a model folder.")] = None,
    data: Annotated[
        Path | None, typer.Option(help="Frame store or recordings with test episodes; none: a small set is recorded.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file; default: evaluation.json in --work.")] = None,
    work: Annotated[Path, typer.Option(help="Folder for pictures and for a test set recorded here.")] = Path(
        "out/evaluation"
    ),
    quick: Annotated[bool, typer.Option("--quick", help="Fewer moments: a rough look.")] = False,
    lag: Annotated[
        int | None,
        typer.Option(help="Row lag of decoding: 1 to the grid's width (raster). Default: as in dreams."),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Of the dreams; 0: greedy. Default: by card, else 0.9.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Only the k most likely tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Only the likeliest tokens up to this probability.")] = None,
    seed: Annotated[int, typer.Option(help="Decides moments and dreams.")] = 0,
    game: Annotated[bool, typer.Option(help="Also hold the inputs in the real game, as a baseline.")] = True,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads; default: all cores.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Measure a model on test episodes, each figure beside its baseline and its bar."""
    import torch

    from playloom.checkpoint import load_model, model_folder
    from playloom.errors import BadInputError
    from playloom.evaluation import evaluate, open_test_set, report
    from playloom.files import check_place
    from playloom.runtime import pick_device

    if threads is not None and threads < 1:
        raise BadInputError(f"threads is {threads}; expected 1 or more")
    path = out or work / "evaluation.json"
    if path.is_dir():
        raise BadInputError(f"{path} is a folder; --out names the JSON file to write")
    for place in (path, work / "horizon.png"):
        check_place(place)
    torch.set_num_threads(threads or os.cpu_count() or 1)
    loaded = load_model(model_folder(model), pick_device(device))
    settings = _settings(loaded, lag, quick, game, seed, temperature, top_k, top_p)
    with _progress() as (tick, bar):
        store = open_test_set(data, work, bar)
        result = evaluate(loaded, store, settings, pictures=work, tick=tick)
    result.write(path)
    typer.echo((report.markdown if markdown else report.table)(result.rows))
    typer.echo(f"\n{report.summary(result)}; {result.run['seconds']['all']:.0f} s on {_machine(result.run['machine'])}")
    typer.echo(f"figures: {path}  pictures: {work / 'horizon.png'}, {work / 'strip.png'}")


def _settings(
    model: Model,
    lag: int | None,
    quick: bool,
    game: bool,
    seed: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
) -> EvaluationSettings:
    """The settings of the flags; without one, a model without row starts gets raster, its only order."""
    import dataclasses

    from playloom.engine import Sampling
    from playloom.evaluation import EvaluationSettings

    usual = model.card.get("lag") if model.config.layout.rows else None
    asked = usual if lag is None else lag
    sampling = Sampling.of_card(model.card, temperature=temperature, top_k=top_k, top_p=top_p)
    settings = EvaluationSettings(
        lag=None if asked == model.config.layout.grid_width else asked, seed=seed, sampling=sampling
    )
    settings = settings.quick() if quick else settings
    return settings if game else dataclasses.replace(settings, game_moments=0)


@contextmanager
def _progress() -> Iterator[tuple[Any, Any]]:
    """Two callbacks that show on one status line what is being done: (what) and (what, done, of)."""
    from rich.console import Console

    console = Console(stderr=True)
    with console.status("evaluating") as status:
        yield (
            lambda what: status.update(f"evaluating: {what}"),
            lambda what, done, total: status.update(f"{what}: {done} of {total}"),
        )


def _machine(machine: dict[str, Any]) -> str:
    where = "" if machine["device"] == "cpu" else f", {machine['device']}"
    return f"{machine['cpu']}, {machine['cores']} cores{where}, torch {machine['torch']}"
