"""`playloom dream`: generate from one prompt or from a folder of clips."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.cli import common
from playloom.errors import PlayloomError

if TYPE_CHECKING:
    from playloom.inference.generate import DreamReport

_NOT_WITH_CLIPS = ("prompt", "mode", "actions", "schema", "start_step", "resize", "timestamp", "backend")
_ONLY_WITH_CLIPS = ("protocol", "batch", "max_files")


@common.with_options(common.prompt, common.sampling, common.engine)
def dream_command(
    call: typer.Context,
    *,
    prompt: dict[str, Any],
    mode: Annotated[
        Literal["world", "policy", "full"], typer.Option(help="world: pictures; policy: controller input; full: both.")
    ] = "world",
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of 0.1 s; default: as many as actions, else 10.")
    ] = None,
    actions: Annotated[
        str | None, typer.Option(help="A CSV, or held inputs such as 'right_stick_x=1 for 10; forward'.")
    ] = None,
    out: Annotated[
        Path, typer.Option(callback=common.numbered_folder, help="Output folder; numbered after an earlier one.")
    ] = Path("out/dream"),
    sampling: dict[str, Any],
    engine: dict[str, Any],
    backend: common.Backend = "torch",
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
    """Dream on from a prompt: the next pictures, the next controller input, or both.

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
        kinds = {"mode": mode, "backend": backend}
        job = DreamJob(steps=steps, actions=actions, out=out, **kinds, **prompt, **sampling, **engine)  # type: ignore[arg-type]
        report = run_dream(job, render=common.render, progress=bar, stop=stop)
    _print_report(report, as_json)
    if report.clip.stopped:
        raise typer.Exit(stop.code)


def _dream_clips(
    folder: Path, out: Path, sampling: dict[str, Any], sizes: dict[str, Any], threads: int | None, as_json: bool
) -> None:
    from playloom.atomic_io import next_free_path
    from playloom.media.clips import find_clips

    find_clips(folder)
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
