"""Model cards: `card.md`, written next to the weights."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playloom.atomic_io import atomic_write
from playloom.models.config import ModelConfig
from playloom.models.tokenizer.config import TokenizerConfig

CARD = "card.md"
COPIES = ("edited", "mirrored")
"""Kinds of copies of recorded episodes, in metadata of episodes; counted in a card's data as `edited_episodes`, ..."""


def write_card(folder: Path, text: str) -> None:
    """Write `card.md` atomically."""
    with atomic_write(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def model_card(config: ModelConfig, card: Mapping[str, Any]) -> str:
    """Return a model's card as Markdown, from the `card` in `model.json`."""
    sizes, grid = config.transformer, config.tokenizer
    intro = (
        f"A world model made with playloom. It generates frames of {grid.frame_width} x {grid.frame_height} pixels and "
        "controller input, one step after another. All its pictures are generated."
    )
    lines = [
        f"transformer: {sizes.layers} layers of width {sizes.width}, {config.parameter_count / 1e6:.1f} million "
        f"parameters, context of {sizes.context_steps} steps",
        f"tokenizer: {_grid(grid)}",
    ]
    commands = _commands("playloom dream --model FOLDER", "playloom serve --model FOLDER")
    use = {"How to dream with it": f"{commands}\n\nDefault sampling: {_sampling(card, config)}."}
    figures = "Not measured. `playloom evaluate --model FOLDER` measures the model."
    if rows := card.get("evaluation", {}).get("rows"):
        figures = figures_table(rows)
    return _markdown(f"Model {config.name}", intro, lines, card, use, figures)


def tokenizer_card(config: TokenizerConfig, card: Mapping[str, Any]) -> str:
    """Return the card of a tokenizer alone, as Markdown."""
    intro = (
        f"A tokenizer made with playloom. It turns frames of {config.frame_width} x {config.frame_height} pixels into "
        "codes and back. It cannot dream alone: a world model learns to predict its codes."
    )
    use = {"How to use it": _commands("playloom train world --tokenizer FOLDER --data DATA --out runs/world")}
    unknown = "Not measured. `playloom evaluate` measures a tokenizer with its world model."
    return _markdown("Tokenizer", intro, [_grid(config)], card, use, unknown)


def figures_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the rows of an evaluation, as in its JSON form, as a Markdown table."""
    lines = [["part", "figure", "value ± SE", "baseline", "bar", "result"], ["---"] * 6]
    lines += [[cell.replace("|", "\\|") for cell in figure_cells(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def figure_cells(row: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the six cells of a row of an evaluation, as in its JSON form."""
    unit, passed = row["unit"], row["passed"]
    baselines = ", ".join(f"{name} {format_value(value, unit)}" for name, value in row["baselines"].items())
    result = "" if passed is None else "reached" if passed else "missed"
    return row["part"], row["name"], format_value(row["value"], unit, row["error"]), baselines, row["bar"], result


def format_value(value: float | None, unit: str, error: float | None = None) -> str:
    """Format a value, with its standard error if it has one, and its unit; `n/a` for NaN and None."""
    value, error = (math.nan if number is None else number for number in (value, error))
    if not math.isfinite(value):
        return "n/a"
    digits = {"codes": 0, "": 3, "nats": 3, "%": 1}.get(unit, 2)
    numbers = [100 * number if unit == "%" else number for number in (value, error) if math.isfinite(number)]
    return f"{' ± '.join(f'{number:.{digits}f}' for number in numbers)} {unit}".rstrip()


def _commands(*lines: str) -> str:
    return "\n    ".join(["`FOLDER` is the folder of this file.\n", *lines])


def _markdown(
    title: str, intro: str, sizes: list[str], card: Mapping[str, Any], use: Mapping[str, str], figures: str
) -> str:
    data, training = (_bullets(lines(card)) or "Not recorded." for lines in (_data, _training))
    settings = json.dumps(card.get("settings", {}), indent=1, default=str)
    sections = {"Sizes": _bullets(sizes), "Data": data, "Training": training, "Settings": f"```json\n{settings}\n```"}
    parts = [f"## {name}\n\n{text}" for name, text in {**sections, **use, "Figures": figures}.items()]
    return "\n\n".join([f"# {title}", intro, *parts]) + "\n"


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"* {line}" for line in lines)


def _data(card: Mapping[str, Any]) -> Iterator[str]:
    data = card.get("data", {})
    if "frames" in data:
        copies = [f"{n:,} of them {kind} copies" for kind in COPIES if (n := data.get(f"{kind}_episodes"))]
        yield ", ".join([f"{data['frames']:,} frames in {data['episodes']:,} episodes", *copies])
    if players := data.get("players"):
        yield f"training episodes by player: {', '.join(f'{name} {count}' for name, count in players.items())}"
    if seeds := data.get("train_seeds"):
        yield f"training seeds: {_ranges(seeds)}"
    if controls := describe_controls(card):
        yield f"controls: {controls}"


def describe_controls(card: Mapping[str, Any]) -> str:
    """Return what controls do in the game, as far as the card says, and those that its recordings never move."""
    controls = card.get("controls", {})
    parts = [f"{name} {words}" for name, words in controls.items() if words]
    if unused := [name for name, words in controls.items() if words is None]:
        parts.append(f"never moved in training: {', '.join(unused)}")
    return "; ".join(parts)


def _training(card: Mapping[str, Any]) -> Iterator[str]:
    for label, part in (("", card), ("heads: ", card.get("heads", {}))):
        if "updates" in part:
            values = part.get("validation", {}).items()
            metrics = ", ".join(f"{name} {value:.4g}" for name, value in values if value is not None)
            minutes = part["training_seconds"] / 60
            line = f"{label}{part['updates']:,} updates in {minutes:.1f} minutes on {part['hardware']}"
            yield line + (f"; last validation: {metrics}" if metrics else "")
    if "start" in card:
        yield "initialised from another model, whose card is under `start` in `model.json`"
    if "note" in card:
        yield str(card["note"])


def _ranges(numbers: Sequence[int]) -> str:
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _grid(config: TokenizerConfig) -> str:
    return f"{config.grid_width} x {config.grid_height} codes per frame, {config.codebook_size:,} different codes"


def _sampling(card: Mapping[str, Any], config: ModelConfig) -> str:
    sampling = {
        name.replace("_", " "): value for name, value in (card.get("sampling") or {}).items() if value is not None
    }
    order = f"row delay {card['row_delay']}" if config.rows and card.get("row_delay") else "raster order"
    return ", ".join([order, *(f"{name} {value:g}" for name, value in sampling.items())])
