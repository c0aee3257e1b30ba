"""`playloom train tokenizer`, `world` and `decoder`: train, and say where the result lies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.cli import common
from playloom.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from playloom.models.world_model import ModelConfig
    from playloom.training.artifacts import PretrainedModel
    from playloom.training.data_source import PrepareOptions
    from playloom.training.task import TrainingResult

Data = Annotated[Path, typer.Option(help="Recordings, a frame store, or (for world) a token store.")]
Out = Annotated[
    Path, typer.Option(callback=common.own_folder, help="The run's folder: checkpoints, log, previews, result.")
]
Preset = Annotated[str | None, typer.Option(help="Named model sizes. [default: arena-live]")]
ConfigFile = Annotated[Path | None, typer.Option("--config", help="JSON with settings, and a 'model' of your own.")]
Steps = Annotated[int | None, typer.Option(min=1, help="End after this many steps.")]
Minutes = Annotated[float | None, typer.Option(min=0, help="End after this much training time, all sessions together.")]
MaxMinutes = Annotated[
    float | None, typer.Option(min=0, help="Save and stop after this many minutes of this session; exit code 3.")
]
Batch = Annotated[int | None, typer.Option(min=1, help="Examples a device takes at once. [default: 16]")]
Rate = Annotated[float | None, typer.Option(min=0, help="Peak of the learning rate. [default: 0.0003]")]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of the run.")]
Resume = Annotated[
    Literal["auto", "never"], typer.Option(help="auto: go on with the run in --out; never: refuse if there is one.")
]
Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed"] | None, typer.Option(help="bf16-mixed is fast where a CPU has it.")
]
PrepareOnly = Annotated[bool, typer.Option("--prepare-only", help="Prepare the data, then stop.")]
Alignment = Annotated[Literal["strict", "warn", "off"], typer.Option(help="Check of actions against pictures.")]
Workers = Annotated[int, typer.Option(min=0, help="Rendering processes, when --data holds recordings.")]


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
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    resume: Resume = "auto",
    device: common.DeviceOrNone = None,
    threads: common.Threads = None,
    precision: Precision = None,
    workers: Workers = 0,
    prepare_only: PrepareOnly = False,
) -> None:
    """Learn to turn pictures into codes and back."""
    from playloom.json_io import from_mapping
    from playloom.training.artifacts import load_tokenizer
    from playloom.training.data_source import frames_from
    from playloom.training.tokenizer import TokenizerTrainingConfig, train_tokenizer

    origin = None
    if start is not None:
        _check_apart("--start", start, out)
        origin, values = _read_tokenizer_start(config, preset, start)
        sizes = origin.tokenizer.config
    else:
        model, values = _read_config(config, preset or "arena-live")
        sizes = model.tokenizer
    flags = _flags(steps, minutes, max_minutes, batch, learning_rate, seed, device, threads, precision)
    training = from_mapping(TokenizerTrainingConfig, _with_flags(values, flags))
    _check_resume(resume, out)
    with _alone(out), common.progress("training", quiet=_is_silent()) as bar:
        store = frames_from(data, out / "frames", _prepare_options(bar, workers))
        if prepare_only:
            typer.echo(f"{len(store)} frames in {common.count(len(store.spans), 'episode')}: {store.folder}")
            return
        result = train_tokenizer(sizes, training, store, out, start=origin, report=bar.training)
    _say_end(result, out, f"tokenizer {load_tokenizer(out).name}: {out / 'tokenizer.safetensors'}")


def train_world_command(
    data: Data,
    out: Out,
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a trained tokenizer.")] = None,
    start: Annotated[str | None, typer.Option(help="Begin with this model's weights (a name or a folder).")] = None,
    preset: Preset = None,
    config: ConfigFile = None,
    steps: Steps = None,
    minutes: Minutes = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    resume: Resume = "auto",
    device: common.DeviceOrNone = None,
    threads: common.Threads = None,
    precision: Precision = None,
    workers: Workers = 0,
    prepare_only: PrepareOnly = False,
    alignment: Alignment = "strict",
) -> None:
    """Learn how codes and controller inputs go on."""
    from playloom.json_io import from_mapping
    from playloom.training.run import WorldJob, prepare_world, run_world
    from playloom.training.world_model import WorldConfig

    origin = None
    if start is not None:
        _check_apart("--start", start, out)
        model, values, origin = _read_start(config, preset, start)
    else:
        model, values = _read_config(config, preset or "arena-live")
    flags = _flags(steps, minutes, max_minutes, batch, learning_rate, seed, device, threads, precision)
    training = from_mapping(WorldConfig, _with_flags(values, flags))
    _check_resume(resume, out)
    with _alone(out), common.progress("training", quiet=_is_silent()) as bar:
        job = WorldJob(
            model=model,
            config=training,
            data=data,
            out=out,
            tokenizer=tokenizer,
            start=origin,
            prepare=_prepare_options(bar, workers),
            alignment=alignment,
        )
        if prepare_only:
            prepare_world(job, typer.echo)
            return
        result = run_world(job, report=bar.training, say=typer.echo)
    _say_end(result, out, f"result: {result.path}")


def train_decoder_command(
    data: Data,
    out: Out,
    model: Annotated[str, typer.Option(help="A bundled model's name, a model's folder, or a tokenizer's run.")],
    config: ConfigFile = None,
    steps: Steps = None,
    minutes: Minutes = None,
    max_minutes: MaxMinutes = None,
    batch: Batch = None,
    learning_rate: Rate = None,
    seed: Seed = None,
    resume: Resume = "auto",
    device: common.DeviceOrNone = None,
    threads: common.Threads = None,
    precision: Precision = None,
    workers: Workers = 0,
    prepare_only: PrepareOnly = False,
) -> None:
    """Sharpen a trained model's pictures: only its decoder learns, codes and transformer stay as they are."""
    from playloom.json_io import from_mapping
    from playloom.training.decoder import DecoderJob, DecoderTrainingConfig, prepare_decoder, run_decoder

    values = _with_flags(
        common.read_settings(config),
        _flags(steps, minutes, max_minutes, batch, learning_rate, seed, device, threads, precision),
    )
    if "model" in values:
        raise ConfigError(
            f"{config} has a 'model', but sizes come from --model; only decoder_blocks and decoder_layers may change"
        )
    training = from_mapping(DecoderTrainingConfig, values)
    _check_apart("--model", model, out)
    _check_resume(resume, out)
    with _alone(out), common.progress("training", quiet=_is_silent()) as bar:
        how = _prepare_options(bar, workers)
        job = DecoderJob(source=model, data=data, out=out, config=training, prepare=how)
        if prepare_only:
            prepare_decoder(job, typer.echo)
            return
        result = run_decoder(job, report=bar.training, say=typer.echo)
    _say_end(result, out, f"result: {result.path}")


def _flags(
    steps: int | None,
    minutes: float | None,
    max_minutes: float | None,
    batch: int | None,
    learning_rate: float | None,
    seed: int | None,
    device: str | None,
    threads: int | None,
    precision: str | None,
) -> dict[str, Any]:
    """The loop settings given as flags."""
    named: dict[str, Any] = {"steps": steps, "minutes": minutes, "max_minutes": max_minutes, "batch": batch}
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
    from playloom.models.presets import preset
    from playloom.models.world_model import ModelConfig

    values = common.read_settings(path)
    own = values.pop("model", None)
    if own is not None and not isinstance(own, dict):
        raise ConfigError(f"{path}: model is {own!r}; expected a model's sizes, as in a model.json's config")
    return (ModelConfig.from_dict(own) if own is not None else preset(name)), values


def _read_start(path: Path | None, name: str | None, start: str) -> tuple[ModelConfig, dict[str, Any], PretrainedModel]:
    """The sizes of the model to begin with, the file's settings, and that model."""
    from playloom.training.artifacts import load_origin

    values = _start_settings(path, name, start)
    origin = load_origin(start)
    if origin.model is None:
        raise CheckpointError(f"{start} is a tokenizer's run; a world training starts with a whole model")
    return origin.model.config, values, origin


def _read_tokenizer_start(path: Path | None, name: str | None, start: str) -> tuple[PretrainedModel, dict[str, Any]]:
    """The tokenizer to begin with, and the file's settings."""
    from playloom.training.artifacts import load_origin

    values = _start_settings(path, name, start)
    return load_origin(start), values


def _start_settings(path: Path | None, name: str | None, start: str) -> dict[str, Any]:
    """The file's settings, without sizes of a model: those come from what is begun with."""
    values = common.read_settings(path)
    if "model" in values or name is not None:
        given = f"{path} has a 'model'" if "model" in values else f"--preset is {name!r}"
        raise ConfigError(f"{given}, but sizes come from --start {start}; leave one of them out")
    return values


def _check_apart(flag: str, origin: str, out: Path) -> None:
    """A run that writes over what it began with cannot be gone on with: it would begin with something else."""
    begins, ends = ({place.resolve(), (place / "model").resolve()} for place in (Path(origin), out))
    if begins & ends:
        raise ConfigError(f"--out {out} would write over what {flag} {origin} begins with; choose another --out")


def _check_resume(resume: str, out: Path) -> None:
    if resume == "never" and (out / "checkpoints").exists():
        raise ConfigError(f"{out} holds a run already; choose another --out, or --resume auto to go on with it")


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two runs in one folder would write over each other; of several devices' processes the first one claims it."""
    from playloom.atomic_io import folder_lock

    if _is_silent():
        yield
        return
    with folder_lock(out):
        yield


def _prepare_options(bar: common.Progress, workers: int) -> PrepareOptions:
    from playloom.training.data_source import PrepareOptions

    return PrepareOptions(render=common.render, workers=workers, progress=bar.of("preparing"))


def _is_distributed() -> bool:
    """torchrun takes an exit code for a failure, and would end the process that still saves the result."""
    from playloom.training.distributed import dist_info

    return dist_info()[1] > 1


def _is_silent() -> bool:
    """Whether this is one of several processes, and not the first."""
    from playloom.training.distributed import dist_info

    return dist_info()[0] > 0


def _say_end(outcome: TrainingResult, out: Path, result: str) -> None:
    """Say how a run ended, and what it left."""
    if _is_silent():
        return
    steps, minutes = common.count(outcome.step, "step"), outcome.elapsed / 60
    if outcome.finished:
        typer.echo(f"finished after {steps} and {minutes:.1f} minutes: {out}")
    else:
        typer.echo(f"saved at step {outcome.step} after {minutes:.1f} minutes; the same command goes on: {out}")
    typer.echo(result)
    if not outcome.finished and not _is_distributed():
        raise typer.Exit(common.UNFINISHED)
