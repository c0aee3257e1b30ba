"""The model card: what was recorded, how long what learned on which machine, and every figure. JSON and text.

Knows the form only; facts come from the stages' stamps and from the evaluation.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import playloom
from playloom.evaluation.report import Row, markdown
from playloom.models.card import number_ranges, on_hardware
from playloom.recipes.shop import Shop
from playloom.training.config import to_mapping


def model_card(shop: Shop, trained: Mapping[str, Any], report: Mapping[str, Any]) -> dict[str, Any]:
    """The card of a finished run.

    Args:
        shop: its facts hold a `stamp` entry for every stage (see `run`).
        trained: the card that world training left.
        report: the evaluation's JSON form.
    """
    recipe, stamps = shop.recipe, shop.facts["stamps"]
    seconds = {name: round(stamp["seconds"], 1) for name, stamp in stamps.items()}
    return {
        "recipe": recipe.name,
        "playloom": playloom.__version__,
        "data": {
            "game": "arena",
            "first_seed": recipe.record.seed,
            "steps_per_episode": recipe.record.steps,
            "tokenizer_frames": shop.facts["tokenizer"]["frames"],
            "world_frames": shop.facts["tokens"]["frames"],
            "seeds": {**shop.facts["tokens"]["seeds"], **_seeds(report)},
            "alignment": shop.facts["tokenizer"]["alignment"],
        },
        "tokenizer": _learned(shop.facts["tokenizer"], to_mapping(recipe.tokenizer.training)),
        "world": _learned(shop.facts["world"], to_mapping(recipe.world)),
        "hardware": {name: stamp["machine"] for name, stamp in stamps.items() if name in ("tokenizer", "world")},
        "wall_seconds": {**seconds, "all": round(sum(seconds.values()), 1)},
        "trained": dict(trained),
        # The figures below were measured with these, so a dream uses them unless told otherwise.
        "row_delay": recipe.evaluate.measure.row_delay,
        "sampling": dataclasses.asdict(recipe.evaluate.measure.sampling),
        "evaluation": {"run": report["run"], "rows": report["rows"]},
    }


def card_text(name: str, card: Mapping[str, Any]) -> str:
    """The card of the model `name` for people, as Markdown."""
    data, wall = card["data"], card["wall_seconds"]
    seeds = {split: number_ranges(numbers) for split, numbers in data["seeds"].items()}
    lines = [
        f"# Model {name}",
        "",
        f"Made by `playloom recipe {card['recipe']}`, playloom {card['playloom']}. All its pictures are generated.",
        "",
        "## Data",
        "",
        f"The bundled game `{data['game']}`, played by scripted players, {data['steps_per_episode']} steps of 0.1 s an "
        f"episode. {data['tokenizer_frames']:,} frames taught the tokenizer, {data['world_frames']:,} the world model.",
        "",
        *(f"* {split} seeds: {text}" for split, text in seeds.items()),
        f"* alignment: {data['alignment']}",
        "",
        "## Training",
        "",
        *(_trained_line(name, card) for name in ("tokenizer", "world")),
        f"* wall time: {', '.join(f'{name} {value / 60:.1f} min' for name, value in wall.items())}",
        "",
        "## How to dream with it",
        "",
        "`FOLDER` is the folder of this file; a bundled model goes by its name.",
        "",
        "    playloom dream --model FOLDER --prompt moment:plaza-explorer",
        "    playloom serve --model FOLDER",
        "",
        "## Figures",
        "",
        markdown([_row(row) for row in card["evaluation"]["rows"]]),
        "",
    ]
    return "\n".join(lines)


def _learned(facts: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("updates", "training_seconds", "validation")
    return {**{name: facts[name] for name in wanted}, "settings": dict(settings)}


def _seeds(report: Mapping[str, Any]) -> dict[str, list[int]]:
    data = report["run"]["data"]
    return {"test": list(data["test_seeds"]), "heldout": list(data["heldout_seeds"])}


def _trained_line(name: str, card: Mapping[str, Any]) -> str:
    part, where = card[name], on_hardware(card["hardware"][name])
    return f"* {name}: {part['updates']:,} updates in {part['training_seconds'] / 60:.1f} min on {where}"


def _row(values: Mapping[str, Any]) -> Row:
    """A row of the report's JSON form; null is not a number again."""
    nan = float("nan")
    baselines = {name: nan if value is None else value for name, value in values["baselines"].items()}
    value = nan if values["value"] is None else values["value"]
    return Row(**{**values, "value": value, "baselines": baselines})
