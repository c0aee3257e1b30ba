"""`playloom act`: play the real game with a policy, and print its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from playloom.cli import common
from playloom.errors import BadInputError

if TYPE_CHECKING:
    from playloom.evaluation.online.metrics import ActReport

Player = Literal["model", "repeat", "random", "rusher", "sniper", "collector", "explorer", "novice", "dancer"]
_OF_MODEL = ("model", "temperature", "top_k", "top_p", "device", "threads")


def act_command(
    call: typer.Context,
    out: Annotated[
        Path,
        typer.Option(
            callback=common.numbered_folder,
            help="Folder for recordings, videos and metrics; numbered after an earlier one.",
        ),
    ] = Path("out/act"),
    model: common.Model = None,
    policy: Annotated[
        Player | None, typer.Option(help="model (default), repeat, random, or a scripted player's style.")
    ] = None,
    compare: Annotated[bool, typer.Option("--compare", help="Model and baselines on the same games.")] = False,
    variant: Annotated[Literal["plaza", "court", "canyon"], typer.Option(help="The arena.")] = "plaza",
    mode: Annotated[Literal["ffa", "4v4"], typer.Option(help="ffa: everyone for themselves; 4v4: two teams.")] = "ffa",
    seconds: Annotated[float, typer.Option(help="Length of a game in game time.")] = 30.0,
    games: Annotated[int, typer.Option(min=1, help="Number of games.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first game; the next games count up.")] = 1000,
    temperature: Annotated[float, typer.Option(min=0, help="Temperature of the model's inputs; 0 is greedy.")] = 1.0,
    top_k: Annotated[int | None, typer.Option(min=1, help="Sample from the k most likely values only.")] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0, max=1, help="Sample from the most likely values with total probability p.")
    ] = None,
    videos: Annotated[
        int | None,
        typer.Option(min=0, help="Games of each policy with a video; default: all, with --compare the first."),
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
            players=COMPARED if compare else ("model" if policy is None else policy,),
            model=model,
            variant=variant,
            mode=mode,
            seconds=seconds,
            games=games,
            seed=seed,
            sampling=Sampling(temperature=temperature, top_k=top_k, top_p=top_p),
            device=device,
            out=out,
            videos=1 if compare and videos is None else videos,
            timestamp=timestamp,
        )
        report = run_act(
            job,
            machine=machine(pick_device(device)),
            stop=stop,
            progress=lambda player, done, total: bar(done, total, f"playing ({player})"),
        )
        was_stopped = stop()
    if report.games:
        _print_report(report, as_json)
    elif not was_stopped:
        raise BadInputError(f"every game ended before its policy took a step: got --seconds {seconds:g}; give more")
    if was_stopped:
        left = f"finished games are kept: {report.folder}" if report.games else "no game was finished"
        typer.echo(f"stopped; {left}", err=True)
        raise typer.Exit(stop.code)


def _print_report(report: ActReport, as_json: bool) -> None:
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
