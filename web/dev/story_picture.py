"""Takes the picture of a story for the docs: branches at a running server, edits, branches again, and writes a PNG.

playloom serve & python web/dev/story_picture.py http://127.0.0.1:5000/ docs/images/stories.png
"""

from __future__ import annotations

import io
import shutil
import sys

from PIL import Image, ImageDraw
from playwright.sync_api import Page, sync_playwright

FILE = "input[aria-label='Picture to put onto the frame']"
BRANCHES = ".amount:has(label:text-is('Branches')) input"
PATIENCE = 60_000  # milliseconds


def dream(page: Page, count: int, frames: int) -> None:
    """Ask for branches and wait for them."""
    page.fill(BRANCHES, str(count))
    page.fill("text=Frames each", str(frames))
    page.click("[data-do=order]")
    page.wait_for_selector("[data-do=stop]")
    page.wait_for_selector("[data-do=stop]", state="detached")


def balloon() -> bytes:
    """A transparent picture: something that the game does not have."""
    image = Image.new("RGBA", (240, 300))
    draw = ImageDraw.Draw(image)
    draw.line((120, 200, 120, 296), fill=(60, 50, 60, 255), width=5)
    draw.ellipse((30, 4, 210, 214), fill=(226, 48, 60, 255))
    draw.ellipse((66, 34, 112, 92), fill=(255, 170, 170, 255))
    held = io.BytesIO()
    image.save(held, "PNG")
    return held.getvalue()


def explore(page: Page) -> None:
    """Four branches, one of them turned from in its middle, five frames of another edited and gone on from."""
    page.click("[data-branch-from=plaza-sniper]")
    page.wait_for_selector(".story-stage .frame")
    dream(page, 4, 24)
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.keyboard.press("s")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    page.click("input[value=hold]")
    page.click(".chips >> text=Turn left")
    dream(page, 1, 24)
    page.click(".lane[data-branch='0'] .lane-bar")
    page.set_input_files(FILE, {"name": "balloon.png", "mimeType": "image/png", "buffer": balloon()})
    page.wait_for_selector(".placed")
    page.get_by_label("Size").fill("44")
    page.focus(".story-stage")
    for _ in range(4):
        page.keyboard.press("Shift+ArrowUp")
        page.keyboard.press("Shift+ArrowRight")
    page.click("[data-do=put]")
    page.wait_for_selector(".placed", state="detached")
    page.click("input[value=model]")
    dream(page, 2, 24)
    page.click(".lane[data-branch='0'] .lane-bar")
    page.click("[data-do=beside]")
    for _ in range(12):
        page.keyboard.press("ArrowLeft")


def main(url: str, out: str) -> None:
    """Open the page, explore, and keep what is on the screen."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 1180}, color_scheme="dark")
        page.set_default_timeout(PATIENCE)
        page.goto(url)
        explore(page)
        page.evaluate("document.activeElement.blur()")
        page.mouse.move(1390, 1170)
        page.wait_for_timeout(3000)
        picture = Image.open(io.BytesIO(page.screenshot())).convert("RGB")
        picture.quantize(256, dither=Image.Dither.NONE).save(out, optimize=True)
        browser.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
