"""`playloom train heads`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from playloom.cli import common, train

_DEFAULTS = {"batch": 256, "learning_rate": 0.001}
_STEPS = 2000


@common.with_options(train.loop)
def train_heads_command(
    *,
    data: train.Data,
    out: train.Out,
    model: Annotated[str, typer.Option(help="A bundled model's name, a model's folder, or a world model's run.")],
    config: train.ConfigFile = None,
    loop: dict[str, Any],
    resume: train.Resume = "auto",
    workers: train.Workers = 0,
) -> None:
    """Add heads of reward, termination and states to a finished model; its other weights stay.

    The data needs labels: columns reward and terminated, or the arena's. Default: 2000 steps of 256 at a learning rate
    of 0.001.
    """
    from playloom.json_io import from_mapping
    from playloom.training.heads import HeadsJob, HeadsTrainingConfig, run_heads

    train._check_apart("--model", model, out)
    values = train.with_flags(common.read_settings(config), loop)
    ends = {} if {"steps", "minutes"} & set(values["loop"]) else {"steps": _STEPS}
    training = from_mapping(HeadsTrainingConfig, {**values, "loop": {**_DEFAULTS, **ends, **values["loop"]}})
    with train._run(out, resume) as bar:
        prepare = train._prepare_options(bar, workers)
        job = HeadsJob(source=model, data=data, out=out, config=training, prepare=prepare)
        result = run_heads(job, report=bar.training, say=typer.echo)
    train._print_end(result, out, f"result: {result.path}")
