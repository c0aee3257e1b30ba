"""`playloom train tokenizer`, `world` and `decoder`: parses, trains, says where the result lies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from playloom.cli.training_bars import bar_of, is_silent, reports_of, say_end
from playloom.errors import ConfigError

if TYPE_CHECKING:
    from playloom.presets import ModelConfig
    from playloom.training.origin import Origin
    from playloom.training.sources import Preparation

Data = Annotated[Path, typer.Option(help="Recordings, a frame store, or (for world) a token store.")]
Out = Annotated[Path, typer.Option(help="The run's folder: checkpoints, log, previews, result.")]
Preset = Annotated[str | None, typer.Option(help="Named model sizes. [default: arena-live]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="JSON with settings, and a 'model' of your own.")]
Steps = Annotated[int | None, typer.Option(help="End after this many steps.")]
Minutes = Annotated[float | None, typer.Option(help="End after this much training time, all pieces together.")]
Piece = Annotated[float | None, typer.Option(help="Save and stop this process after this many minutes.")]
Batch = Annotated[int | None, typer.Option(help="Examples a device takes at once. [default: 16]")]
Rate = Annotated[float | None, typer.Option(help="Peak of the learning rate. [default: 0.0003]")]
Seed = Annotated[int | None, typer.Option(help="Seed of the run.")]
Resume = Annotated[str, typer.Option(help="auto: go on with the run in --out; never: refuse if there is one.")]
Device = Annotated[str | None, typer.Option(help="auto, cpu or cuda.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads.")]
Precision = Annotated[str | None, typer.Option(help="32-true, bf16-mixed (fast where a CPU has it), or auto.")]
PrepareOnly = Annotated[bool, typer.Option("--prepare-only", help="Prepare the data, then stop.")]
Alignment = Annotated[str, typer.Option(help="Check of actions against pictures: strict, warn or off.")]
Workers = Annotated[int, typer.Option(help="Rendering processes, when --data holds recordings.")]


def register(app: typer.Typer) -> None:
    """Add `train` to the program."""
    group = typer.Typer(help="Train a tokenizer, a world model, or a decoder again.", no_args_is_help=True)
    group.command("tokenizer")(train_tokenizer_command)
    group.command("world")(train_world_command)
    group.command("decoder")(train_decoder_command)
    app.add_typer(group, name="train")


def train_tokenizer_command(
    data: Data,
    out: Out,
    start: Annotated[str | None, typer.Option(help="Begin with this tokenizer (a model or a run).")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    steps: Steps = None,
    minutes: Minutes = None,
    piece: Piece = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    resume: Resume = "auto",
    device: Device = None,
    threads: Threads = None,
    precision: Precision = None,
    workers: Workers = 0,
    prepare_only: PrepareOnly = False,
) -> None:
    """Learn to turn pictures into codes and back."""
    from playloom.training.settings import from_mapping
    from playloom.training.sources import frames_from
    from playloom.training.tokenizer import TokenizerTrainingConfig, train_tokenizer

    origin = None
    if start is not None:
        _check_apart("--start", start, out)
        origin, values = _read_tokenizer_start(config, preset, start)
        sizes = origin.tokenizer.config
    else:
        model, values = _read_config(config, preset or "arena-live")
        sizes = model.tokenizer
    flags = _flags(steps, minutes, piece, batch, learning_rate, seed, device, threads, precision)
    training = from_mapping(TokenizerTrainingConfig, _with_flags(values, flags))
    _check_resume(resume, out)
    with _alone(out):
        with bar_of("preparing pictures") as bar:
            store = frames_from(data, out / "frames", _preparation(bar, workers))
        if prepare_only:
            typer.echo(f"{len(store)} frames in {len(store.spans)} episodes: {store.folder}")
            return
        with reports_of("tokenizer") as report:
            run = train_tokenizer(sizes, training, store, out, start=origin, report=report)
    say_end(run.outcome, out, f"tokenizer {run.fingerprint}: {out / 'tokenizer.safetensors'}")


def train_world_command(
    data: Data,
    out: Out,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a trained tokenizer.")] = None,
    start: Annotated[str | None, typer.Option(help="Begin with this model's weights (a name or a folder).")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    steps: Steps = None,
    minutes: Minutes = None,
    piece: Piece = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    resume: Resume = "auto",
    device: Device = None,
    threads: Threads = None,
    precision: Precision = None,
    workers: Workers = 0,
    prepare_only: PrepareOnly = False,
    alignment: Alignment = "strict",
) -> None:
    """Learn how codes and controller inputs go on."""
    from playloom.recipes.preview import dream_preview
    from playloom.training.settings import from_mapping
    from playloom.training.world import WorldConfig
    from playloom.training.world_job import WorldJob, prepare_world, run_world

    origin = None
    if start is not None:
        _check_apart("--start", start, out)
        model, values, origin = _read_start(config, preset, start)
    else:
        model, values = _read_config(config, preset or "arena-live")
    flags = _flags(steps, minutes, piece, batch, learning_rate, seed, device, threads, precision)
    training = from_mapping(WorldConfig, _with_flags(values, flags))
    _check_resume(resume, out)
    with _alone(out), bar_of("preparing codes") as bar, reports_of("world") as report:
        job = WorldJob(
            model=model,
            config=training,
            data=data,
            out=out,
            tokenizer=tokenizer,
            start=origin,
            preparation=_preparation(bar, workers),
            alignment=alignment,
        )
        if prepare_only:
            prepare_world(job, typer.echo)
            return
        result = run_world(job, preview_of=dream_preview(model), report=report, say=typer.echo)
    say_end(result.outcome, out, f"result: {result.path}")


def train_decoder_command(
    data: Data,
    out: Out,
    model: Annotated[str, typer.Option(help="A bundled model's name, a model's folder, or a tokenizer's run.")],
    config: ConfigFile = None,
    steps: Steps = None,
    minutes: Minutes = None,
    piece: Piece = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    resume: Resume = "auto",
    device: Device = None,
    threads: Threads = None,
    precision: Precision = None,
    workers: Workers = 0,
    prepare_only: PrepareOnly = False,
) -> None:
    """Sharpen a trained model's pictures: only its decoder learns, codes and transformer stay as they are."""
    from playloom.training.decoder import DecoderTrainingConfig
    from playloom.training.decoder_job import DecoderJob, prepare_decoder, run_decoder
    from playloom.training.settings import from_mapping

    values = _with_flags(
        _read_settings(config), _flags(steps, minutes, piece, batch, learning_rate, seed, device, threads, precision)
    )
    if "model" in values:
        raise ConfigError(
            f"{config} has a 'model', but sizes come from --model; only decoder_blocks and decoder_layers may change"
        )
    training = from_mapping(DecoderTrainingConfig, values)
    _check_apart("--model", model, out)
    _check_resume(resume, out)
    with _alone(out), bar_of("preparing") as bar, reports_of("decoder") as report:
        how = _preparation(bar, workers)
        job = DecoderJob(source=model, data=data, out=out, config=training, preparation=how)
        if prepare_only:
            prepare_decoder(job, typer.echo)
            return
        result = run_decoder(job, report=report, say=typer.echo)
    say_end(result.outcome, out, f"result: {result.path}")


def _flags(
    steps: int | None,
    minutes: float | None,
    piece: float | None,
    batch: int | None,
    learning_rate: float | None,
    seed: int | None,
    device: str | None,
    threads: int | None,
    precision: str | None,
) -> dict[str, Any]:
    """The loop settings given as flags."""
    named: dict[str, Any] = {"steps": steps, "minutes": minutes, "piece_minutes": piece, "batch": batch}
    named |= {"learning_rate": learning_rate, "seed": seed, "device": device, "threads": threads}
    named["precision"] = precision
    return {name: value for name, value in named.items() if value is not None}


def _with_flags(values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    loop = values.get("loop", {})
    if not isinstance(loop, dict):
        raise ConfigError(f"loop is {loop!r}; expected an object of settings")
    return {**values, "loop": {**loop, **flags}}


def _read_config(path: Path | None, name: str) -> tuple[ModelConfig, dict[str, Any]]:
    """The model's sizes (the file's `model`, else the preset) and the other settings of the file."""
    from playloom.presets import ModelConfig, preset

    values = _read_settings(path)
    own = values.pop("model", None)
    if own is not None and not isinstance(own, dict):
        raise ConfigError(f"{path}: model is {own!r}; expected a model's sizes, as in a model.json's config")
    return (ModelConfig.from_dict(own) if own is not None else preset(name)), values


def _read_start(path: Path | None, name: str | None, start: str) -> tuple[ModelConfig, dict[str, Any], Origin]:
    """The sizes of the model to begin with, the file's settings, and that model."""
    from playloom.training.origin import load_whole_origin

    values = _start_settings(path, name, start)
    model, origin = load_whole_origin(start)
    return model.config, values, origin


def _read_tokenizer_start(path: Path | None, name: str | None, start: str) -> tuple[Origin, dict[str, Any]]:
    """The tokenizer to begin with, and the file's settings."""
    from playloom.training.origin import load_origin

    values = _start_settings(path, name, start)
    return load_origin(start), values


def _start_settings(path: Path | None, name: str | None, start: str) -> dict[str, Any]:
    """The file's settings, without sizes of a model: those come from what is begun with."""
    values = _read_settings(path)
    if "model" in values or name is not None:
        given = f"{path} has a 'model'" if "model" in values else f"--preset is {name!r}"
        raise ConfigError(f"{given}, but sizes come from --start {start}; leave one of them out")
    return values


def _read_settings(path: Path | None) -> dict[str, Any]:
    """The settings in a JSON file; none without a file."""
    if path is None:
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}); give a JSON file") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not JSON ({error})") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}; expected an object of settings")
    return values


def _check_apart(flag: str, origin: str, out: Path) -> None:
    """A run that writes over what it began with cannot be gone on with: it would begin with something else."""
    begins, ends = ({place.resolve(), (place / "model").resolve()} for place in (Path(origin), out))
    if begins & ends:
        raise ConfigError(f"--out {out} would write over what {flag} {origin} begins with; choose another --out")


def _check_resume(resume: str, out: Path) -> None:
    if resume not in ("auto", "never"):
        raise ConfigError(f"--resume is {resume!r}; choose auto or never")
    if resume == "never" and (out / "checkpoints").exists():
        raise ConfigError(f"{out} holds a run already; choose another --out, or --resume auto to go on with it")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two runs in one folder would write over each other; of several devices' processes the first one claims it."""
    from playloom.files import claimed

    if is_silent():
        yield
        return
    with claimed(out):
        yield


def _preparation(bar: Any, workers: int) -> Preparation:
    from playloom.training.sources import Preparation

    return Preparation(render=_render, workers=workers, progress=bar)


def _render(episode: Any) -> Iterator[Any]:
    """A recording's pictures; the game is needed only here, not for data of another one."""
    from playloom.games.arena import render_episode

    return iter(render_episode(episode))
