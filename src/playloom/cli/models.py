"""`playloom models`, `plan`, `bench` and `export`: models, their cards, cost and speed; files for other programs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from playloom.cli import common
from playloom.errors import BadInputError
from playloom.games import render

if TYPE_CHECKING:
    from playloom.training.plan import Machine, TrainingPlan

_GB = 1e9


def models_command(
    name: Annotated[str | None, typer.Argument(help="Show the card of a bundled model's name or a folder.")] = None,
    as_json: common.Json = False,
) -> None:
    """List bundled models, bundled prompts and named sizes, or show one model's card."""
    from playloom.data.prompts import list_prompts
    from playloom.models.folder import bundled_models, read_card
    from playloom.models.presets import PRESETS

    if name is not None:
        card = read_card(name).rstrip()
        if as_json:
            common.print_json({"model": name, "card": card})
        else:
            typer.echo(card)
        return
    if as_json:
        sizes = {name: config.to_dict() for name, config in PRESETS.items()}
        common.print_json({"models": bundled_models(), "prompts": list_prompts(), "presets": sizes})
        return
    typer.echo(f"bundled models:  {', '.join(bundled_models()) or 'none'}")
    typer.echo(f"bundled prompts: {', '.join(list_prompts()) or 'none'}")
    typer.echo(f"\n{'preset':<15} {'layers x width':>14} {'heads':>6} {'grid':>8} {'codes':>7} {'parameters':>11}")
    for name, config in PRESETS.items():
        net, grid = config.transformer, config.tokenizer
        size = f"{config.parameter_count / 1e6:.1f} M"
        typer.echo(
            f"{name:<15} {f'{net.layers} x {net.width}':>14} {net.heads:>6} "
            f"{f'{grid.grid_width} x {grid.grid_height}':>8} {grid.codebook_size:>7} {size:>11}"
        )


def plan_command(
    preset: Annotated[str, typer.Option(help="Named model sizes.")] = "arena-live",
    config: Annotated[Path | None, typer.Option(help="JSON with settings, as for `train world`.")] = None,
    hours: Annotated[float, typer.Option(min=0.01, help="Hours of play in the data, at 10 frames a second.")] = 100.0,
    epochs: Annotated[float, typer.Option(min=0.001, help="Passes over the data.")] = 1.0,
    machine: Annotated[
        Literal["a100", "h100", "h200", "l40s", "rtx4090"], typer.Option(help="Device, by its data sheet.")
    ] = "h100",
    devices: Annotated[int, typer.Option(min=1, help="Number of devices.")] = 1,
    batch: Annotated[int | None, typer.Option(min=1, help="Windows per device and step. [default: 16]")] = None,
    strategy: Annotated[
        Literal["ddp", "fsdp"] | None, typer.Option(help="Whole models, or shards, on every device.")
    ] = None,
    activation_checkpointing: Annotated[
        bool | None, typer.Option("--activation-checkpointing/--no-activation-checkpointing", help="Less memory.")
    ] = None,
    utilisation: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the machine's published rate that is reached.")
    ] = 0.35,
    as_json: common.Json = False,
) -> None:
    """Predict memory, speed, days and disk of a world model training.

    The training itself is not run: operations and memory are counted, the speed is assumed.
    """
    if not math.isfinite(36000 * hours * epochs):
        raise BadInputError(f"the plan is too large: got {hours:g} hours, {epochs:g} epochs, expected finite numbers")
    import dataclasses

    from playloom.cli.train import read_config, with_flags
    from playloom.json_io import from_mapping
    from playloom.training.plan import MACHINES, RESERVED, plan_training
    from playloom.training.world_model import WorldConfig

    model, values = read_config(config, preset)
    flags = {"batch": batch, "strategy": strategy, "activation_checkpointing": activation_checkpointing}
    if model.transformer.positions == "absolute":
        values = {"window_steps": model.transformer.context_steps, **values}
    values = with_flags(values, flags)
    values["loop"] = {"steps": 1, **values["loop"]}
    plan = plan_training(
        model,
        from_mapping(WorldConfig, values),
        frames=36000 * hours,
        epochs=epochs,
        machine=MACHINES[machine],
        devices=devices,
        utilisation=utilisation,
    )
    if as_json:
        common.print_json({"preset": preset, "machine": machine, "devices": devices, **dataclasses.asdict(plan)})
        return
    typer.echo(common.text_table([preset, f"{devices} x {machine}"], _plan_rows(plan, MACHINES[machine])))
    typer.echo(
        f"assumed: {utilisation:.0%} of {MACHINES[machine].rate / 1e12:,.0f} TFLOP/s, {RESERVED / _GB:g} GB for "
        f"context and gaps, {hours:g} hours of play, {epochs:g} epochs; not measured on this machine"
    )
    if not plan.fits:
        typer.echo("it does not fit: lower --batch, or add --activation-checkpointing or --strategy fsdp", err=True)
        raise typer.Exit(1)


def _plan_rows(plan: TrainingPlan, machine: Machine) -> list[list[str]]:
    return [
        ["parameters", f"{plan.parameters / 1e6:,.1f} M"],
        ["memory of a device", f"{plan.memory_bytes / _GB:,.1f} GB of {machine.memory / _GB:,.0f} GB"],
        ["  weights and optimiser", f"{plan.state_bytes / _GB:,.1f} GB"],
        ["  activations", f"{plan.activation_bytes / _GB:,.1f} GB"],
        ["tokens per second", f"{plan.tokens_per_second:,.0f}"],
        ["steps", f"{plan.steps:,}"],
        ["hours" if plan.days < 2 else "days", f"{plan.days * (24 if plan.days < 2 else 1):,.1f}"],
        ["disk: frames", f"{plan.frame_bytes / _GB:,.1f} GB"],
        ["disk: codes", f"{plan.code_bytes / _GB:,.2f} GB"],
        ["disk: checkpoints", f"{plan.checkpoint_bytes / _GB:,.2f} GB"],
    ]


def bench_command(
    model: common.Model = None,
    device: common.Device = "auto",
    backend: common.Backend = "auto",
    frames: Annotated[int, typer.Option(min=1, help="Frames of the long dream.")] = 300,
    threads: common.Threads = None,
    as_json: common.Json = False,
) -> None:
    """Measure frames per second, latency, the first frame and batches of several dreams.

    The default generates about 500 frames. Close other programs first.
    """
    with common.progress("measuring", timed=True) as bar:
        from playloom.device import set_threads
        from playloom.inference.benchmark import benchmark
        from playloom.inference.generate import open_engine

        set_threads(threads)
        result = benchmark(open_engine(model, device=device, backend=backend), frames=frames, progress=bar.show)
    if as_json:
        common.print_json(result)
        return
    where = result["machine"]
    name = where["cpu"] if where["device"] == "cpu" else where["device"]
    with_what = f"{result['backend']}, {result['dtype']}"
    typer.echo(f"{result['model']}, {with_what}, {name}, {common.count(where['threads'], 'thread')}")
    latency = " / ".join(f"{value:.0f}" for value in result["latency_ms"].values())
    rows = [
        (f"one dream, {result['frames']} frames", f"{result['frames_per_second']:.1f} frames/s"),
        ("time per frame, p50 / p95 / p99", f"{latency} ms"),
        ("first frame after a prompt", f"{result['first_frame_ms']:.0f} ms"),
    ]
    for row in result["batches"]:
        together = f"{row['frames_per_second']:.1f} frames/s together"
        rows.append((f"batch of {common.count(row['dreams'], 'dream')}", together))
    rows.append(("memory of one dream", f"{result['session_mib']:.2f} MiB"))
    typer.echo(common.text_table(("figure", "value"), rows))


def export_command(
    source: Annotated[Path, typer.Argument(help="A dataset, a folder of recordings, a dream, or a folder of clips.")],
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="New folder of the exported dataset.")],
    to: Annotated[Literal["lerobot", "minari"], typer.Option("--format", help="Format of the exported dataset.")],
) -> None:
    """Write recordings and dreams as a dataset of LeRobot v3.0 or Minari, for other programs."""
    from playloom.data.export import export_episodes

    with common.progress("exporting", "episodes") as bar, common.stopping("nothing was written", after_step=False):
        count = export_episodes(source, out, to, render, bar)
    typer.echo(f"{common.count(count, 'episode')}: {out}")


class _ExportGroup(TyperGroup):
    """`export SOURCE` is short for `export episodes SOURCE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["episodes", *args]
        return super().parse_args(ctx, args)


export_app = typer.Typer(cls=_ExportGroup, help="Write datasets and models for other programs.", no_args_is_help=True)
export_app.command("episodes")(export_command)


@export_app.command("onnx")
def export_onnx_command(
    model: Annotated[str, typer.Argument(help="A bundled model's name, or a model's folder.")],
    out: Annotated[
        Path | None,
        typer.Option(
            callback=common.own_folder, help="Folder for the graphs and copies of the weights. Default: the model's."
        ),
    ] = None,
) -> None:
    """Write a model's networks as ONNX graphs that use the weights files where they lie, and onnx.json about them.

    onnxruntime runs them, without torch, in any language; see docs/engine.md.
    """
    from playloom.models.onnx.export import export_onnx

    for path in export_onnx(model, out):
        typer.echo(path)
