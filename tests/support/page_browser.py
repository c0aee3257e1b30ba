"""A real server in a process of its own and a real headless Chromium, for the tests of the page."""

from __future__ import annotations

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
    """`playloom serve` on one port, which may be killed and started again."""

    def __init__(self, key: str | None = None, stories: Path | None = None) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/"
        self._environment = {name: value for name, value in os.environ.items() if name != "PLAYLOOM_API_KEY"}
        if key is not None:
            self._environment["PLAYLOOM_API_KEY"] = key
        if stories is not None:
            self._environment["PLAYLOOM_STORIES"] = str(stories)
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
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """The server of all tests of the page."""
    yield from _running(ServerProcess(stories=tmp_path_factory.mktemp("stories")))


@pytest.fixture(scope="session")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    """A server with the key `KEY`."""
    yield from _running(ServerProcess(key=KEY, stories=tmp_path_factory.mktemp("locked-stories")))


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
