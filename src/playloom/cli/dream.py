"""`playloom dream`: parses, dreams one prompt or a folder of clips, says what came of it or that it was stopped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from playloom.cli.stopping import STOPPED, ctrl_c

if TYPE_CHECKING:
    from playloom.dreams import DreamReport


def register(app: typer.Typer) -> None:
    """Add `dream` to the program."""
    app.command("dream")(dream_command)


def dream_command(
    prompt: Annotated[
        str | None,
        typer.Option(help="A picture, a folder of pictures, a recording, an .npz clip, a dream, or moment:NAME."),
    ] = None,
    mode: Annotated[str, typer.Option(help="world: pictures; policy: controller input; full: both.")] = "world",
    steps: Annotated[int | None, typer.Option(help="Steps of 0.1 s; default: as many as actions, else 10.")] = None,
    actions: Annotated[
        str | None, typer.Option(help="A CSV, or held inputs such as 'right_stick_x=1 for 10; forward'.")
    ] = None,
    schema: Annotated[str, typer.Option(help="Of CSV files: named, binned or auto.")] = "named",
    at: Annotated[int | None, typer.Option(help="The step of the prompt to dream on from.")] = None,
    fit: Annotated[str, typer.Option(help="Pictures of another shape: crop or letterbox.")] = "crop",
    out: Annotated[Path, typer.Option(help="The folder to write; numbered if it is taken.")] = Path("out/dream"),
    model: Annotated[str | None, typer.Option(help="A bundled model's name, or a folder.")] = None,
    context: Annotated[int, typer.Option(help="Steps the model sees first; its own context (10) is the most.")] = 10,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy; default: the model's card, else 0.9.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw from the k likeliest tokens only.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw from the likeliest tokens that reach p together.")] = None,
    action_temperature: Annotated[
        float | None, typer.Option(help="Of dreamed inputs; default: as --temperature, else the model's card.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same pictures.")] = 0,
    lag: Annotated[
        int | None,
        typer.Option(help="Row lag of the decoding order: 1 to the grid's width (raster). Default: the model's card."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    timestamp: Annotated[bool, typer.Option(help="Put the time into manifests; each run then differs.")] = False,
    clips: Annotated[
        Path | None, typer.Option(help="Dream over a folder of .npz clips (images, actions) instead of one prompt.")
    ] = None,
    protocol: Annotated[
        str, typer.Option(help="With --clips. base: recorded actions are fed; comprehensive: dreamed too.")
    ] = "base",
    batch: Annotated[int, typer.Option(help="With --clips: clips dreamed together.")] = 1,
    max_files: Annotated[int | None, typer.Option(help="With --clips: only the first so many.")] = None,
) -> None:
    """Dream on from a moment: the next pictures, the next controller input, or both.

    Ctrl-C ends it and keeps what was dreamed.
    """
    if clips is not None:
        how = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "action_temperature": action_temperature,
        }
        sizes = {"context": context, "steps": 10 if steps is None else steps, "batch": batch, "max_files": max_files}
        _dream_clips(clips, out, protocol, how, **sizes, model=model, seed=seed, lag=lag, device=device)
        return
    from playloom.dreams import DreamJob, run_dream

    job = DreamJob(
        model=model,
        prompt=prompt,
        mode=mode,  # type: ignore[arg-type]  # checked by DreamRequest, in a sentence
        steps=steps,
        actions=actions,
        schema=schema,  # type: ignore[arg-type]
        context=context,
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
    with _interrupted("nothing was written"), ctrl_c() as stopped, _bar("dreaming") as step_done:
        report = run_dream(job, render=_render, progress=step_done, stop=stopped)
    _say(report)
    if report.stopped:
        raise typer.Exit(STOPPED)


def _dream_clips(folder: Path, out: Path, protocol: str, how: dict[str, Any], **settings: Any) -> None:
    """The folder form, with the published program's defaults."""
    from playloom.dreams import BatchJob, dream_clips
    from playloom.engine import Sampling

    sampling = Sampling.of_card({}, **how)
    job = BatchJob(folder=folder, out=out, protocol=protocol, sampling=sampling, **settings)  # type: ignore[arg-type]
    with _interrupted(f"clips that were finished are kept: {out}"):
        summary = dream_clips(job, on_clip=lambda done, total, words: typer.echo(f"[{done}/{total}] {words}"))
    typer.echo(f"{_count(len(summary.written), 'clip')} dreamed, {len(summary.skipped)} skipped")
    if not summary.written:
        raise typer.Exit(2)


@contextmanager
def _interrupted(left: str) -> Iterator[None]:
    """Ctrl-C in the body ends the program, which says what is left."""
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(f"stopped; {left}", err=True)
        raise typer.Exit(STOPPED) from None


def _render(episode: Any) -> Iterator[Any]:
    from playloom.games.arena import render_episode

    return iter(render_episode(episode))


@contextmanager
def _bar(label: str) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn(label),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(label, total=None, rate="")

        def step_done(done: int, total: int) -> None:
            speed = bar.tasks[0].finished_speed or bar.tasks[0].speed
            bar.update(task, completed=done, total=total, rate=f"{speed:.1f} frames/s" if speed else "")

        yield step_done


def _say(report: DreamReport) -> None:
    for note in report.notes:
        typer.echo(f"note: {note}")
    typer.echo(
        f"{_count(report.steps_seen, 'step')} seen, then {_count(report.steps_dreamed, 'step')} "
        f"of {report.dreamed} dreamed: {report.seconds:.1f} s, {report.frames_per_second:.1f} frames a second"
    )
    typer.echo(f"{report.written.folder}/")
    for name, what in report.written.files:
        typer.echo(f"  {name:<14} {what}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
