"""Export of a model as ONNX graphs and a JSON file that describes how to run them."""

from __future__ import annotations

import dataclasses
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from playloom.atomic_io import ensure_writable
from playloom.errors import CheckpointError, import_extra
from playloom.json_io import read_json, write_json
from playloom.models.checkpoint import load_model
from playloom.models.decode_order import card_row_delay, schedule
from playloom.models.folder import ModelDescription, model_folder, read_model, replace_files
from playloom.models.onnx import DESCRIPTION
from playloom.models.sequence import NO_TOKEN

_FORMAT = 1


def export_onnx(model: str | Path, out: Path | None = None) -> list[Path]:
    """Write a model's ONNX graphs, and their description, into its folder; returns the new files.

    The graphs refer to the weights files by name, so another folder `out` gets copies of those. `transformer_int8`
    multiplies with weights of 8 bits, rounded when it is loaded.
    """
    import_extra("onnx", "onnx")
    from playloom.models.onnx.tokenizer import decoder_graph, encoder_graph, heads_graph, risk_graph
    from playloom.models.onnx.transformer import TransformerGraph, step_graph

    world = load_model(model_folder(model))
    assert world.folder is not None
    out = out or world.folder
    ensure_writable(out / DESCRIPTION)
    tokenizer, transformer, *heads = (world.folder / name for name in world.weights)
    graphs = {
        "encoder": encoder_graph(world.config.tokenizer, tokenizer),
        "decoder": decoder_graph(world.config.tokenizer, tokenizer),
        "risk": risk_graph(tokenizer, world.config.tokenizer.codebook_size),
        "step": step_graph(world.transformer, transformer),
        "transformer": TransformerGraph(world.transformer, transformer).graph,
        "transformer_int8": TransformerGraph(world.transformer, transformer, int8=True).graph,
    }
    if world.config.heads is not None:
        graphs["heads"] = heads_graph(world.config.heads, *heads)
    signatures = {name: {"file": f"{name}.onnx", **graph.signature()} for name, graph in graphs.items()}
    files = {"graphs": signatures, "weights": list(world.weights)}
    with replace_files(out, DESCRIPTION) as temporary:
        for name in world.weights if out.resolve() != world.folder.resolve() else ():
            shutil.copyfile(world.folder / name, temporary / name)
        for name, graph in graphs.items():
            graph.save(temporary / f"{name}.onnx")
        write_json(temporary / DESCRIPTION, {**files, **description(world)}, indent=None)
    return [*(out / f"{name}.onnx" for name in graphs), out / DESCRIPTION]


def export_if_installed(folder: Path) -> None:
    """Write the graphs into a model's folder, see `export_onnx`, where the package onnx is installed."""
    if find_spec("onnx") is not None:
        export_onnx(folder)


def update_description(folder: Path) -> None:
    """Write the decode order and the sampling of a model's card into the description of its graphs, if it has any."""
    path = folder / DESCRIPTION
    if path.is_file():
        content = read_json(path, CheckpointError, "export the graphs again")
        now = description(read_model(folder))
        write_json(path, content | {name: now[name] for name in ("step", "sampling")}, indent=None)


def description(world: ModelDescription) -> dict[str, Any]:
    """Return what a program needs beside the graphs: vocabulary, passes, caches and sampling."""
    config, layout = world.config, world.config.layout
    order = schedule(layout, card_row_delay(world.card))
    passes = []
    for index in range(order.passes):
        first, last = order.span(index, index + 1)
        positions_Q = order.order_P[first:last]
        target_Q = layout.target_P[positions_Q]
        rows_R = (target_Q >= 0).nonzero()[0]
        passes.append(
            {
                "first": first,
                "positions": positions_Q,
                "columns": layout.column_P[positions_Q],
                "rows": rows_R,
                "slots": target_Q[rows_R],
            }
        )
    of_layer = [config.transformer.window(layer) for layer in range(config.transformer.layers)]
    windows = list(dict.fromkeys(of_layer))
    return {
        "format": _FORMAT,
        "name": config.name,
        "fingerprint": world.fingerprint,
        "frame": [config.tokenizer.frame_height, config.tokenizer.frame_width, 3],
        "vocabulary": {
            "codes": layout.vocab.codebook_size,
            "action_offsets": layout.vocab.action_offsets,
            "action_sizes": layout.vocab.slot_sizes,
            "no_token": NO_TOKEN,
        },
        "step": {
            "positions": layout.positions,
            "image_slots": layout.image_slots,
            "action_slots": layout.action_slots,
            "columns": layout.columns,
            "image_passes": order.image_passes,
            "row_delay": order.row_delay,
            "passes": passes,
        },
        "caches": [{**dataclasses.asdict(window), "capacity": window.capacity} for window in windows],
        "cache_of_layer": [windows.index(window) for window in of_layer],
        "heads": [config.transformer.heads, config.transformer.key_value_heads, config.transformer.head_width],
        "positions": config.transformer.positions,
        "context_steps": config.transformer.context_steps,
        "sampling": world.card.get("sampling", {}),
    }
