"""`playloom evaluate` and `act`: measure a model on recordings and in the real game."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.atomic_io import ensure_writable
from playloom.cli import common
from playloom.errors import BadInputError, CheckpointError, ConfigError

if TYPE_CHECKING:
    from playloom.evaluation.online.metrics import ActReport
    from playloom.evaluation.report import Report

Player = Literal["model", "repeat", "random", "rusher", "sniper", "collector", "explorer", "novice", "dancer"]
_FLAGS = {"backend": "--backend", "row_delay": "--decode-order", "sampling": "--temperature", "seed": "--seed"}
_OF_MODEL = ("model", "temperature", "top_k", "top_p", "device", "threads")


@common.with_options(common.sampling)
def evaluate_command(
    call: typer.Context,
    *,
    model: common.Model = None,
    decode_order: common.DecodeOrder = None,
    device: common.Device = "auto",
    data: Annotated[
        Path | None,
        typer.Option(exists=True, help="Frame dataset or recordings with test episodes; default: record a small set."),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The JSON file; default: evaluation.json in --cache-dir.")] = None,
    cache_dir: Annotated[
        Path, typer.Option(callback=common.own_folder, help="Folder for pictures and a test set recorded here.")
    ] = Path("out/evaluation"),
    config: Annotated[
        Path | None, typer.Option(help='JSON with sizes of the evaluation, such as {"horizon_segments": 8}.')
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer segments: a rough estimate.")] = False,
    sampling: dict[str, Any],
    seed: Annotated[int, typer.Option(min=0, help="Seed of segments and dreams.")] = 0,
    backend: common.Backend = "torch",
    game: Annotated[
        bool | None,
        typer.Option("--game/--no-game", help="Also hold the inputs in the real game. Default: where possible."),
    ] = None,
    threads: common.Threads = None,
    update_card: Annotated[
        bool, typer.Option("--update-card", help="Write figures, order and sampling into the model's card.")
    ] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
    as_json: common.Json = False,
) -> None:
    """Measure a model on test episodes, each figure with its baseline and its target.

    Ctrl-C and SIGTERM end it; the figures of finished parts are written.
    """
    if markdown and as_json:
        raise BadInputError("--markdown and --json exclude each other; give one of them")
    path = out or cache_dir / "evaluation.json"
    if path.is_dir():
        raise BadInputError(f"cannot write the file {str(path)!r}: it is a folder; name a JSON file")
    for file in (path, cache_dir / "horizon.png"):
        ensure_writable(file)
    sizes = common.read_settings(config)
    for name in sorted(sizes.keys() & _FLAGS):
        raise ConfigError(f"--config {config} has {name!r}: expected sizes only; give {_FLAGS[name]} instead")
    sizes |= {"backend": backend, "seed": seed}
    latest: list[Report] = []
    try:
        with common.progress("evaluating") as bar, common.stopping("finished parts are written", after_step=False):
            result = _measure(call.params, sampling, sizes, bar, latest)
    except BaseException:  # a signal or an error
        if latest:
            latest[-1].write(path)
            typer.echo(f"figures so far: {path}", err=True)
        raise
    result.write(path)
    _print_result(result, path, cache_dir, markdown, as_json)
    if update_card:
        _update_card(model, result)


def _measure(
    given: Mapping[str, Any],
    sampling: Mapping[str, Any],
    sizes: Mapping[str, Any],
    bar: common.Progress,
    latest: list[Report],
) -> Report:
    """Evaluate; `given` has the values of the options, `latest` gets a report after every part."""
    from playloom.evaluation.config import EvaluationSettings, require_extra

    require_extra()  # before what needs it is imported
    from playloom.device import pick_device, set_threads
    from playloom.evaluation.control import require_game
    from playloom.evaluation.suite import PARTS, evaluate, open_test_set
    from playloom.inference.sampling import Sampling
    from playloom.json_io import from_mapping
    from playloom.models.checkpoint import load_model
    from playloom.models.decode_order import card_row_delay
    from playloom.models.folder import model_folder

    set_threads(given["threads"])
    settings = from_mapping(EvaluationSettings, sizes)
    if given["quick"]:
        settings = dataclasses.replace(settings.quick(), **{name: getattr(settings, name) for name in sizes})
    if given["game"] is False:
        settings = dataclasses.replace(settings, game_segments=0)
    elif given["game"] and not settings.game_segments:
        raise ConfigError("--game measures nothing: game_segments is 0, as with --quick; set it in --config")
    model, cache_dir = load_model(model_folder(given["model"]), pick_device(given["device"])), given["cache_dir"]
    layout = model.config.layout
    row_delay = card_row_delay(model.card if layout.rows else {}, given["decode_order"])  # without rows only raster
    settings = dataclasses.replace(
        settings,
        row_delay=None if row_delay == layout.grid_width else row_delay,
        sampling=Sampling.from_card(model.card, **sampling),
    )
    dataset = open_test_set(given["data"], cache_dir, lambda what, done, total: bar(done, total, what))
    if given["game"]:
        require_game(dataset)
    pieces = itertools.count(1)

    def show(what: str) -> None:
        parts = f"{len(latest)} of {len(PARTS)} parts done"
        bar.show(f"{parts}, now {what}, piece {next(pieces)}", len(latest) / len(PARTS), "evaluating")

    return evaluate(model, dataset, settings, pictures=cache_dir, progress=show, part_done=latest.append)


def _update_card(model: str | None, result: Report) -> None:
    from playloom.models.folder import model_folder, read_model, update_card
    from playloom.models.onnx.export import update_description

    folder, figures = model_folder(model), result.to_json()
    run, found = figures["run"], read_model(folder).fingerprint
    if found != (expected := run["model"]["fingerprint"]):
        raise CheckpointError(f"{folder} has other weights now: got {found}, expected {expected}; evaluate it again")
    changes = {name: run["settings"][name] for name in ("row_delay", "sampling")}
    changes["evaluation"] = {"run": run, "rows": figures["rows"]}
    update_card(folder, changes)
    update_description(folder)


def _print_result(result: Report, path: Path, cache_dir: Path, markdown: bool, as_json: bool) -> None:
    from playloom.evaluation import report

    files = {"figures": str(path), "horizon": str(cache_dir / "horizon.png"), "strip": str(cache_dir / "strip.png")}
    if as_json:
        common.print_json({name: value for name, value in result.to_json().items() if name != "curves"} | files)
        return
    typer.echo((report.markdown if markdown else report.table)(result.rows))
    machine = result.run["machine"]
    where = "" if machine["device"] == "cpu" else f", {machine['device']}"
    on = f"{machine['cpu']}, {machine['cores']} cores{where}, torch {machine['torch']}"
    for note in result.run["notes"]:
        typer.echo(f"note: {note}")
    typer.echo(f"\n{report.summary(result)}; {result.run['seconds']['all']:.0f} s on {on}")
    typer.echo(f"figures: {path}  pictures: {files['horizon']}, {files['strip']}")


def match(
    variant: Annotated[Literal["plaza", "court", "canyon"], typer.Option(help="The arena.")] = "plaza",
    mode: Annotated[Literal["ffa", "4v4"], typer.Option(help="ffa: everyone for themselves; 4v4: two teams.")] = "ffa",
    seconds: Annotated[float, typer.Option(help="Length of a game in game time.")] = 30.0,
    games: Annotated[int, typer.Option(min=1, help="Number of games.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first game; the next games count up.")] = 1000,
) -> None:
    """The games."""


@common.with_options(match)
def act_command(
    call: typer.Context,
    *,
    out: common.NumberedOut = Path("out/act"),
    model: common.Model = None,
    policy: Annotated[
        Player | None, typer.Option(help="model (default), repeat, random, or a scripted player's style.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Model and baselines on the same games.")] = False,
    match: dict[str, Any],
    temperature: Annotated[float, typer.Option(min=0, help="Temperature of the model's inputs; 0 is greedy.")] = 1.0,
    top_k: common.TopK = None,
    top_p: common.TopP = None,
    videos: Annotated[
        int | None, typer.Option(min=0, help="Videos of each policy; default: of all games, of one with --compare.")
    ] = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    timestamp: common.Timestamp = False,
    as_json: common.Json = False,
) -> None:
    """Play the real game with the model or a baseline policy.

    Ctrl-C and SIGTERM end it; finished games are kept.
    """
    if compare and policy is not None:
        raise BadInputError("--compare runs every policy; leave out --policy")
    if policy not in (None, "model"):
        common.refuse(call, _OF_MODEL, f"does not apply to --policy {policy}, which uses no model")
    kept = "finished games are kept"
    with common.progress("playing", "steps") as bar, common.stopping(kept, after_step=True) as stop:
        from playloom.device import machine, pick_device, set_threads
        from playloom.evaluation.online.run import COMPARED, ActJob, run_act
        from playloom.inference.sampling import Sampling

        set_threads(threads)
        job = ActJob(
            players=COMPARED if compare else (policy or "model",),
            model=model,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
            device=device,
            out=out,
            videos=1 if compare and videos is None else videos,
            timestamp=timestamp,
            **match,
        )
        report = run_act(
            job,
            machine=machine(pick_device(device)),
            stop=stop,
            progress=lambda player, done, total: bar(done, total, f"playing ({player})"),
        )
        was_stopped = stop()
    if not report.games and not was_stopped:
        raise BadInputError(f"every game ended before its policy's turn: got --seconds {match['seconds']:g}; give more")
    _print_games(report, as_json)
    if was_stopped:
        left = f"{kept}: {report.folder}" if report.games else "no game was finished"
        typer.echo(f"stopped; {left}", err=True)
        raise typer.Exit(stop.code)


def _print_games(report: ActReport, as_json: bool) -> None:
    if not report.games:
        return
    if as_json:
        common.print_json({**report.means(), "folder": report.folder})
        return
    facts = report.facts
    typer.echo(common.text_table(report.head(), report.lines()))
    where = f"{facts['variant']}, which has {facts['tiles']} tiles"
    several = len(report.games) > len(report.players)
    what = "mean ± standard error over games" if several else "one game"
    typer.echo(f"{what} of {facts['seconds']:g} s in {where}")
    typer.echo(f"{report.folder}/")
    for game in report.games:
        if len(game.files) > 1:
            typer.echo("  " + "  ".join(str(path.relative_to(report.folder)) for path in game.files))
