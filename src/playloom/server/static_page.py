"""The page as files, for any web server: the model runs in the browser, from its ONNX graphs."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import lzma
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from playloom.atomic_io import atomic_folder
from playloom.data.prompts import find_prompt, list_prompts, load_prompt, prompt_folder
from playloom.errors import BadInputError, CheckpointError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.session import Prompt
from playloom.json_io import read_json, write_json
from playloom.media.images import encode_png
from playloom.models.folder import ModelDescription
from playloom.models.onnx import DESCRIPTION
from playloom.provenance import stamp

PAGE = Path(__file__).parent / "static"
"""The built page."""
_RUNTIME = Path(__file__).parents[1] / "assets" / "onnxruntime-web" / "ort-wasm-simd-threaded.wasm.xz"
_MODEL, _WORKER = "model", "service-worker.js"
_GRAPHS, _WEIGHTS = ("encoder", "decoder", "step", "transformer"), ("tokenizer", "transformer")


def write_static_page(engine: Engine, folder: Path) -> dict[str, int]:
    """Write the page, the model's graphs, weights and prompts, and onnxruntime's WebAssembly module; return the sizes.

    `folder` is absent or empty. Sizes are in bytes, by path. BadInputError for a model that a browser cannot run.
    """
    world, sampling = engine.model, Sampling.from_card(engine.model.card)
    described = _description(world)
    with atomic_folder(folder) as place:
        shutil.copytree(PAGE, place, dirs_exist_ok=True)
        model = place / _MODEL
        model.mkdir()
        for name in [*(graph["file"] for graph in described["graphs"].values()), *described["weights"]]:
            shutil.copyfile(world.folder / name, model / name)
        (model / "onnxruntime.wasm.gz").write_bytes(gzip.compress(lzma.decompress(_RUNTIME.read_bytes()), 9, mtime=0))
        loaded = {f"{_MODEL}/{file.name}": file.stat().st_size for file in sorted(model.iterdir())}
        sizes = world.config.tokenizer
        card = {"width": sizes.frame_width, "height": sizes.frame_height, "controls": world.card.get("controls", {})}
        served = {"name": world.config.name, "serving": True, "temperature": sampling.temperature, **card}
        prompts = _write_prompts(engine, model)
        # The answers that the page expects of a server.
        write_json(place / "v1" / "models", [served])
        write_json(place / "v1" / "prompts", [{"name": name, "picture": f"{_MODEL}/{name}.png"} for name in prompts])
        site = {"files": loaded, "description": described, "prompts": prompts, "fps": 10, "mark": _mark(world)}
        write_json(model / "site.json", {**site, "sampling": sampling.to_dict()}, indent=None)
        _write_app(place, world.config.name)
        _write_worker(place, set(loaded))
        return {file.relative_to(place).as_posix(): file.stat().st_size for file in place.rglob("*") if file.is_file()}


def _description(world: ModelDescription) -> dict[str, Any]:
    name, folder = world.config.name, world.folder
    if folder is None or not (folder / DESCRIPTION).is_file():
        raise BadInputError(f"{name} has no ONNX graphs; write them: playloom export onnx {folder or 'FOLDER'}")
    found = read_json(folder / DESCRIPTION, CheckpointError, "export the graphs again")
    if found.get("fingerprint") != world.fingerprint:
        raise CheckpointError(f"{folder}: the ONNX graphs are of other weights; playloom export onnx again")
    if found["positions"] != "rolling":
        raise BadInputError(f"{name} cannot run in a browser: its positions are {found['positions']}, not rolling")
    if any(found["sampling"].get(key) for key in ("top_k", "top_p")):
        raise BadInputError(f"{name} cannot run in a browser: its card asks for top_k or top_p, which the page lacks")
    wanted = (*_GRAPHS, *(["risk"] if found["sampling"].get("risk_weight") else []))
    if missing := [graph for graph in wanted if graph not in found["graphs"]]:
        raise CheckpointError(f"{folder}: the ONNX graph {missing[0]} is missing; playloom export onnx again")
    graphs = {key: found["graphs"][key] for key in wanted}
    return {**found, "graphs": graphs, "weights": [f"{name}.safetensors" for name in _WEIGHTS]}


def _write_prompts(engine: Engine, folder: Path) -> dict[str, Any]:
    """Write a picture of each prompt; return the prompts as codes, and the actions between them."""
    config, place = engine.model.config, prompt_folder(engine.model.folder)
    size, found = (config.tokenizer.frame_height, config.tokenizer.frame_width), dict[str, Any]()
    for name in list_prompts(place):
        data = load_prompt(find_prompt(name, place), context=config.transformer.context_steps, frame_size=size)
        codes_TN = engine.codes(Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA))
        found[name] = {"codes": codes_TN, "actions": data.actions_TA}
        (folder / f"{name}.png").write_bytes(encode_png(data.frames_THWC[-1]))
    return found


def _mark(world: ModelDescription) -> Mapping[str, Any]:
    """Find the watermark: what it changes on black and on white."""
    shape = world.config.tokenizer.frame_height, world.config.tokenizer.frame_width, 3
    black, white = stamp(np.zeros(shape, np.uint8)), stamp(np.full(shape, 255, np.uint8))
    rows, columns = (black == white).all(axis=-1).nonzero()
    pixels = np.ascontiguousarray(black[rows.min() :, columns.min() :])
    encoded = base64.b64encode(pixels.tobytes()).decode("ascii")
    return {"height": pixels.shape[0], "width": pixels.shape[1], "pixels": encoded}


def _write_app(place: Path, name: str) -> None:
    page = (place / "index.html").read_text(encoding="utf-8")
    head = '<meta name="playloom-static" />\n    <link rel="manifest" href="./manifest.webmanifest" />\n    <title>'
    (place / "index.html").write_text(page.replace("<title>", head, 1), encoding="utf-8")
    icon = {"src": "./favicon.svg", "sizes": "any", "type": "image/svg+xml"}
    app = {"name": f"playloom: {name}", "short_name": "playloom", "start_url": "./", "display": "standalone"}
    write_json(place / "manifest.webmanifest", {**app, "background_color": "#101010", "icons": [icon]})


def _write_worker(place: Path, later: set[str]) -> None:
    """Tell the service worker its files; those of `later` are kept when they are asked for."""
    digest, page = hashlib.blake2b(digest_size=8), ["./"]
    for file in sorted(file for file in place.rglob("*") if file.is_file()):
        path = file.relative_to(place).as_posix()
        digest.update(f"{path}\n{file.stat().st_size}\n".encode() + file.read_bytes())
        page += [path] if path not in later | {_WORKER, "index.html"} else []
    site = json.dumps({"version": digest.hexdigest(), "page": page})
    script = (place / _WORKER).read_text(encoding="utf-8")
    (place / _WORKER).write_text(f"self.SITE = {site};\n{script}", encoding="utf-8")
