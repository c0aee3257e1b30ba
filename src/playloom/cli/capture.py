"""`playloom capture`: one's own play on the screen."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from playloom.cli import common

if TYPE_CHECKING:
    from playloom.games.capture import Captured


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
