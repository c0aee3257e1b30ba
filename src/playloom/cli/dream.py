"""`playloom dream` and `play`: generate a clip from a prompt, or play live on the page or without it."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.cli import common
from playloom.cli.serve import run_server
from playloom.errors import ActionError, PlayloomError
from playloom.games import render

if TYPE_CHECKING:
    from playloom.inference.generate import DreamReport
    from playloom.inference.realtime.session import LiveResult

_NOT_WITH_CLIPS = ("prompt", "mode", "actions", "schema", "start_step", "resize", "timestamp")
_ONLY_WITH_CLIPS = ("protocol", "batch", "max_files")
_WITH_PAGE = {"model", "decode_order", "device", "backend", "threads", "port", "browser", "headless"}


@common.with_options(common.prompt, common.sampling, common.engine)
def dream_command(
    call: typer.Context,
    *,
    prompt: dict[str, Any],
    mode: Annotated[
        Literal["world", "policy", "full"], typer.Option(help="world: frames; policy: controller input; full: both.")
    ] = "world",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of 0.1 s; default: as many as actions, else 10.")
    ] = None,
    actions: Annotated[
        str | None, typer.Option(help="A CSV, or held inputs such as 'right_stick_x=1 for 10; forward'.")
    ] = None,
    out: common.NumberedOut = Path("out/dream"),
    sampling: dict[str, Any],
    engine: dict[str, Any],
    threads: common.Threads = None,
    clips: Annotated[
        Path | None, typer.Option(help="Generate from a folder of .npz clips (images, actions) instead of one prompt.")
    ] = None,
    protocol: Annotated[
        Literal["base", "comprehensive"],
        typer.Option(help="With --clips. base: recorded actions; comprehensive: generated actions too."),
    ] = "base",
    batch: Annotated[int, typer.Option(min=1, help="With --clips: clips in one batch.")] = 1,
    max_files: Annotated[int | None, typer.Option(min=1, help="With --clips: only the first so many.")] = None,
    as_json: common.Json = False,
) -> None:
    """Dream on from a prompt: the next frames, the next controller input, or both.

    Ctrl-C and SIGTERM end it and keep the finished steps.
    """
    if clips is not None:
        common.refuse(call, _NOT_WITH_CLIPS, "does not apply to --clips")
        sizes = {"steps": 10 if steps is None else steps, "batch": batch, "max_files": max_files}
        sizes |= {"context": prompt["context"], "seed": prompt["seed"], **engine}
        _dream_clips(clips, out, sampling, {"protocol": protocol, **sizes}, threads, as_json)
        return
    common.refuse(call, _ONLY_WITH_CLIPS, "applies to --clips only")
    if mode == "policy":
        common.refuse(call, ("actions",), "does not apply to --mode policy, which generates the input")
    common.read_script(prompt, actions, engine["model"])
    with common.progress("dreaming", "frames") as bar, common.stopping("nothing was written", after_step=True) as stop:
        from playloom.device import set_threads
        from playloom.inference.generate import DreamJob, run_dream

        set_threads(threads)
        job = DreamJob(mode=mode, steps=steps, actions=actions, out=out, **prompt, **sampling, **engine)
        report = run_dream(job, render=render, progress=bar, stop=stop)
    _print_report(report, as_json)
    if report.clip.stopped:
        raise typer.Exit(stop.code)


def _dream_clips(
    folder: Path, out: Path, sampling: dict[str, Any], sizes: dict[str, Any], threads: int | None, as_json: bool
) -> None:
    from playloom.atomic_io import next_free_path

    place = next_free_path(out, numbered=True)
    left = f"finished clips are kept: {place}"
    with common.progress("dreaming", "clips") as bar, common.stopping(left, after_step=False):
        from playloom.device import set_threads
        from playloom.inference.generate_batch import BatchJob, dream_clips
        from playloom.inference.sampling import Sampling

        set_threads(threads)

        def on_clip(done: int, total: int, words: str) -> None:
            bar(done, total)
            if not as_json:
                typer.echo(f"[{done}/{total}] {words}")

        # The published program's defaults hold here, not those of the model's card.
        job = BatchJob(folder=folder, out=place, sampling=Sampling.from_card({}, **sampling), **sizes)
        summary = dream_clips(job, on_clip)
    if as_json:
        common.print_json({"folder": place, "written": summary.written, "skipped": summary.skipped})
    else:
        typer.echo(f"{common.count(len(summary.written), 'clip')} dreamed, {len(summary.skipped)} skipped: {place}")
    if not summary.written:
        raise PlayloomError(f"no clip of {folder} can be used")
    if summary.skipped:
        raise typer.Exit(common.SKIPPED)


def _print_report(report: DreamReport, as_json: bool) -> None:
    clip = report.clip
    kinds = {"world": "pictures", "policy": "controller input", "full": "pictures and controller input"}
    result: dict[str, Any] = {
        "notes": clip.notes,
        "steps_seen": len(clip.real_frames_THWC),
        "steps_dreamed": len(clip),
        "dreamed": kinds[clip.manifest.mode],
        "seconds": clip.seconds,
        "frames_per_second": len(clip) / clip.seconds,
        "stopped": clip.stopped,
    }
    if as_json:
        common.print_json({"folder": report.written.folder, "files": dict(report.written.files), **result})
        return
    for note in clip.notes:
        typer.echo(f"note: {note}")
    seen, dreamed = common.count(result["steps_seen"], "step"), common.count(len(clip), "step")
    speed = f"{clip.seconds:.1f} s, {result['frames_per_second']:.1f} frames per second"
    typer.echo(f"{seen} seen, then {dreamed} of {result['dreamed']} dreamed: {speed}")
    typer.echo(f"{report.written.folder}/")
    for name, what in report.written.files:
        typer.echo(f"  {name:<14} {what}")


def live(
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
) -> None:
    """A script that plays against the real clock."""


@common.with_options(common.engine, live, common.prompt, common.sampling)
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
    live: dict[str, Any],
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
        common.refuse(call, set(call.params) - _WITH_PAGE, "applies to --headless only")

        def say(sentence: str) -> None:
            typer.echo(sentence)
            address = re.search(r"https?://[^\s()]+", sentence)
            if address and browser and common.has_display():
                webbrowser.open(address[0])

        given = {name: value for name, value in engine.items() if value != "auto"}  # else the environment decides
        run_server(say, threads=threads, port=port, **given)
        return
    common.refuse(call, ("port", "browser"), "does not apply to --headless")
    _play_headless(live, {"out": out, **engine, **prompt, **sampling}, threads, as_json)


def _play_headless(live: dict[str, Any], options: dict[str, Any], threads: int | None, as_json: bool) -> None:
    if live["script"] is None and live["controller"] != "model":
        raise ActionError(
            "--script is required unless --controller is 'model', as in --script 'forward for 2s; turn_left for 1s'"
        )
    actions_SA, notes = common.read_script(options, live.pop("script"), options["model"])
    with (
        common.progress("playing", "ticks", timed=True) as bar,
        common.stopping("nothing was kept", after_step=True) as stop,
    ):
        from playloom.device import set_threads
        from playloom.inference.realtime.session import LiveJob, play_live

        set_threads(threads)
        job = LiveJob(script_SA=actions_SA, **live, **options)
        greeting = f"for {job.seconds:g} s at {job.fps:g} frames per second ..."
        result = play_live(
            job,
            render=render,
            on_start=lambda name: typer.echo(f"playing {name} {greeting}", err=as_json),
            progress=bar,
            stop=stop,
        )
        was_stopped = stop()
    _print_played(result, (*notes, *result.notes), as_json)
    if (failure := result.report["failure"]) is not None:
        raise PlayloomError(f"the dream failed after {result.report['frames']} frames: {failure}")
    if was_stopped:
        raise typer.Exit(stop.code)


def _print_played(result: LiveResult, notes: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        where = None if result.folder is None else str(result.folder)
        common.print_json({**result.report, "notes": notes, "folder": where})
        return
    for note in notes:
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
