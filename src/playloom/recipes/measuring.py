"""The stages `evaluate` and `export`: the model's figures, and the folder that is shipped. Owns no measure."""

from __future__ import annotations

import json
import shutil
from typing import Any

from playloom.atomic_io import atomic_write
from playloom.data.dataset import FrameDataset
from playloom.data.prepare import build_frame_store
from playloom.data.prompt_selection import save_chosen, select_prompts
from playloom.data.recording import load_meta
from playloom.device import pick_device
from playloom.evaluation.report import summary, table
from playloom.evaluation.suite import evaluate
from playloom.games.arena.env import render_episode
from playloom.models.card import write_card
from playloom.models.checkpoint import load_model
from playloom.recipes.card import card_text, model_card
from playloom.recipes.recording import recorded
from playloom.recipes.shop import Shop

_MEASURED = ("test", "heldout")
REPORT = "evaluation.json"
"""The figures, in the evaluation's folder."""


def measure(shop: Shop) -> dict[str, Any]:
    """Render the test episodes and measure the model on them."""
    settings = shop.recipe.evaluate
    store = _test_store(shop)
    shop.piece.need(settings.minutes)
    model = load_model(shop.world / "model", pick_device(shop.machine.device))
    report = evaluate(
        model,
        store,
        settings.measure,
        pictures=shop.evaluation / "pictures",
        tick=lambda what: shop.say(f"  measured: {what}"),
    )
    report.write(shop.evaluation / REPORT)
    shop.say(table(report.rows))
    shop.say(summary(report))
    return {"summary": summary(report), "reached": list(report.passed)}


def export(shop: Shop) -> dict[str, Any]:
    """Put the weights, the card and some moments of real play where they can be shipped from."""
    source, target = shop.world / "model", shop.result / "model"
    target.mkdir(parents=True, exist_ok=True)
    weights = sorted(source.glob("*.safetensors"))
    for path in weights:
        with atomic_write(target / path.name) as temporary:
            shutil.copyfile(path, temporary)
    content = json.loads((source / "model.json").read_text(encoding="utf-8"))
    report = json.loads((shop.evaluation / REPORT).read_text(encoding="utf-8"))
    content["card"] = model_card(shop, content["card"], report)
    write_card(target, card_text(content["config"]["name"], content["card"]))
    with atomic_write(target / "model.json") as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    load_model(target)  # checks what will be shipped
    store = FrameDataset.open(shop.evaluation / "frames")
    chosen = select_prompts(store, store.of_split("test"), count=shop.recipe.export.moments)
    moments = save_chosen(store, chosen, shop.result / "moments")
    sizes = {path.name: path.stat().st_size for path in weights}
    return {"bytes": sizes, "total_bytes": sum(sizes.values()), "moments": [path.stem for path in moments]}


def _test_store(shop: Shop) -> FrameDataset:
    folder = shop.evaluation / "frames"
    count = shop.recipe.evaluate.episodes
    paths = [path for split in _MEASURED for path in recorded(shop, split)[:count]]
    if (folder / "index.json").is_file():
        store = FrameDataset.open(folder)
        if [span.meta["seed"] for span in store.spans] == [load_meta(path).seed for path in paths]:
            return store
    tell = shop.teller("rendering test episodes, frames")
    return build_frame_store(folder, paths, render_episode, workers=shop.machine.games, progress=tell)
