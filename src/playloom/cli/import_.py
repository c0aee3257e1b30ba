"""`playloom import`: make a data set of recordings of any game, and say what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from playloom.cli import common


def register(app: typer.Typer) -> None:
    """Add `import` to the program."""
    app.command("import")(import_command)


def import_command(
    takes: Annotated[Path, typer.Argument(help="A folder of .npz clips, or of folders with pictures and actions.csv.")],
    out: Annotated[
        Path, typer.Option(callback=common.own_folder, help="The data set's folder; what `train --data` takes.")
    ] = Path("data"),
    preset: Annotated[str, typer.Option(help="The model that is to learn from it; decides the size.")] = "arena-live",
    fit: common.Fit = "crop",
    schema: common.Schema = "named",
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option(help="All takes go to this split; default: some are kept for validation and test."),
    ] = None,
) -> None:
    """Make a data set of recordings of your own game, ten steps per second.

    A take that cannot be used is skipped and listed (exit code 1). Stop it at any time: the same command goes on.
    """
    from playloom.data.takes import SPLITS, build_from_takes, find_takes

    find_takes(takes)
    skipped: list[str] = []
    left = f"the same command goes on: {out}"
    with common.progress("importing", "frames") as bar, common.stopping(left, after_step=False):
        from playloom.presets import preset as preset_of

        sizes = preset_of(preset).tokenizer
        store = build_from_takes(
            takes,
            out,
            frame_size=(sizes.frame_height, sizes.frame_width),
            fit=fit,
            schema=schema,
            split=split,
            progress=bar,
            on_skip=skipped.append,
        )
    for sentence in skipped:
        typer.echo(f"skipped: {sentence}", err=True)
    for name in SPLITS:
        spans = store.of_split(name)
        if spans:
            frames = common.count(sum(span.length for span in spans), "frame")
            typer.echo(f"{name}: {frames} of {common.count(len(spans), 'take')}")
    on = f"train tokenizer --data {out} --out runs/tokenizer --minutes 30"
    if not store.of_split("train"):
        on = f"evaluate --model runs/world/model --data {out}"
    typer.echo(f"{out}  (go on with: playloom {on})")
    if skipped:
        raise typer.Exit(common.SKIPPED)
