"""The files of `playloom serve --static`, of a tiny model."""

import base64
import gzip
import json
import lzma
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("onnx")

from conftest import loud_model, tiny_config
from playloom.cli.app import app
from playloom.data.prompts import find_prompt, load_prompt
from playloom.errors import BadInputError, CheckpointError
from playloom.inference.engine import Engine
from playloom.inference.session import Prompt
from playloom.models.checkpoint import load_model, save_model
from playloom.models.folder import update_card
from playloom.models.onnx.export import export_onnx, update_description
from playloom.provenance import stamp
from playloom.server.static_page import write_static_page

RUNTIME = Path(__file__).parents[2] / "web/node_modules/onnxruntime-web/dist/ort-wasm-simd-threaded.wasm"


def saved(folder, **changes):  # type: ignore[no-untyped-def]
    save_model(folder, loud_model(tiny_config(**changes)))
    return Engine(load_model(folder), backend="torch")


def test_the_folder_has_all_that_the_page_asks_for(tmp_path):
    engine = saved(tmp_path / "model")
    export_onnx(tmp_path / "model")
    sizes = write_static_page(engine, tmp_path / "site")
    site = json.loads((tmp_path / "site/model/site.json").read_text())
    assert all(sizes[path] == bytes_ for path, bytes_ in site["files"].items())
    assert {f"model/{graph['file']}" for graph in site["description"]["graphs"].values()} < set(site["files"])
    for prompt in json.loads((tmp_path / "site/v1/prompts").read_text()):
        assert prompt["picture"] in sizes and prompt["name"] in site["prompts"]
    assert json.loads((tmp_path / "site/v1/models").read_text())[0]["serving"]
    page = (tmp_path / "site/index.html").read_text()
    assert "playloom-static" in page and "manifest.webmanifest" in page

    frames = engine.model.config.tokenizer
    size = frames.frame_height, frames.frame_width
    data = load_prompt(find_prompt("plaza-rusher"), context=4, frame_size=size)
    codes_TN = engine.codes(Prompt(frames_THWC=data.frames_THWC, actions_TA=data.actions_TA))
    kept = site["prompts"]["plaza-rusher"]
    assert kept["codes"] == codes_TN.tolist() and kept["actions"] == data.actions_TA.tolist()

    mark, frame_HWC = site["mark"], np.full((*size, 3), 90, np.uint8)
    pixels = np.frombuffer(base64.b64decode(mark["pixels"]), np.uint8).reshape(mark["height"], mark["width"], 3)
    frame_HWC[-mark["height"] :, -mark["width"] :] = pixels
    assert (frame_HWC == stamp(np.full((*size, 3), 90, np.uint8))).all()

    script = (tmp_path / "site/service-worker.js").read_text().splitlines()[0]
    at_once = set(json.loads(script.removeprefix("self.SITE = ").removesuffix(";"))["page"])
    assert at_once | set(site["files"]) | {"index.html", "service-worker.js"} == set(sizes) | {"./"}


def test_the_risk_of_codes_is_loaded_where_the_card_weighs_it(tmp_path):
    engine = saved(tmp_path / "model")
    export_onnx(tmp_path / "model")
    write_static_page(engine, tmp_path / "plain")
    assert not (tmp_path / "plain/model/risk.onnx").exists()
    update_card(tmp_path / "model", {"sampling": {"temperature": 1.0, "risk_weight": 4.0}})
    update_description(tmp_path / "model")
    engine = Engine(load_model(tmp_path / "model"), backend="torch")
    write_static_page(engine, tmp_path / "site")
    site = json.loads((tmp_path / "site/model/site.json").read_text())
    assert site["sampling"]["risk_weight"] == 4 and "model/risk.onnx" in site["files"]
    about = json.loads((tmp_path / "model/onnx.json").read_text())
    del about["graphs"]["risk"]  # as exported before there was a risk
    (tmp_path / "model/onnx.json").write_text(json.dumps(about))
    with pytest.raises(CheckpointError, match="export onnx"):
        write_static_page(engine, tmp_path / "again")


def test_the_packaged_runtime_is_that_of_the_page(tmp_path):
    packed = Path(write_static_page.__code__.co_filename).parents[1] / "assets/onnxruntime-web"
    content = lzma.decompress((packed / f"{RUNTIME.name}.xz").read_bytes())
    assert content[:4] == b"\0asm" and len(gzip.compress(content, 9)) < 4e6
    if RUNTIME.exists():
        assert content == RUNTIME.read_bytes(), "another version: pack it again, see docs/page.md"


@pytest.mark.parametrize(
    ("changes", "words"), [({"positions": "absolute"}, "positions are absolute"), (None, "no ONNX graphs")]
)
def test_a_model_that_cannot_run_in_a_browser_is_a_sentence(tmp_path, changes, words):
    engine = saved(tmp_path / "model", **(changes or {}))
    if changes is not None:
        export_onnx(tmp_path / "model")
    with pytest.raises(BadInputError, match=words):
        write_static_page(engine, tmp_path / "site")
    assert not (tmp_path / "site").exists()


def test_options_of_a_server_are_refused(tmp_path):
    result = CliRunner().invoke(app, ["serve", "--static", str(tmp_path / "site"), "--port", "5001"])
    assert isinstance(result.exception, BadInputError) and "--port does not apply to --static" in str(result.exception)
