"""`playloom play`: open the page to play on, or, with --headless, let a script play for a measured while."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from playloom.cli import common
from playloom.cli.serve import require_serving
from playloom.errors import ActionError, PlayloomError

if TYPE_CHECKING:
    from playloom.inference.realtime.run import LiveResult
    from playloom.models.decode_order import DecodeOrder

_ONLY_HEADLESS = (
    *(
        "script",
        "seconds",
        "fps",
        "controller",
        "prompt",
        "start_step",
        "context",
        "resize",
        "schema",
        "seed",
        "temperature",
    ),
    *("top_k", "top_p", "action_temperature", "out", "timestamp", "as_json"),
)


def register(app: typer.Typer) -> None:
    """Add `play` to the program."""
    app.command("play")(play_command)


def play_command(
    call: typer.Context,
    model: common.Model = None,
    decode_order: common.DecodeOrder = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the page; default 5000, 0 takes a free one.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    headless: Annotated[bool, typer.Option("--headless", help="Without a page: a script plays, and is timed.")] = False,
    script: Annotated[
        str | None,
        typer.Option(help="With --headless: what is pressed, over and over: a CSV, or 'forward for 2s; turn_left'."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="With --headless: how long.")] = 60.0,
    fps: Annotated[float, typer.Option(help="With --headless: frames per second.")] = 10.0,
    controller: Annotated[
        Literal["person", "model", "both"],
        typer.Option(help="person: the script; model: it plays itself; both: the script wins while it presses."),
    ] = "person",
    prompt: Annotated[
        str | None,
        typer.Option(help="Where it begins: a bundled prompt's name, a picture, a folder, a recording, or a dream."),
    ] = None,
    start_step: common.StartStep = None,
    context: common.Context = 10,
    resize: common.Resize = "crop",
    schema: common.Schema = "named",
    seed: Annotated[
        int, typer.Option(min=0, help="Of the dream, and of when between two ticks the script presses.")
    ] = 0,
    temperature: common.Temperature = None,
    top_k: common.TopK = None,
    top_p: common.TopP = None,
    action_temperature: common.ActionTemperature = None,
    out: Annotated[
        Path | None,
        typer.Option(
            callback=common.numbered_folder,
            help="With --headless: a folder for video, inputs and figures; numbered after an earlier one.",
        ),
    ] = None,
    timestamp: common.Timestamp = False,
    as_json: common.Json = False,
) -> None:
    """Play in the browser: start the server on this machine and open its page.

    With --headless a script plays against the real clock, and the figures say how late frames were and how long a key
    press took to be seen. Ctrl-C and SIGTERM end it with the figures so far.
    """
    if not headless:
        common.refuse(call, _ONLY_HEADLESS, "applies to --headless only")
        _serve(model, decode_order, device, threads, port, browser)
        return
    common.refuse(call, ("port", "browser"), "does not apply to --headless")
    if script is None and controller != "model":
        raise ActionError(
            "--script is required unless --controller is 'model', as in --script 'forward for 2s; turn_left for 1s'"
        )
    from playloom.data.prompts import check_prompt
    from playloom.media.action_table import read_inputs

    given = None if script is None else read_inputs(script, schema, None)
    if prompt is not None:
        check_prompt(prompt)
    with (
        common.progress("playing", "ticks", timed=True) as bar,
        common.stopping("nothing was kept", after_step=True) as stop,
    ):
        from playloom.device import machine, pick_device, set_threads
        from playloom.inference.realtime.run import LiveJob, play_live

        set_threads(threads)
        job = LiveJob(
            script_SA=None if given is None else given.actions_SA,
            seconds=seconds,
            fps=fps,
            controller=controller,
            model=model,
            prompt=prompt,
            schema=schema,
            context=context,
            start_step=start_step,
            resize=resize,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            action_temperature=action_temperature,
            seed=seed,
            decode_order=decode_order,
            device=device,
            out=out,
            timestamp=timestamp,
        )
        ticks = iter(range(1, job.ticks + 2))

        def asked() -> bool:  # before every tick
            bar(min(next(ticks, job.ticks), job.ticks) - 1, job.ticks)
            return stop()

        result = play_live(
            job,
            render=common.render,
            machine=machine(pick_device(device)),
            on_start=lambda name: typer.echo(
                f"playing {name} for {seconds:g} s at {fps:g} frames per second ...", err=as_json
            ),
            stop=asked,
        )
        was_stopped = stop()
    _say(result, () if given is None else given.notes, as_json)
    if result.failure is not None:
        raise PlayloomError(
            f"the dream failed after {result.report.frames} frames: {result.reason}"
        ) from result.failure
    if was_stopped:
        raise typer.Exit(stop.code)


def _serve(
    model: str | None,
    decode_order: DecodeOrder | None,
    device: str,
    threads: int | None,
    port: int | None,
    browser: bool,
) -> None:
    """Serve on this machine, and open the page once the server listens."""
    require_serving()
    from playloom.device import set_threads
    from playloom.server.main import run
    from playloom.server.settings import read_settings

    def say(sentence: str) -> None:
        typer.echo(sentence)
        address = re.search(r"https?://[^\s()]+", sentence)
        if address and browser and common.has_display():
            webbrowser.open(address[0])

    settings = read_settings(model=model, decode_order=decode_order, device=device, port=port, threads=threads)
    set_threads(settings.threads)
    run(settings, say=say)


def _say(result: LiveResult, notes: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        where = None if result.folder is None else str(result.folder)
        common.print_json({**result.to_dict(), "notes": (*notes, *result.notes), "folder": where})
        return
    for note in (*notes, *result.notes):
        typer.echo(f"note: {note}")
    report, facts = result.report, result.facts
    typer.echo(f"{facts['model']}, {facts['controller']} playing, {facts['fps']:g} frames per second")
    typer.echo(f"{'':<16} {'p50':>8} {'p95':>8} {'p99':>8} {'count':>6}")
    for name in ("key_to_frame_ms", "frame_latency_ms", "jitter_ms"):
        spread = getattr(report, name)
        cells = ["-" if value is None else f"{value:.1f}" for value in (spread.p50, spread.p95, spread.p99)]
        typer.echo(f"{name:<16} {cells[0]:>8} {cells[1]:>8} {cells[2]:>8} {spread.count:>6}")
    typer.echo(
        f"{report.frames} frames in {report.seconds:.1f} s, {report.frames_per_second:.2f} per second: "
        f"{report.late} late, {report.skipped} ticks skipped; "
        f"{report.inputs} inputs, {report.dropped_inputs} replaced before their tick"
    )
    if result.folder is not None:
        typer.echo(f"{result.folder}/  play.mp4, sheet.png, actions.csv, report.json")
