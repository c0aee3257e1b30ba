"""`playloom dream`: dream from one prompt or from a folder of clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.cli import common
from playloom.errors import PlayloomError

if TYPE_CHECKING:
    from playloom.inference.generate import DreamReport

_NOT_WITH_CLIPS = ("prompt", "mode", "actions", "schema", "start_step", "resize", "timestamp")
_ONLY_WITH_CLIPS = ("protocol", "batch", "max_files")


def register(app: typer.Typer) -> None:
    """Add `dream` to the program."""
    app.command("dream")(dream_command)


def dream_command(
    call: typer.Context,
    prompt: Annotated[
        str | None,
        typer.Option(help="A bundled prompt's name, a picture, a folder of them, a recording, an .npz, or a dream."),
    ] = None,
    mode: Annotated[
        Literal["world", "policy", "full"], typer.Option(help="world: pictures; policy: controller input; full: both.")
    ] = "world",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of 0.1 s; default: as many as actions, else 10.")
    ] = None,
    actions: Annotated[
        str | None, typer.Option(help="A CSV, or held inputs such as 'right_stick_x=1 for 10; forward'.")
    ] = None,
    schema: common.Schema = "named",
    start_step: common.StartStep = None,
    resize: common.Resize = "crop",
    out: Annotated[
        Path, typer.Option(callback=common.numbered_folder, help="The folder to write; numbered after an earlier one.")
    ] = Path("out/dream"),
    model: common.Model = None,
    context: common.Context = 10,
    temperature: common.Temperature = None,
    top_k: common.TopK = None,
    top_p: common.TopP = None,
    action_temperature: common.ActionTemperature = None,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    decode_order: common.DecodeOrder = None,
    device: common.Device = "auto",
    threads: common.Threads = None,
    timestamp: common.Timestamp = False,
    clips: Annotated[
        Path | None, typer.Option(help="Dream over a folder of .npz clips (images, actions) instead of one prompt.")
    ] = None,
    protocol: Annotated[
        Literal["base", "comprehensive"],
        typer.Option(help="With --clips. base: recorded actions are fed; comprehensive: dreamed too."),
    ] = "base",
    batch: Annotated[int, typer.Option(min=1, help="With --clips: clips dreamed together.")] = 1,
    max_files: Annotated[int | None, typer.Option(min=1, help="With --clips: only the first so many.")] = None,
    as_json: common.Json = False,
) -> None:
    """Dream on from a moment: the next pictures, the next controller input, or both.

    Ctrl-C and SIGTERM end it and keep what was dreamed.
    """
    if clips is not None:
        common.refuse(call, _NOT_WITH_CLIPS, "does not apply to --clips")
        how = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "action_temperature": action_temperature,
        }
        sizes: dict[str, Any] = {
            "context": context,
            "steps": 10 if steps is None else steps,
            "batch": batch,
            "max_files": max_files,
        }
        sizes |= {"protocol": protocol, "model": model, "seed": seed, "decode_order": decode_order, "device": device}
        _dream_clips(clips, out, how, sizes, threads, as_json)
        return
    common.refuse(call, _ONLY_WITH_CLIPS, "applies to --clips only")
    if mode == "policy":
        common.refuse(call, ("actions",), "does not apply to --mode policy, which dreams the input")
    _check_inputs(prompt, actions, schema)
    with common.progress("dreaming", "frames") as bar, common.stopping("nothing was written", after_step=True) as stop:
        from playloom.device import set_threads
        from playloom.inference.generate import DreamJob, run_dream

        set_threads(threads)
        job = DreamJob(
            model=model,
            prompt=prompt,
            mode=mode,
            steps=steps,
            actions=actions,
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
        report = run_dream(job, render=common.render, progress=bar, stop=stop)
    _say(report, as_json)
    if report.clip.stopped:
        raise typer.Exit(stop.code)


def _check_inputs(prompt: str | None, actions: str | None, schema: Any) -> None:
    """Find what is missing or misspelt before torch is imported."""
    if prompt is not None:
        from playloom.data.prompts import check_prompt

        check_prompt(prompt)
    if actions is not None:
        from playloom.media.action_table import read_inputs

        read_inputs(actions, schema, None)


def _dream_clips(
    folder: Path, out: Path, how: dict[str, Any], sizes: dict[str, Any], threads: int | None, as_json: bool
) -> None:
    """The folder form, with the published program's defaults."""
    from playloom.atomic_io import next_free_path
    from playloom.media.clips import find_clips

    find_clips(folder)
    place = next_free_path(out, numbered=True)
    left = f"clips that were finished are kept: {place}"
    with common.progress("dreaming", "clips") as bar, common.stopping(left, after_step=False):
        from playloom.device import set_threads
        from playloom.inference.generate_batch import BatchJob, dream_clips
        from playloom.inference.sampling import Sampling

        set_threads(threads)

        def on_clip(done: int, total: int, words: str) -> None:
            bar(done, total)
            if not as_json:
                typer.echo(f"[{done}/{total}] {words}")

        job = BatchJob(folder=folder, out=place, sampling=Sampling.from_card({}, **how), **sizes)
        summary = dream_clips(job, on_clip)
    if as_json:
        common.print_json({"folder": place, "written": summary.written, "skipped": summary.skipped})
    else:
        typer.echo(f"{common.count(len(summary.written), 'clip')} dreamed, {len(summary.skipped)} skipped: {place}")
    if not summary.written:
        raise PlayloomError(f"no clip of {folder} could be used")
    if summary.skipped:
        raise typer.Exit(common.SKIPPED)


def _say(report: DreamReport, as_json: bool) -> None:
    clip = report.clip
    kinds = {"world": "pictures", "policy": "controller input", "full": "pictures and controller input"}
    facts: dict[str, Any] = {
        "notes": clip.notes,
        "steps_seen": len(clip.real_frames_THWC),
        "steps_dreamed": len(clip),
        "dreamed": kinds[clip.manifest.mode],
        "seconds": clip.seconds,
        "frames_per_second": len(clip) / clip.seconds,
        "stopped": clip.stopped,
    }
    if as_json:
        common.print_json({"folder": report.written.folder, "files": dict(report.written.files), **facts})
        return
    for note in clip.notes:
        typer.echo(f"note: {note}")
    seen, dreamed = common.count(facts["steps_seen"], "step"), common.count(len(clip), "step")
    speed = f"{clip.seconds:.1f} s, {facts['frames_per_second']:.1f} frames per second"
    typer.echo(f"{seen} seen, then {dreamed} of {facts['dreamed']} dreamed: {speed}")
    typer.echo(f"{report.written.folder}/")
    for name, what in report.written.files:
        typer.echo(f"  {name:<14} {what}")
