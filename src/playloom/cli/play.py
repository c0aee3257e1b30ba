"""`playloom play`: open the page to play on, or, with --headless, play a script and measure."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.cli import common
from playloom.cli.serve import require_serving
from playloom.errors import ActionError, PlayloomError

if TYPE_CHECKING:
    from playloom.inference.realtime.run import LiveResult

_WITH_PAGE = ("model", "decode_order", "device", "threads", "port", "browser", "headless")


@common.with_options(common.engine, common.prompt, common.sampling)
def play_command(
    call: typer.Context,
    *,
    engine: dict[str, Any],
    threads: common.Threads = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port of the page; default 5000, 0 takes a free one.")
    ] = None,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    headless: Annotated[bool, typer.Option("--headless", help="Without a page: play a script, and measure.")] = False,
    script: Annotated[
        str | None,
        typer.Option(help="With --headless: the input, repeated: a CSV, or 'forward for 2s; turn_left'."),
    ] = None,
    seconds: Annotated[float, typer.Option(help="With --headless: the duration.")] = 60.0,
    fps: Annotated[float, typer.Option(help="With --headless: frames per second.")] = 10.0,
    controller: Annotated[
        Literal["person", "model", "both"],
        typer.Option(help="With --headless. person: the script; both: the script while it has input, else the model."),
    ] = "person",
    prompt: dict[str, Any],
    sampling: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=common.numbered_folder,
            help="With --headless: a folder for video, inputs and figures; numbered after an earlier one.",
        ),
    ] = None,
    as_json: common.Json = False,
) -> None:
    """Play in the browser: start the server on this machine and open its page.

    With --headless a script plays against the real clock, and the figures show late frames and the latency of inputs.
    The other options apply to --headless only. Ctrl-C and SIGTERM end it with the figures so far.
    """
    if not headless:
        names = [str(parameter.name) for parameter in call.command.params if parameter.name not in _WITH_PAGE]
        common.refuse(call, names, "applies to --headless only")
        _serve(threads=threads, port=port, browser=browser, **engine)
        return
    common.refuse(call, ("port", "browser"), "does not apply to --headless")
    if script is None and controller != "model":
        raise ActionError(
            "--script is required unless --controller is 'model', as in --script 'forward for 2s; turn_left for 1s'"
        )
    actions_SA, notes = common.read_script(prompt, script, engine["model"])
    with (
        common.progress("playing", "ticks", timed=True) as bar,
        common.stopping("nothing was kept", after_step=True) as stop,
    ):
        from playloom.device import machine, pick_device, set_threads
        from playloom.inference.realtime.run import LiveJob, play_live

        set_threads(threads)
        live = {"script_SA": actions_SA, "seconds": seconds, "fps": fps, "controller": controller, "out": out}
        job = LiveJob(**live, **engine, **prompt, **sampling)
        ticks = iter(range(1, job.ticks + 2))

        def before_tick() -> bool:
            bar(min(next(ticks, job.ticks), job.ticks) - 1, job.ticks)
            return stop()

        result = play_live(
            job,
            render=common.render,
            machine=machine(pick_device(engine["device"])),
            on_start=lambda name: typer.echo(
                f"playing {name} for {seconds:g} s at {fps:g} frames per second ...", err=as_json
            ),
            stop=before_tick,
        )
        was_stopped = stop()
    _print_result(result, notes, as_json)
    if result.failure is not None:
        frames, reason = result.report["frames"], result.report["failure"]
        raise PlayloomError(f"the dream failed after {frames} frames: {reason}") from result.failure
    if was_stopped:
        raise typer.Exit(stop.code)


def _serve(*, browser: bool, **given: Any) -> None:
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

    settings = read_settings(**given)
    set_threads(settings.threads)
    run(settings, say=say)


def _print_result(result: LiveResult, notes: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        where = None if result.folder is None else str(result.folder)
        common.print_json({**result.report, "notes": (*notes, *result.notes), "folder": where})
        return
    for note in (*notes, *result.notes):
        typer.echo(f"note: {note}")
    report = result.report
    typer.echo(f"{report['model']}, {report['controller']} playing, {report['fps']:g} frames per second")
    rows = []
    for name in ("key_to_frame_ms", "frame_latency_ms", "jitter_ms"):
        spread = report[name]
        values = ["-" if spread[key] is None else f"{spread[key]:.1f}" for key in ("p50", "p95", "p99")]
        rows.append([name, *values, str(spread["count"])])
    typer.echo(common.text_table(("", "p50", "p95", "p99", "count"), rows))
    typer.echo(
        f"{report['frames']} frames in {report['seconds']:.1f} s, {report['frames_per_second']:.2f} per second: "
        f"{report['late']} late, {report['skipped']} ticks skipped; "
        f"{report['inputs']} inputs, {report['dropped_inputs']} replaced before their tick"
    )
    if result.folder is not None:
        typer.echo(f"{result.folder}/  play.mp4, sheet.png, actions.csv, report.json")
