"""`playloom evaluate`: measure a model, print one table, write JSON."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from playloom.atomic_io import ensure_writable
from playloom.cli import common
from playloom.errors import BadInputError

if TYPE_CHECKING:
    from playloom.evaluation.config import EvaluationSettings
    from playloom.evaluation.report import Report
    from playloom.models.checkpoint import WorldModel


def register(app: typer.Typer) -> None:
    """Add `evaluate` to the program."""
    app.command("evaluate")(evaluate_command)


def evaluate_command(
    model: common.Model = None,
    data: Annotated[
        Path | None,
        typer.Option(exists=True, help="Frame store or recordings with test episodes; none: a small set is recorded."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(callback=common.out_file, help="The JSON file; default: evaluation.json in --work.")
    ] = None,
    work: Annotated[
        Path, typer.Option(callback=common.own_folder, help="Folder for pictures and for a test set recorded here.")
    ] = Path("out/evaluation"),
    config: Annotated[
        Path | None, typer.Option(help='JSON with sizes of the evaluation, such as {"horizon_moments": 8}.')
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer moments: a rough look.")] = False,
    lag: common.Lag = None,
    temperature: common.Temperature = None,
    action_temperature: common.ActionTemperature = None,
    top_k: common.TopK = None,
    top_p: common.TopP = None,
    seed: Annotated[int, typer.Option(min=0, help="Decides moments and dreams.")] = 0,
    game: Annotated[bool, typer.Option(help="Also hold the inputs in the real game, as a baseline.")] = True,
    device: common.Device = "auto",
    threads: common.Threads = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Write figures, order and sampling into the model's card.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: common.Json = False,
) -> None:
    """Measure a model on test episodes, each figure beside its baseline and its bar.

    Ctrl-C and SIGTERM end it; the figures of the parts that were done are written.
    """
    if markdown and as_json:
        raise BadInputError("--markdown and --json are two forms of the result; give one of them")
    path = out or work / "evaluation.json"
    common.out_file(path)
    ensure_writable(work / "horizon.png")
    latest: list[Report] = []
    with common.progress("evaluating") as bar:
        try:
            with common.stopping("the parts that were done are written", after_step=False):
                result = _measure(
                    bar,
                    latest,
                    data,
                    work,
                    model,
                    device,
                    threads,
                    lag,
                    common.read_settings(config),
                    quick,
                    game,
                    seed,
                    {
                        "temperature": temperature,
                        "action_temperature": action_temperature,
                        "top_k": top_k,
                        "top_p": top_p,
                    },
                )
        except typer.Exit:
            if latest:
                latest[-1].write(path)
                typer.echo(f"figures so far: {path}", err=True)
            raise
    result.write(path)
    if update_card:
        _update_card(model, result)
    _say(result, path, work, markdown, as_json)


def _measure(
    bar: common.Progress,
    latest: list[Report],
    data: Path | None,
    work: Path,
    model: str | None,
    device: str,
    threads: int | None,
    lag: int | None,
    sizes: Mapping[str, Any],
    quick: bool,
    game: bool,
    seed: int,
    sampling: dict[str, Any],
) -> Report:
    """Load and measure; `latest` gets a report after every part."""
    from playloom.device import pick_device, set_threads
    from playloom.evaluation.suite import PARTS, evaluate, require_extra
    from playloom.evaluation.test_set import open_test_set
    from playloom.models.checkpoint import load_model, model_folder

    require_extra()
    set_threads(threads)
    loaded = load_model(model_folder(model), pick_device(device))
    settings = _settings(loaded, lag, sizes, quick, game, seed, sampling)
    store = open_test_set(data, work, lambda what, done, total: bar(done, total, what))
    pieces = 0

    def show(what: str) -> None:
        nonlocal pieces
        pieces += 1
        parts = f"{len(latest)} of {len(PARTS)} parts done"
        bar.show(f"{parts}, now {what}, piece {pieces}", len(latest) / len(PARTS), "evaluating")

    return evaluate(loaded, store, settings, pictures=work, progress=show, part_done=latest.append)


def _update_card(model: str | None, result: Report) -> None:
    """The figures hold for this order and sampling, so a dream uses them by default."""
    from playloom.evaluation.report import markdown
    from playloom.models.checkpoint import model_folder, update_card

    figures = result.to_json()
    settings = figures["run"]["settings"]
    changes = {name: settings[name] for name in ("lag", "sampling")}
    changes["evaluation"] = {"run": figures["run"], "rows": figures["rows"]}
    update_card(model_folder(model), changes, markdown(result.rows))


def _say(result: Report, path: Path, work: Path, markdown: bool, as_json: bool) -> None:
    from playloom.evaluation import report

    files = {"figures": str(path), "horizon": str(work / "horizon.png"), "strip": str(work / "strip.png")}
    if as_json:
        common.print_json({name: value for name, value in result.to_json().items() if name != "curves"} | files)
        return
    typer.echo((report.markdown if markdown else report.table)(result.rows))
    machine = result.run["machine"]
    where = "" if machine["device"] == "cpu" else f", {machine['device']}"
    on = f"{machine['cpu']}, {machine['cores']} cores{where}, torch {machine['torch']}"
    typer.echo(f"\n{report.summary(result)}; {result.run['seconds']['all']:.0f} s on {on}")
    typer.echo(f"figures: {path}  pictures: {files['horizon']}, {files['strip']}")


def _settings(
    model: WorldModel,
    lag: int | None,
    sizes: Mapping[str, Any],
    quick: bool,
    game: bool,
    seed: int,
    sampling: dict[str, Any],
) -> EvaluationSettings:
    """The settings of the flags; without one, a model without row starts gets raster, its only order."""
    import dataclasses

    from playloom.evaluation.config import EvaluationSettings
    from playloom.inference.sampling import Sampling
    from playloom.training.config import from_mapping

    usual = model.card.get("lag") if model.config.layout.rows else None
    asked = usual if lag is None else lag
    settings = dataclasses.replace(
        from_mapping(EvaluationSettings, sizes),
        lag=None if asked == model.config.layout.grid_width else asked,
        seed=seed,
        sampling=Sampling.from_card(model.card, **sampling),
    )
    settings = settings.quick() if quick else settings
    return settings if game else dataclasses.replace(settings, game_moments=0)
