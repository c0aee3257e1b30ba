"""`playloom train` of a whole model, and of its parts: `tokenizer`, `world` and `heads`."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from playloom.actions.controller import CONTROLS
from playloom.cli import common
from playloom.errors import CheckpointError, ConfigError, did_you_mean
from playloom.games import render, render_edited

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

if TYPE_CHECKING:
    from playloom.models.config import ModelConfig
    from playloom.training.artifacts import PretrainedModel
    from playloom.training.data_source import PrepareOptions
    from playloom.training.task import TrainingResult


def _check_name(name: str | None) -> str | None:
    if name is not None and not (name.strip() and name.isprintable() and len(name) <= 60):
        raise ConfigError(f"--name is wrong: got {name!r:.80}, expected 1 to 60 printable characters")
    return name


Precision = Annotated[
    Literal["auto", "32-true", "bf16-mixed"] | None,
    typer.Option(help="Default auto: bf16-mixed where it is fast, else 32-true."),
]
Workers = Annotated[int, typer.Option(min=0, help="Rendering processes, when --data holds recordings.")]
PrepareOnly = Annotated[bool, typer.Option("--prepare-only", help="Prepare the data, then stop.")]


app = typer.Typer(no_args_is_help=True)
_HEADS_LOOP = {"batch": 256, "learning_rate": 0.001}
_HEADS_STEPS = 2000


def run(
    data: Annotated[Path, typer.Option(help="Recordings, a frame dataset, or (for world) a token dataset.")],
    out: Annotated[
        Path, typer.Option(callback=common.own_folder, help="Folder of the run: checkpoints, log, previews, result.")
    ],
    config: Annotated[
        Path | None, typer.Option("--config", help="JSON with settings, and a 'model' of your own.")
    ] = None,
    resume: Annotated[
        Literal["auto", "never"], typer.Option(help="auto: continue the run in --out; never: refuse if there is one.")
    ] = "auto",
    workers: Workers = 0,
) -> None:
    """Data, settings and folder of a run."""


def origin(
    start: Annotated[
        str | None, typer.Option(help="Initial weights: a model's name, a model's folder, or a run.")
    ] = None,
    preset: Annotated[str | None, typer.Option(help="Named model sizes. [default: arena-live]")] = None,
) -> None:
    """Initial weights or sizes."""


def game(
    name: Annotated[
        str | None,
        typer.Option(callback=_check_name, help="Name of the model. Default: the game, else the data folder's name."),
    ] = None,
    controls: Annotated[
        Path | None, typer.Option(help="TOML file: in its table controls what each does, as in trigger_RT = 'gas'.")
    ] = None,
    alignment: Annotated[
        Literal["strict", "warn", "off"], typer.Option(help="Check of actions against pictures.")
    ] = "strict",
) -> None:
    """Name and controls of the game, and the check of its recordings."""


def loop(
    steps: Annotated[int | None, typer.Option(min=1, help="End after this many steps.")] = None,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="End after this much training time, over all sessions.")
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option(min=0, help="Save and stop after this many minutes of this session; exit code 3.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Examples per device and step. [default: 16]")] = None,
    learning_rate: Annotated[float | None, typer.Option(min=0, help="Peak learning rate. [default: 0.0003]")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the run.")] = None,
    device: common.DeviceOrNone = None,
    threads: common.Threads = None,
    precision: Precision = None,
) -> None:
    """The training loop's settings."""


@app.command("tokenizer")
@common.with_options(run, origin, loop)
def train_tokenizer_command(
    *, run: dict[str, Any], origin: dict[str, Any], loop: dict[str, Any], prepare_only: PrepareOnly = False
) -> None:
    """Train the tokenizer: pictures to codes and back."""
    from playloom.json_io import from_mapping
    from playloom.training.artifacts import load_tokenizer
    from playloom.training.data_source import frames_from
    from playloom.training.tokenizer import TokenizerTrainingConfig, train_tokenizer

    pretrained, values = _pretrained(run, **origin)
    sizes = _sizes(None, run, **origin).tokenizer if pretrained is None else pretrained.tokenizer.config
    out, training = run["out"], from_mapping(TokenizerTrainingConfig, with_flags(values, loop))
    with _running(run) as bar:
        dataset = frames_from(run["data"], out / "frames", _prepare_options(bar, run["workers"]))
        if prepare_only:
            typer.echo(f"{len(dataset)} frames in {common.count(len(dataset.spans), 'episode')}: {dataset.folder}")
            return
        result = train_tokenizer(sizes, training, dataset, out, start=pretrained, report=bar.training)
    _print_end(result, out, f"tokenizer {load_tokenizer(out).name}: {out / 'tokenizer.safetensors'}")


@app.command("world")
@common.with_options(run, origin, loop, game)
def train_world_command(
    *,
    run: dict[str, Any],
    tokenizer: Annotated[Path | None, typer.Option(help="Folder of a trained tokenizer.")] = None,
    origin: dict[str, Any],
    loop: dict[str, Any],
    prepare_only: PrepareOnly = False,
    game: dict[str, Any],
    edited: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the arena's recordings added again with foreign objects.")
    ] = 0.0,
) -> None:
    """Train the transformer: the next codes and controller inputs."""
    from playloom.json_io import from_mapping
    from playloom.training.run import WorldJob, prepare_world, run_world
    from playloom.training.world_model import WorldConfig

    pretrained, values = _pretrained(run, **origin)
    model = _sizes(pretrained, run, **origin)
    training, words = from_mapping(WorldConfig, with_flags(values, loop)), _read_controls(game.pop("controls"))
    with _running(run) as bar:
        job = WorldJob(
            model=model,
            config=training,
            data=run["data"],
            out=run["out"],
            tokenizer=tokenizer,
            start=pretrained,
            prepare=_prepare_options(bar, run["workers"], edited),
            controls=words,
            **game,
        )
        if prepare_only:
            prepare_world(job, typer.echo)
            return
        result = run_world(job, report=bar.training, say=typer.echo)
    _print_end(result, run["out"], f"result: {result.path}")


@app.command("heads")
@common.with_options(run, loop)
def train_heads_command(
    *,
    run: dict[str, Any],
    model: Annotated[str, typer.Option(help="A bundled model's name, a model's folder, or a world model's run.")],
    loop: dict[str, Any],
) -> None:
    """Add heads of reward, termination and states to a finished model; its other weights stay.

    The data needs labels: columns reward and terminated, or the arena's. Default: 2000 steps of 256 at a learning rate
    of 0.001.
    """
    from playloom.json_io import from_mapping
    from playloom.training.heads import HeadsJob, HeadsTrainingConfig, run_heads

    _check_apart("--model", model, run["out"])
    values = with_flags(common.read_settings(run["config"]), loop)
    ends = {} if {"steps", "minutes"} & set(values["loop"]) else {"steps": _HEADS_STEPS}
    training = from_mapping(HeadsTrainingConfig, {**values, "loop": {**_HEADS_LOOP, **ends, **values["loop"]}})
    with _running(run) as bar:
        prepare = _prepare_options(bar, run["workers"])
        job = HeadsJob(source=model, data=run["data"], out=run["out"], config=training, prepare=prepare)
        result = run_heads(job, report=bar.training, say=typer.echo)
    _print_end(result, run["out"], f"result: {result.path}")


@app.callback(invoke_without_command=True)
@common.with_options(origin, game)
def train_command(
    call: typer.Context,
    *,
    data: Annotated[Path | None, typer.Option(help="Recordings, or a dataset of `import`.")] = None,
    out: Annotated[
        Path | None, typer.Option(callback=common.own_folder, help="Folder of the run; the result is OUT/model.")
    ] = None,
    minutes: Annotated[float, typer.Option(help="Time of all stages, over all sessions.")] = 60.0,
    origin: dict[str, Any],
    game: dict[str, Any],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = 0,
    device: common.Device = "auto",
    threads: common.Threads = None,
    precision: Precision = None,
    workers: Workers = 0,
) -> None:
    """Train a whole model: tokenizer, codes, world model. Or one of its parts, by the commands below.

    The tokenizer gets a quarter of the time, the codes as long as they take, the world model the rest. The same command
    continues a stopped training.
    """
    if call.invoked_subcommand is not None:
        common.refuse(call, call.params, f"has no effect before {call.invoked_subcommand}")
        return
    if data is None or out is None:
        raise ConfigError(f"{'--data' if data is None else '--out'} is missing; see: playloom train --help")
    from playloom.training.pipeline import TrainingJob, train_model

    run = {"out": out, "config": None, "resume": "auto"}
    pretrained, _ = _pretrained(run, **origin)
    machine = {"seed": seed, "device": device, "threads": threads, "precision": precision}
    with _running(run) as bar:
        job = TrainingJob(
            model=_sizes(pretrained, run, **origin),
            data=data,
            out=out,
            minutes=minutes,
            prepare=_prepare_options(bar, workers),
            start=pretrained,
            controls=_read_controls(game.pop("controls")),
            machine={key: value for key, value in machine.items() if value is not None},
            **game,
        )
        result = train_model(job, report=bar.training, on_stage=bar.stage, say=typer.echo)
    _print_end(result, out, f"next: playloom serve --model {out / 'model'}" if result.finished else "")


def with_flags(values: Mapping[str, Any], flags: Mapping[str, Any]) -> dict[str, Any]:
    """Put the given flags into the settings' `loop`."""
    loop = values.get("loop", {})
    if not isinstance(loop, dict):
        raise ConfigError(f"loop is {loop!r}; expected an object of settings")
    return {**values, "loop": {**loop, **{name: value for name, value in flags.items() if value is not None}}}


def read_config(path: Path | None, name: str | None) -> tuple[ModelConfig, dict[str, Any]]:
    """Read the model's sizes (the file's `model`, else the preset) and the other settings of the file."""
    from playloom.models.config import ModelConfig
    from playloom.models.presets import preset

    values = common.read_settings(path)
    own = values.pop("model", None)
    if own is not None and not isinstance(own, dict):
        raise ConfigError(f"{path}: model is {own!r}; expected a model's sizes, as in a model.json's config")
    return (ModelConfig.from_dict(own) if own is not None else preset(name or "arena-live")), values


def _pretrained(
    run: Mapping[str, Any], start: str | None, preset: str | None
) -> tuple[PretrainedModel | None, dict[str, Any]]:
    """Load the initial weights, if any, and the settings of the file without its 'model'."""
    from playloom.training.artifacts import load_origin

    path = run["config"]
    if start is None:
        return None, read_config(path, preset)[1]
    _check_apart("--start", start, run["out"])
    values = common.read_settings(path)
    if "model" in values or preset is not None:
        given = f"{path} has a 'model'" if "model" in values else f"--preset is {preset!r}"
        raise ConfigError(f"{given}, but sizes come from --start {start}; leave one of them out")
    return load_origin(start), values


def _sizes(
    pretrained: PretrainedModel | None, run: Mapping[str, Any], start: str | None, preset: str | None
) -> ModelConfig:
    if pretrained is None:
        return read_config(run["config"], preset)[0]
    if pretrained.model is None:
        raise CheckpointError(f"{start} is a tokenizer's run; this training starts with a whole model")
    return pretrained.model.config


def _read_controls(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig")).get("controls")
    except (OSError, ValueError) as error:
        raise ConfigError(f"--controls {path} cannot be read ({error}); expected a TOML file") from error
    if not isinstance(content, dict) or not all(isinstance(words, str) and words for words in content.values()):
        raise ConfigError(f"--controls {path} is wrong: expected a table [controls] with lines like button_A = 'jump'")
    names = [control.name for control in CONTROLS]
    for name in content:
        if name not in names:
            raise ConfigError(f"--controls {path} has an unknown control {name!r}; {did_you_mean(name, names)}")
    return content


def _check_apart(flag: str, origin: str, out: Path) -> None:
    """A run that overwrites its initial weights could not be resumed."""
    begins, ends = ({place.resolve(), (place / "model").resolve()} for place in (Path(origin), out))
    if begins & ends:
        raise ConfigError(f"--out {out} would overwrite {flag} {origin}; choose another --out")


@contextmanager
def _running(run: Mapping[str, Any]) -> Iterator[common.Progress]:
    """Lock the run's folder in the first process only, and show its progress."""
    from playloom.atomic_io import folder_lock
    from playloom.training.distributed import dist_info

    out = run["out"]
    if run["resume"] == "never" and (out / "checkpoints").exists():
        raise ConfigError(f"{out} holds a run already; choose another --out, or --resume auto to continue it")
    first = dist_info()[0] == 0
    with folder_lock(out) if first else nullcontext(), common.progress("training", quiet=not first) as bar:
        yield bar


def _prepare_options(bar: common.Progress, workers: int, edited: float = 0.0) -> PrepareOptions:
    from playloom.training.data_source import PrepareOptions

    return PrepareOptions(
        render=render, workers=workers, progress=bar.of("preparing"), edited=edited, render_edited=render_edited
    )


def _print_end(outcome: TrainingResult, out: Path, result: str) -> None:
    from playloom.training.distributed import dist_info

    rank, processes = dist_info()
    if rank > 0:
        return
    steps, minutes = common.count(outcome.step, "step"), outcome.elapsed / 60
    if outcome.finished:
        typer.echo(f"finished after {steps} and {minutes:.1f} minutes: {out}")
    else:
        typer.echo(f"saved at step {outcome.step} after {minutes:.1f} minutes; the same command continues: {out}")
    if result:
        typer.echo(result)
    # torchrun takes an exit code for a failure, and ends the process that still saves the result.
    if not outcome.finished and processes == 1:
        raise typer.Exit(common.UNFINISHED)
