"""A real server in a process of its own and a real headless Chromium, for the tests of the page."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from conftest import loud_model, tiny_config
from playloom.models.checkpoint import save_model
from playloom.models.folder import model_folder, read_model
from playloom.models.onnx.export import export_onnx

CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome")
KEY = "open sesame"
QUIET = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
STUB_GAMEPAD = """
window.stub = {mapping: "standard", id: "stub", index: 0, connected: true, timestamp: 0, axes: [0, 0, 0, 0],
  buttons: Array.from({length: 17}, () => ({pressed: false, touched: false, value: 0}))};
navigator.getGamepads = () => [window.stub, null, null, null];
"""


def chromium_or_skip() -> str:
    """The path of a Chromium. Without one these tests are skipped, saying so; where CI is set they fail."""
    named = os.environ.get("PLAYLOOM_CHROMIUM")
    found = named or next(filter(None, map(shutil.which, CHROMIUM_NAMES)), None)
    if found is None:
        missing("no Chromium on the PATH (`make browser` installs Debian's; or set PLAYLOOM_CHROMIUM to one)")
    return str(found)


def missing(what: str) -> None:
    """Skip with the reason; in CI, where everything must be there, fail with it."""
    reason = f"THE PAGE IS NOT TESTED: {what}"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """Headless Chromium that asks nothing of the network."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("the package `playwright` is not installed (it is in playloom[dev])")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=chromium_or_skip(), args=list(QUIET))
        yield chromium
        chromium.close()


class ServerProcess:
    """`playloom serve` of a model on one port, which may be killed and started again."""

    def __init__(self, model: str, stories: Path, key: str | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._environment = {name: value for name, value in os.environ.items() if name != "PLAYLOOM_API_KEY"}
        self._environment |= {"PLAYLOOM_MODEL": model, "PLAYLOOM_STORIES": str(stories)}
        if key is not None:
            self._environment["PLAYLOOM_API_KEY"] = key
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        command = [str(Path(sys.executable).with_name("playloom")), "serve", "--port", str(self.port)]
        self._process = subprocess.Popen(
            command, env=self._environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        until = time.monotonic() + 180
        while time.monotonic() < until:
            assert self._process.poll() is None, f"`{' '.join(command)}` ended with {self._process.returncode}"
            try:
                with urlopen(self.url + "v1/health", timeout=5):
                    return
            except OSError:
                time.sleep(0.1)
        raise TimeoutError("the server did not answer for three minutes")

    def kill(self) -> None:
        """End it at once, as a crash would."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture(scope="session")
def quick_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of a tiny model with the bundled one's pictures, context, controls and sampling. It dreams noise."""
    bundled, tiny = read_model(model_folder()), tiny_config(context_steps=10)
    pictures = {"frame_height": 180, "frame_width": 300, "grid_height": 9, "grid_width": 15}
    sizes = dataclasses.replace(tiny.tokenizer, **pictures)
    model = loud_model(dataclasses.replace(tiny, name="arena-quick", tokenizer=sizes))
    model.card.update({name: bundled.card[name] for name in ("controls", "sampling")})
    folder = tmp_path_factory.mktemp("quick") / "model"
    save_model(folder, model, dtype=None)
    export_onnx(folder)
    return str(folder)


@pytest.fixture(scope="session")
def server(quick_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server of most tests of the page."""
    yield from _running(ServerProcess(quick_model, tmp_path_factory.mktemp("stories")))


@pytest.fixture(scope="session")
def bundled_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server of the bundled model."""
    yield from _running(ServerProcess("arena-live", tmp_path_factory.mktemp("bundled-stories")))


@pytest.fixture(scope="session")
def locked_server(quick_model: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the key `KEY`."""
    yield from _running(ServerProcess(quick_model, tmp_path_factory.mktemp("locked-stories"), KEY))


def _running(process: ServerProcess) -> Iterator[ServerProcess]:
    chromium_or_skip()
    try:
        process.start()
        yield process
    finally:
        process.kill()


@contextmanager
def opened(browser: Any, url: str, size: tuple[int, int], patience: int, script: str = "") -> Iterator[Any]:
    """The page in a context of its own; an error in its code fails the test. `patience` in milliseconds."""
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, reduced_motion="reduce")
    context.set_default_timeout(patience)
    page = context.new_page()
    page.add_init_script(script)
    troubles: list[str] = []
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.goto(url)
    yield page
    context.close()
    assert not troubles
