"""`playloom models`: bundled models and prompts, sizes, and model cards."""

from __future__ import annotations

from typing import Annotated

import typer

from playloom.cli import common


def models_command(
    name: Annotated[str | None, typer.Argument(help="Show the card of a bundled model's name or a folder.")] = None,
    as_json: common.Json = False,
) -> None:
    """List bundled models, bundled prompts and named sizes, or show one model's card."""
    from playloom.data.prompts import list_prompts
    from playloom.models.checkpoint import bundled_models, read_card
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
