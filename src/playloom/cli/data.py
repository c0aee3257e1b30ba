"""`playloom record`, `capture`, `view` and `import`: recordings and datasets."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.cli import common
from playloom.errors import BadInputError, PlayloomError

if TYPE_CHECKING:
    from playloom.data.dataset import FrameDataset, TokenDataset
    from playloom.games.capture import Captured

_OF_JOIN = {"recordings", "out", "tokenizer", "shard"}
_OF_ENVIRONMENTS = ("env_options", "policy", "actions", "info", "frame_skip", "preset", "resize")


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if math.isfinite(value := float(text)):
            return value
    raise BadInputError(f"--offset is wrong: got {text!r:.40}, expected seconds or auto")


def _part(text: str) -> tuple[int, int]:
    number, _, parts = text.partition("/")
    if not (number.isdecimal() and parts.isdecimal() and 1 <= int(number) <= int(parts)):
        raise BadInputError(f"--shard is wrong: got {text!r:.40}, expected I/N with I from 1 to N, or join")
    return int(number), int(parts)


def reading(
    resize: common.Resize = "crop",
    mask: Annotated[
        list[str] | None, typer.Option(metavar="X,Y,W,H", help="Rectangle in pixels to make black; may be repeated.")
    ] = None,
    format: Annotated[
        str, typer.Option(help="auto, or a format in docs/own_game.md: video, vpt, lerobot ...")
    ] = "auto",
    mapping: Annotated[
        list[str] | None, typer.Option(help="wasd-mouse, xinput, ... or TOML files. Default: by format.")
    ] = None,
    offset: Annotated[
        str,
        typer.Option(
            metavar="SECONDS|auto",
            help="Seconds to add to the times of the input; auto: find them in the pictures' motion.",
            show_default="0, and auto where the start of a log is not known",
        ),
    ] = "",
    rate: Annotated[float, typer.Option(help="Rows per second of data without times (Minari).")] = 10.0,
    schema: common.Schema = "named",
    split: Annotated[
        Literal["train", "validation", "test"] | None, typer.Option(help="Split of all recordings; default: all three.")
    ] = None,
) -> None:
    """Options of the readers of recordings."""


@common.with_options(reading)
def import_command(
    call: typer.Context,
    *,
    recordings: Annotated[Path, typer.Argument(help="A folder of recordings: videos with logs, OWAMcap, LeRobot ...")],
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="Folder of the dataset.")] = Path("data"),
    preset: Annotated[str, typer.Option(help="Model sizes that decide the frame size.")] = "arena-live",
    reading: dict[str, Any],
    tokenizer: Annotated[str | None, typer.Option(help="Store codes of this model or tokenizer, not frames.")] = None,
    workers: Annotated[int, typer.Option(min=0, help="Processes that decode recordings; 0: this one.")] = 0,
    cluster: Annotated[bool, typer.Option("--cluster", help="Decode on a Ray cluster with a shared disk.")] = False,
    shard: Annotated[
        str, typer.Option(metavar="I/N|join", help="Import part I of N; join: join the parts, folders in RECORDINGS.")
    ] = "1/1",
    report: Annotated[bool, typer.Option(help="Write card.md and report.html into the folder of the dataset.")] = True,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 2 instead of 1 if anything was skipped.")] = False,
) -> None:
    """Make a dataset of recordings of your own game, ten steps per second.

    An unusable recording is skipped and listed (exit code 1). The same command continues a stopped import.
    """
    from playloom.data.importing.build import check_folder, import_recordings
    from playloom.data.importing.recordings import ImportOptions

    check_folder(recordings)  # before torch is imported
    if shard == "join":
        common.refuse(call, set(call.params) - _OF_JOIN, "does not apply to --shard join")
        from playloom.data.dataset import join_datasets

        _print_imported(join_datasets(recordings, out), out, tokenizer, report=False)
        return
    if cluster:
        common.refuse(call, ("workers",), "does not apply to --cluster")
    parallel: dict[str, Any] = {"workers": workers, "cluster": cluster, "shard": _part(shard)}
    skipped: list[str] = []
    left = f"the same command continues: {out}"
    with common.progress("importing", "frames") as bar, common.stopping(left, after_step=False):
        from playloom.models.presets import preset as preset_of

        sizes, encoder = preset_of(preset).tokenizer, None
        if tokenizer is not None:
            common.refuse(call, ("preset",), "does not apply to --tokenizer, which decides the sizes")
            from playloom.training.artifacts import clip_encoder

            sizes, encoder = clip_encoder(tokenizer, 1 if workers or cluster else None)
        offset = reading.pop("offset")
        options = ImportOptions(
            frame_size=(sizes.frame_height, sizes.frame_width),
            masks=tuple(common.rectangle(text, "--mask") for text in reading.pop("mask") or ()),
            mapping=tuple(reading.pop("mapping") or ()),
            offset=0.0 if offset in ("", "auto") else _seconds(offset),
            estimate_clock=offset == "auto" if offset else None,
            **reading,
        )
        parallel |= {"encoder": encoder, "report": report, "progress": bar, "on_skip": skipped.append}
        dataset, notes = import_recordings(recordings, out, options, **parallel)
    for note in notes:
        typer.echo(note)
    _print_imported(dataset, out, tokenizer, report)
    _end(skipped, 2 if strict else common.SKIPPED)


def _end(skipped: Sequence[str], code: int) -> None:
    for sentence in skipped:
        typer.echo(f"skipped: {sentence}", err=True)
    if skipped:
        raise typer.Exit(code)


def _print_imported(dataset: FrameDataset | TokenDataset, out: Path, tokenizer: str | None, report: bool) -> None:
    from playloom.data.importing.recordings import SPLITS

    for name in SPLITS:
        spans = dataset.of_split(name)
        if spans:
            frames = common.count(sum(span.length for span in spans), "frame")
            typer.echo(f"{name}: {frames} of {common.count(len(spans), 'clip')}")
    on = f"train --data {out} --start arena-live --minutes 60 --out runs/mine"
    if tokenizer is not None:
        on = f"train world --data {out} --tokenizer {tokenizer} --out runs/world --minutes 60"
    if not dataset.of_split("train"):
        on = f"evaluate --model runs/world/model --data {out}"
    if report:
        typer.echo(f"card and report: {out / 'card.md'}, {out / 'report.html'}")
    typer.echo(f"{out}  (next: playloom {on})")


def record_command(
    call: typer.Context,
    hours: Annotated[float, typer.Option(help="Hours of play, at 10 steps per second; at most 1000.")] = 1.0,
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="Folder of the episodes.")] = Path("recordings"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode; the next episodes count up.")] = 0,
    processes: Annotated[int | None, typer.Option(min=1, help="Processes; default: all cores.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Steps of 0.1 s in an episode; with --env the most.")] = 600,
    env: Annotated[
        str | None, typer.Option(metavar="ID", help="A Gymnasium environment, ID or module:ID. Default: the arena.")
    ] = None,
    env_options: Annotated[
        str, typer.Option(metavar="JSON", help="Arguments of the environment, such as '{\"continuous\": false}'.")
    ] = "{}",
    policy: Annotated[
        str, typer.Option(help="random, or module:function from an observation and a NumPy generator to an action.")
    ] = "random",
    actions: Annotated[Path | None, typer.Option(help="TOML file that maps the environment's actions.")] = None,
    info: Annotated[str | None, typer.Option(metavar="NAME,...", help="Numbers of info to keep; default: all.")] = None,
    frame_skip: Annotated[int | None, typer.Option(min=1, help="Environment steps a frame; default: by rate.")] = None,
    preset: Annotated[str, typer.Option(help="Model sizes that decide the frame size.")] = "arena-live",
    resize: common.Resize = "crop",
    as_json: common.Json = False,
) -> None:
    """Record episodes of scripted players in the arena, or of a policy in a Gymnasium environment (--env).

    The same command continues a stopped recording. Episodes of the arena have no frames: they are rendered again from
    seed and actions. Those of an environment are a dataset for `train --data`, with rewards and terminations; an
    episode that fails is skipped and listed (exit code 1).
    """
    if env is not None:
        _record_environment(call.params)
        return
    common.refuse(call, _OF_ENVIRONMENTS, "applies to --env only")
    from playloom.games.recorder import record_episodes

    left, before = f"the same command continues: {out}", 0
    with common.progress("recording", "episodes") as bar, common.stopping(left, after_step=False):

        def report(done: int, total: int, known: int) -> None:
            nonlocal before
            before = known
            bar(done, total)

        paths = record_episodes(out, hours, seed, processes, report, steps)
    if as_json:
        common.print_json({"folder": out, "episodes": len(paths), "steps": steps, "already_there": before})
        return
    known = f" ({before} recorded before)" if before else ""
    typer.echo(f"{common.count(len(paths), 'episode')} of {steps} steps{known}: {out}")


def _record_environment(given: Mapping[str, Any]) -> None:
    from playloom.games.gymnasium.player import GymnasiumRecording
    from playloom.games.gymnasium.recorder import record_environment
    from playloom.games.recorder import steps_of
    from playloom.models.presets import preset

    frames, out, options = steps_of(given["hours"]), given["out"], None
    with suppress(ValueError):
        options = json.loads(given["env_options"])
    if not isinstance(options, dict):
        raise BadInputError(f"--env-options is wrong: got {given['env_options']:.60}, expected a JSON object")
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # modules of --env and --policy may lie here
    sizes = preset(given["preset"]).tokenizer
    info = None if given["info"] is None else tuple(filter(None, map(str.strip, given["info"].split(","))))
    recording = GymnasiumRecording(
        frame_size=(sizes.frame_height, sizes.frame_width),
        options=options,
        actions=None if given["actions"] is None else str(given["actions"]),
        info=info,
        **{name: given[name] for name in ("env", "policy", "resize", "frame_skip", "steps", "seed")},
    )
    left = f"the same command continues: {out}"
    with common.progress("recording", "frames") as bar, common.stopping(left, after_step=False):
        recorded = record_environment(out, recording, frames, processes=given["processes"], progress=bar)
    frames, count = len(recorded.dataset), len(recorded.dataset.spans)
    if given["as_json"]:
        common.print_json({"folder": out, "episodes": count, "frames": frames, "skipped": recorded.skipped})
    else:
        typer.echo("\n".join((*recorded.notes, f"{frames} frames of {common.count(count, 'episode')}: {out}")))
    _end(recorded.skipped, common.SKIPPED)


def view_command(
    call: typer.Context,
    recording: Annotated[
        Path, typer.Argument(help="An episode (.npz or .json), a folder of them, or (for prompts) a frame dataset.")
    ],
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="Folder of the results.")] = Path("out/view"),
    episodes: Annotated[int, typer.Option(min=1, help="How many of a folder's episodes to show.")] = 1,
    every: Annotated[int, typer.Option(min=1, help="Steps between two pictures of the sheet.")] = 10,
    verify: Annotated[bool, typer.Option(help="Compare the frames with the recorded hash.")] = True,
    figures: Annotated[bool, typer.Option(help="Only print statistics of the players.")] = False,
    select_prompts: Annotated[
        int | None,
        typer.Option(min=1, help="Only save this many prompts from a frame dataset's test (else validation) episodes."),
    ] = None,
) -> None:
    """Render a recording with the drawn controller: a contact sheet and a video."""
    if figures:
        common.refuse(call, ("out", "episodes", "every", "verify"), "does not apply to --figures")
    if select_prompts is not None:
        common.refuse(call, ("figures", "episodes", "every", "verify"), "does not apply to --select-prompts")
        from playloom.data import prompt_selection
        from playloom.data.dataset import FrameDataset

        dataset = FrameDataset.open(recording)
        spans = dataset.of_split("test") or dataset.of_split("validation")  # of few recordings none is for testing
        chosen = prompt_selection.select_prompts(dataset, spans, count=select_prompts)
        for path in prompt_selection.save_chosen(dataset, chosen, out):
            typer.echo(path)
        return
    from playloom.data.recording import load_episode
    from playloom.games.arena.env import episodes_at, write_views

    paths = episodes_at(recording)
    if figures:
        _print_figures(paths)
        return
    skipped = []
    for path in paths[:episodes]:
        try:
            with common.progress(path.name, "steps") as bar:
                episode = load_episode(path)
                steps, player = episode.meta.steps, episode.meta.style
                options: dict[str, Any] = {"every": every, "verify": verify, "progress": bar}
                sheet, video = write_views(episode, out / path.stem, [player] * steps, **options)
            typer.echo(f"{sheet}\n{video}  ({common.count(steps, 'real step')})")
        except PlayloomError as error:
            if len(paths) == 1:
                raise
            skipped.append(str(error) if str(path) in str(error) else f"{path}: {error}")
    _end(skipped, 2)


def _print_figures(paths: list[Path]) -> None:
    from playloom.actions.controller import CONTROLS
    from playloom.data.recording import load_episode
    from playloom.evaluation.online.metrics import play_statistics

    episodes = [load_episode(path) for path in paths]
    styles = [*dict.fromkeys(episode.meta.style for episode in episodes), "all"]
    columns = [play_statistics([one for one in episodes if style in (one.meta.style, "all")]) for style in styles]
    digits = {"steps": ".0f", "reversals a second": ".2f", **{control.name: ".2%" for control in CONTROLS}}
    rows = [
        [name, *(f"{column[name]:{digits.get(name, '.1%')}}".replace("%", " %") for column in columns)]
        for name in columns[0]
    ]
    typer.echo(common.text_table(["figure", *styles], rows))


def capture_command(
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="Folder of the recordings.")] = Path("my_play"),
    window: Annotated[
        str | None, typer.Option(metavar="TITLE", help="Title of the game's window, or a unique part of it.")
    ] = None,
    region: Annotated[
        str | None, typer.Option(metavar="X,Y,W,H", help="Part of the screen in pixels. Default: the first monitor.")
    ] = None,
    fps: Annotated[float, typer.Option(help="Pictures per second, 1 to 240.")] = 30.0,
    minutes: Annotated[float | None, typer.Option(help="Minutes to store. Default: until Ctrl-C.")] = None,
    mapping: Annotated[
        list[str] | None,
        typer.Option(help="Store only the controls of this mapping; may be repeated. Default: wasd-mouse and xinput."),
    ] = None,
) -> None:
    """Record your own play: a video of the screen and a log of keyboard, mouse and gamepad, for `import`.

    With --window, nothing is stored while another window has focus. Ctrl-C ends the recording.
    """
    from playloom.games.capture import CaptureOptions, capture

    options = CaptureOptions(
        out=out,
        window=window,
        region=None if region is None else common.rectangle(region, "--region", signed=True),
        fps=fps,
        minutes=minutes,
        **({"mapping": tuple(mapping)} if mapping else {}),
    )
    with common.progress("capturing", every=5) as bar, common.stopping(f"see {out}", after_step=True) as stop:
        before: list[Captured] = []

        def report(now: Captured) -> None:
            last = before.pop() if before else now._replace(seconds=0, pictures=0)
            before.append(now)
            rate = (now.pictures - last.pictures) / max(now.seconds - last.seconds, 1e-9)
            text = "waiting for the window's focus" if now.waiting else f"{rate:.1f} pictures per second"
            bar.show(f"{text}, {now.seconds:.0f} s, {now.dropped} dropped, {now.events} events")

        done = capture(options, stop=stop, report=report)
    typer.echo(
        f"{done.video}  {done.seconds:.1f} s, {common.count(done.pictures, 'picture')} "
        f"({done.pictures / max(done.seconds, 1e-9):.1f} per second), {done.dropped} dropped, "
        f"{common.count(done.events, 'event')}"
    )
    typer.echo(f"next: playloom import {out} --out data")
