"""Model cards: `card.md`, written beside the weights.

>>> print(model_card(config, card))  # doctest: +SKIP
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from playloom.atomic_io import atomic_write
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.world_model import ModelConfig

CARD = "card.md"
"""File name of the card in a model's folder."""
_UNMEASURED = "There are no figures on this card. `playloom evaluate --model FOLDER` measures the model."


def write_card(folder: Path, text: str) -> None:
    """Write `card.md` atomically."""
    with atomic_write(folder / CARD) as temporary:
        temporary.write_text(text, encoding="utf-8")


def model_card(config: ModelConfig, card: Mapping[str, Any], figures: str = "") -> str:
    """Return the card of a whole model, as Markdown.

    Args:
        config: its sizes.
        card: what the training recorded, as `model.json` holds it; what is missing is left out.
        figures: the evaluation's table, as Markdown; empty: the card says that there are none.
    """
    sizes, grid = config.transformer, config.tokenizer
    intro = (
        f"A world model made with playloom. It generates frames of {grid.frame_width} x {grid.frame_height} pixels and "
        "controller input, one step after another. All its pictures are generated."
    )
    facts = [
        f"transformer: {sizes.layers} layers of width {sizes.width}, {config.parameter_count / 1e6:.1f} million "
        f"parameters, sees {sizes.context_steps} steps",
        f"tokenizer: {_grid(grid)}",
    ]
    use = [
        "`FOLDER` is the folder of this file.",
        "",
        "    playloom dream --model FOLDER --prompt plaza-explorer",
        "    playloom serve --model FOLDER",
        "",
        f"Sampling unless a flag says otherwise: {_sampling(card, config)}.",
    ]
    return _text(
        config.name, intro, facts, card, [("How to dream with it", use), ("Figures", [figures or _UNMEASURED])]
    )


def tokenizer_card(config: TokenizerConfig, card: Mapping[str, Any]) -> str:
    """Return the card of a tokenizer alone, as Markdown; arguments as in `model_card`."""
    intro = (
        f"A tokenizer made with playloom. It turns frames of {config.frame_width} x {config.frame_height} pixels into "
        "codes and back. It cannot dream alone: a world model learns to predict its codes."
    )
    use = [
        "`FOLDER` is the folder of this file.",
        "",
        "    playloom train world --tokenizer FOLDER --data DATA --out runs/world",
    ]
    figures = ["There are no figures on this card. `playloom evaluate` measures a tokenizer with its world model."]
    return _text("tokenizer", intro, [_grid(config)], card, [("How to use it", use), ("Figures", figures)])


def on_hardware(where: object) -> str:
    """Describe the training machine: a text, or its facts (`gpu`, `torch_threads`)."""
    if not isinstance(where, Mapping):
        return str(where)
    threads = where.get("torch_threads")
    return str(where.get("gpu") or f"{threads} CPU thread{'' if threads == 1 else 's'}")


def number_ranges(numbers: Sequence[int]) -> str:
    """Format sorted whole numbers as `0-16, 20-36`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)


def _text(name: str, intro: str, facts: list[str], card: Mapping[str, Any], rest: list[tuple[str, list[str]]]) -> str:
    settings = card.get("settings")
    shown = (
        ["```json", json.dumps(settings, indent=1, default=str), "```"]
        if settings
        else ["They are in the JSON file beside it."]
    )
    sections = [
        ("Sizes", [f"* {fact}" for fact in facts]),
        ("Data", [f"* {line}" for line in _data(card)] or ["Not recorded."]),
        ("Training", [f"* {line}" for line in _training(card)] or ["Not recorded."]),
        ("Settings", shown),
        *rest,
    ]
    lines = [f"# Model {name}" if name != "tokenizer" else "# Tokenizer", "", intro]
    for title, content in sections:
        lines += ["", f"## {title}", "", *content]
    return "\n".join(lines) + "\n"


def _data(card: Mapping[str, Any]) -> Iterator[str]:
    data = _mapping(card.get("data"))
    if "frames" in data:
        yield f"{_number(data['frames'])} frames in {data.get('episodes')} episodes"
    if "world_frames" in data:
        frames = [_number(data.get(f"{part}_frames")) for part in ("tokenizer", "world")]
        yield f"{frames[0]} frames for the tokenizer, {frames[1]} for the world model"
    if players := _mapping(data.get("players")):
        yield f"episodes by player: {', '.join(f'{name} {count}' for name, count in players.items())}"
    seeds = data.get("train_seeds")
    if seeds and isinstance(seeds, list) and all(isinstance(seed, int) for seed in seeds):
        yield f"training seeds: {number_ranges(seeds)}"


def _training(card: Mapping[str, Any]) -> Iterator[str]:
    machines = card.get("hardware")
    names = [("tokenizer", "tokenizer"), ("world", "world model")]
    parts = [("", card)] if "updates" in card else [(label, _mapping(card.get(name))) for name, label in names]
    for (name, _), (label, part) in zip(names, parts, strict=False):
        if "updates" in part:
            yield _learned(label, part, machines.get(name) if isinstance(machines, Mapping) else machines)
    decoders = card.get("decoder")
    for part in decoders if isinstance(decoders, list) else []:
        yield _learned("decoder, trained again", _mapping(part), _mapping(part).get("hardware"))
    if "start" in card:
        yield "it began with another model's weights; their card lies under `start` in `model.json`"


def _learned(label: str, part: Mapping[str, Any], where: object) -> str:
    seconds = part.get("training_seconds")
    minutes = f"{seconds / 60:.1f}" if isinstance(seconds, int | float) else "unknown"
    said = f"{_number(part.get('updates'))} updates in {minutes} minutes on {on_hardware(where)}"
    figures = _mapping(part.get("validation")).items()
    shown = ", ".join(f"{name} {value:.4g}" for name, value in figures if isinstance(value, int | float))
    return (f"{label}: " if label else "") + said + (f"; last validation: {shown}" if shown else "")


def _mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one: a card's texts are not validated."""
    return value if isinstance(value, Mapping) else {}


def _number(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _grid(config: TokenizerConfig) -> str:
    return f"{config.grid_width} x {config.grid_height} codes a frame, {config.codebook_size:,} different ones"


def _sampling(card: Mapping[str, Any], config: ModelConfig) -> str:
    said = {name.replace("_", " "): value for name, value in (card.get("sampling") or {}).items() if value is not None}
    order = f"row delay {card['row_delay']}" if config.rows and card.get("row_delay") else "raster order"
    return ", ".join([order, *(f"{name} {value:g}" for name, value in said.items())])
