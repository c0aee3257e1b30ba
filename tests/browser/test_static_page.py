"""The page of `playloom serve --static` in a real headless Chromium: files alone, the model in the browser."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from page_browser import STUB_GAMEPAD, opened
from playloom.data.prompts import find_prompt, load_prompt_file
from playloom.inference.generate import open_engine
from playloom.server.static_page import write_static_page

LIVE = ".stage[data-live=true]"
PATIENCE = 120_000
SIZE = (1000, 700)


class Files(http.server.ThreadingHTTPServer):
    """Any web server; `missing` are files that it does not find."""

    def __init__(self, folder: Path) -> None:
        self.missing: set[str] = set()
        super().__init__(("127.0.0.1", 0), functools.partial(Handler, directory=str(folder)))
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self.shutdown()
        self.server_close()


class Handler(http.server.SimpleHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Files)
        if self.path in self.server.missing:
            self.send_error(404)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("static") / "site"
    write_static_page(open_engine("arena-live"), folder)
    return folder


@pytest.fixture
def files(site: Path) -> Iterator[Files]:
    server = Files(site)
    yield server
    server.stop()


def picture(page: Any) -> np.ndarray:
    """What is on the canvas, RGB [H, W, 3]."""
    shot = page.evaluate("document.querySelector('.stage canvas').toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("RGB"), np.float32)


def frame(page: Any) -> int:
    return int(page.get_attribute(".stage", "data-frame"))


def wait_for_frame(page: Any, number: int) -> None:
    for _ in range(PATIENCE // 100):
        if frame(page) >= number:
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"frame {number} did not come; the last one was {frame(page)}")


def step(page: Any) -> np.ndarray:
    number = frame(page)
    page.click("[data-do=step]")
    wait_for_frame(page, number + 1)
    return picture(page)


def test_it_plays_from_files_alone_and_offline(browser, files):
    with opened(browser, files.url, SIZE, PATIENCE, STUB_GAMEPAD) as page:
        page.click("[data-prompt=plaza-explorer]")
        page.wait_for_selector("text=Loading the model…")
        page.wait_for_selector(LIVE)
        assert page.evaluate("crossOriginIsolated"), "threads need the headers that the service worker adds"
        page.keyboard.press("p")
        page.wait_for_selector("text=Paused")
        page.click("[data-do=reset]")
        last = load_prompt_file(find_prompt("plaza-explorer")).frames_THWC[9].astype(np.float32)
        first = step(page)
        above_the_mark = slice(0, 160)
        assert np.abs(first - last)[above_the_mark].mean() < 20, "it goes on from the prompt"
        assert (first[-3:, -3:] < 60).all(), "the watermark is in the corner"

        page.evaluate("window.stub.axes = [0, 0, 1, 0]")
        page.wait_for_selector("[data-stick=right] kbd.right[data-held=true]")
        seen = [first, *(step(page) for _ in range(5))]
        moves = [np.abs(after - before).mean() for before, after in pairwise(seen)]
        assert min(moves) > 1, "every frame differs while the stick turns"
        page.wait_for_selector("text=turn right")

        page.set_input_files("input[type=file]", files_picture(last))
        page.wait_for_selector("h1:has-text('Your picture')")
        assert np.abs(step(page) - last)[above_the_mark].mean() < 30, "it goes on from a picture of one's own"

        files.stop()
        page.reload()
        page.wait_for_selector(LIVE)
        wait_for_frame(page, 3)


def files_picture(frame_HWC: np.ndarray) -> dict[str, Any]:
    buffer = io.BytesIO()
    Image.fromarray(frame_HWC.astype(np.uint8)).save(buffer, "PNG")
    return {"name": "mine.png", "mimeType": "image/png", "buffer": buffer.getvalue()}


def test_a_file_that_is_missing_is_a_sentence(browser, files):
    files.missing = {"/model/transformer.onnx"}
    with opened(browser, files.url, SIZE, PATIENCE) as page:
        page.click("[data-prompt=court-rusher]")
        page.wait_for_selector("text=The model could not be loaded: model/transformer.onnx (404).")
        files.missing = set()
        page.click("text=Choose a start")
        page.click("[data-prompt=court-rusher]")
        page.wait_for_selector(LIVE)
        wait_for_frame(page, 1)
        assert page.locator("text=could not be loaded").count() == 0
