"""`playloom import`: parses, makes a data set of recordings of any game, says what is in it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def register(app: typer.Typer) -> None:
    """Add `import` to the program."""
    app.command("import")(import_command)


def import_command(
    takes: Annotated[Path, typer.Argument(help="A folder of .npz clips, or of folders with pictures and actions.csv.")],
    out: Annotated[Path, typer.Option(help="The data set's folder; what `train --data` takes.")] = Path("data"),
    preset: Annotated[str, typer.Option(help="The model that is to learn from it; decides the size.")] = "arena-live",
    fit: Annotated[str, typer.Option(help="Pictures of another shape: crop or letterbox.")] = "crop",
    schema: Annotated[str, typer.Option(help="Of actions.csv: named, binned or auto.")] = "named",
    split: Annotated[
        str | None, typer.Option(help="All for train, validation or test; default: some for validation and test.")
    ] = None,
) -> None:
    """Make a data set of recordings of your own game, ten steps a second.

    Stop it at any time: the same command goes on where it was.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    from playloom.data.takes import SPLITS, build_from_takes
    from playloom.presets import preset as preset_of

    sizes = preset_of(preset).tokenizer
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TextColumn("frames"))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("importing", total=None, visible=False)
        store = build_from_takes(
            takes,
            out,
            frame_size=(sizes.frame_height, sizes.frame_width),
            fit=fit,  # type: ignore[arg-type]  # checked where it is used, in a sentence
            schema=schema,  # type: ignore[arg-type]
            split=split,
            progress=lambda done, total: bar.update(task, completed=done, total=total, visible=True),
        )
    for name in SPLITS:
        spans = store.of_split(name)
        if spans:
            typer.echo(
                f"{name}: {sum(span.length for span in spans)} frames of {len(spans)} take{'s' * (len(spans) > 1)}"
            )
    typer.echo(f"{out}  (go on with: playloom train tokenizer --data {out} --out runs/tokenizer --minutes 30)")
