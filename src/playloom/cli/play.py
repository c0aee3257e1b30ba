"""`playloom play`: parses, plays live with a scripted person, prints the figures and one line of JSON."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from playloom.cli.stopping import STOPPED, ctrl_c
from playloom.errors import BadInputError, PlayloomError

if TYPE_CHECKING:
    from playloom.live import LiveResult


def register(app: typer.Typer) -> None:
    """Add `play` to the program."""
    app.command("play")(play_command)


def play_command(
    context: typer.Context,
    headless: Annotated[bool, typer.Option("--headless", help="Without a screen: a script plays.")] = False,
    script: Annotated[
        str | None, typer.Option(help="What is pressed, over and over: a CSV, or 'forward for 2s; turn_left'.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="How long.")] = 60.0,
    hertz: Annotated[float, typer.Option(help="Frames a second.")] = 10.0,
    who: Annotated[
        str, typer.Option(help="person: the script; model: it plays itself; both: the script wins while it presses.")
    ] = "person",
    model: Annotated[str | None, typer.Option(help="A bundled model's name, or a folder.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="Where it begins: a picture, a folder, a recording, a dream, or moment:NAME.")
    ] = None,
    at: Annotated[int | None, typer.Option(help="The step of the prompt to go on from.")] = None,
    steps_seen: Annotated[
        int, typer.Option("--context", help="Steps the model sees first; its own context (10) is the most.")
    ] = 10,
    fit: Annotated[str, typer.Option(help="Pictures of another shape: crop or letterbox.")] = "crop",
    schema: Annotated[str, typer.Option(help="Of CSV files: named, binned or auto.")] = "named",
    seed: Annotated[int, typer.Option(help="Of the dream, and of when between two ticks the script presses.")] = 0,
    lag: Annotated[
        int | None,
        typer.Option(help="Row lag of the decoding order: 1 to the grid's width (raster). Default: the model's card."),
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; default: the model's card, else 0.9.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that reach p together.")] = None,
    action_temperature: Annotated[
        float | None, typer.Option(help="Of dreamed inputs; default: as --temperature, else the model's card.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="A folder for video, inputs and figures; numbered if taken.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    timestamp: Annotated[bool, typer.Option(help="Put the time into manifests; each run then differs.")] = False,
) -> None:
    """Play against the real clock, and say how late frames were and how long a key press took to be seen.

    Ctrl-C ends it with the figures so far.
    """
    if not headless:
        raise BadInputError(_where_to_play(context))
    from playloom.dreams.inputs import read_inputs
    from playloom.live import LiveJob, play_live
    from playloom.runtime import machine, pick_device

    given = None if script is None else read_inputs(script, schema, None)  # type: ignore[arg-type]  # it checks
    job = LiveJob(
        script_SA=None if given is None else given.actions_SA,
        seconds=seconds,
        hertz=hertz,
        who=who,  # type: ignore[arg-type]  # checked by LiveJob, in a sentence
        model=model,
        prompt=prompt,
        schema=schema,  # type: ignore[arg-type]
        context=steps_seen,
        at=at,
        fit=fit,  # type: ignore[arg-type]
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        action_temperature=action_temperature,
        seed=seed,
        lag=lag,
        device=device,
        out=out,
        timestamp=timestamp,
    )
    with ctrl_c() as stopped:
        result = play_live(
            job,
            render=_render,
            machine=machine(pick_device(device)),
            on_start=lambda name: typer.echo(f"playing {name} for {seconds:g} s at {hertz:g} Hz ..."),
            stop=stopped,
        )
        was_stopped = stopped()
    _say(result, () if given is None else given.notes)
    if result.failure is not None:
        raise PlayloomError(
            f"the dream failed after {result.report.frames} frames: {result.reason}"
        ) from result.failure
    if was_stopped:
        raise typer.Exit(STOPPED)


def _where_to_play(context: typer.Context) -> str:
    """How to play, as things stand."""
    without = "without a screen: playloom play --headless --script 'forward for 2s; turn_left for 1s'"
    commands = getattr(context.find_root().command, "commands", {})
    if "serve" in commands:
        return f"the page to play on comes with `playloom serve`; {without}"
    return f"there is no window to play in yet; {without}"


def _render(episode: Any) -> Iterator[Any]:
    from playloom.games.arena import render_episode

    return iter(render_episode(episode))


def _say(result: LiveResult, notes: tuple[str, ...]) -> None:
    import json

    from rich.console import Console

    for note in (*notes, *result.notes):
        typer.echo(f"note: {note}")
    Console().print(_table(result))
    typer.echo(_counts(result))
    if result.folder is not None:
        typer.echo(f"{result.folder}/  play.mp4, actions.csv, report.json")
    typer.echo(json.dumps(result.to_dict()))


def _table(result: LiveResult) -> Any:
    from rich.table import Table

    report = result.report
    table = Table(title=f"{result.facts['model']}, {result.facts['who']} playing, {result.facts['hertz']:g} Hz")
    for title in ("", "p50", "p95", "p99", "of"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for name, spread in (
        ("key to frame, ms", report.key_to_frame_ms),
        ("cost of a frame, ms", report.frame_cost_ms),
        ("tick after it was due, ms", report.jitter_ms),
    ):
        cells = ["-" if value is None else f"{value:.1f}" for value in (spread.p50, spread.p95, spread.p99)]
        table.add_row(name, *cells, str(spread.count))
    return table


def _counts(result: LiveResult) -> str:
    report = result.report
    return (
        f"{report.frames} frames in {report.seconds:.1f} s, {report.frames_per_second:.2f} a second: "
        f"{report.late} late, {report.skipped} ticks skipped; "
        f"{report.presses} presses, {report.replaced} replaced before their tick"
    )
