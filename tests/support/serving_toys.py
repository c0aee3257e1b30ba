"""A tiny model saved to a folder and served, in this process or behind a real socket; and requests for it."""

from __future__ import annotations

import atexit
import base64
import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp
from typing import Any

import numpy as np
from fastapi import FastAPI
from PIL import Image
from starlette.testclient import TestClient

from conftest import loud_model, tiny_config
from playloom.models.checkpoint import save_model
from playloom.models.onnx.export import export_onnx
from playloom.server.app import create_app
from playloom.server.main import listen, server_of
from playloom.server.settings import Settings, read_settings

HOME = "http://127.0.0.1:5000"
REST = [0] * 12 + [5] * 4
FORWARD = [0] * 12 + [5, 10, 5, 5]


@lru_cache(maxsize=1)
def place() -> Path:
    """A folder that goes with this process."""
    folder = mkdtemp(prefix="playloom-serving-")
    atexit.register(rmtree, folder, ignore_errors=True)
    return Path(folder)


@lru_cache(maxsize=1)
def model_folder() -> Path:
    """The tiny model with its ONNX graphs: on a CPU it is served by onnxruntime, as the bundled model is."""
    folder = place() / "tiny"
    save_model(folder, loud_model(tiny_config()), dtype=None)
    export_onnx(folder)
    return folder


def stories_folder() -> Path:
    """A place for stories that nobody else has."""
    return Path(mkdtemp(prefix="stories-", dir=place())) / "stories"


def settings(**changes: Any) -> Settings:
    known = {"model": str(model_folder()), "device": "cpu", "port": 0, "stories": stories_folder()}
    return read_settings(**{**known, **changes})


@contextmanager
def client(app: FastAPI | None = None, **changes: Any) -> Iterator[TestClient]:
    """The application in this process, without a socket."""
    with TestClient(app or create_app(settings(**changes)), base_url=HOME) as found:
        yield found


@contextmanager
def served(**changes: Any) -> Iterator[tuple[str, FastAPI]]:
    """The application behind a real socket: its address, host and port."""
    chosen = settings(**changes)
    app, started = create_app(chosen), threading.Event()
    with listen(chosen) as listener:
        server = server_of(chosen, app, listener, lambda sentence: started.set())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        assert started.wait(20)
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}", app
        finally:
            server.should_exit = True
            thread.join(20)
            assert not thread.is_alive()


def picture(seed: int = 0, size: tuple[int, int] = (36, 60), kind: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def entry(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return {"image": b64(picture(seed)), "actions": FORWARD, "tokens": [], **changes}


def score_body(context: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    given = {"num_steps_to_predict": 1, "temperature": 0.9, "top_p": 1.0, "seed": 7, **changes}
    return {"input_data": {**given, "context": [entry(0), entry(1)] if context is None else context}}


def pixels_of(png: str | bytes) -> np.ndarray[Any, Any]:
    data = base64.b64decode(png) if isinstance(png, str) else png
    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))


def error_of(response: Any) -> str:
    """The sentence of an error; and that it is one, without a traceback."""
    content = response.json()
    assert list(content) == ["error"]
    sentence = content["error"]
    assert isinstance(sentence, str)
    assert len(sentence) > 10
    assert "Traceback" not in sentence
    assert "\n" not in sentence
    return sentence


def whole(web, story):
    response = web.get(f"/v1/stories/{story}")
    assert response.status_code == 200, response.text
    return response.json()


def finished(web, story, seconds=60.0):
    """The story when nothing of it is dreamed any more."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = whole(web, story)
        if not any(branch["state"] in ("waiting", "dreaming") for branch in found["branches"]):
            return found
        time.sleep(0.02)
    raise AssertionError("it is still being dreamed")
