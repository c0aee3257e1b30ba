"""Takes the picture of the page for the docs: plays a little at a running server and writes a PNG.

    playloom serve & python web/dev/picture.py http://127.0.0.1:5000/ docs/images/page.png

The figures on it are those of the machine it is taken on, so take it on a quiet one.
"""

from __future__ import annotations

import io
import shutil
import sys

from PIL import Image
from playwright.sync_api import Page, sync_playwright

SCENE = (("KeyW", 1400), ("ArrowRight", 900), ("KeyW", 1600), ("Space", 300), ("ArrowLeft", 1200), ("KeyD", 800))


def play(page: Page) -> None:
    """A person for a while, then the model, then both."""
    for key, milliseconds in SCENE * 2:
        page.keyboard.down(key)
        page.wait_for_timeout(milliseconds)
        page.keyboard.up(key)
        page.wait_for_timeout(250)
    page.click(".segments [data-controller=model]")
    page.wait_for_timeout(12_000)
    page.click(".segments [data-controller=person]")
    page.click("[data-do=reset]")
    page.wait_for_timeout(3_000)
    for key in ("KeyW", "ArrowRight"):
        page.keyboard.down(key)
    page.wait_for_timeout(900)


def main(url: str, out: str) -> None:
    """Open the page, play, and keep what is on the screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1010}, color_scheme="dark")
        page.goto(url)
        page.click("[data-prompt=plaza-explorer]")
        page.wait_for_selector(".stage[data-live=true]")
        play(page)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
