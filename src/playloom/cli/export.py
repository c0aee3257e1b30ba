"""`playloom export`: recordings, datasets and dreams for other programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from playloom.cli import common


def export_command(
    source: Annotated[Path, typer.Argument(help="A data set, a folder of recordings, a dream, or a folder of clips.")],
    out: Annotated[Path, typer.Option(callback=common.own_folder, help="New folder of the exported data set.")],
    to: Annotated[Literal["lerobot", "minari"], typer.Option("--format", help="Format of the exported data set.")],
) -> None:
    """Write recordings and dreams as a data set of LeRobot v3.0 or Minari, for other programs."""
    from playloom.data.export import export_episodes

    with common.progress("exporting", "episodes") as bar, common.stopping("nothing was written", after_step=False):
        count = export_episodes(source, out, to, common.render, bar)
    typer.echo(f"{common.count(count, 'episode')}: {out}")
