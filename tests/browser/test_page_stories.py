"""Stories on the page, in a real headless Chromium against a real server: branches, edits, files, and coming back."""

from __future__ import annotations

import base64
import io
import json
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from page_browser import KEY, opened

FRAME = ".story-stage[data-node] .frame"
TURN_RIGHT, RIGHT_STICK_X = 10, 14
BRANCHES = ".amount:has(label:text-is('Branches')) input"
PATIENCE = 60_000
"""Milliseconds; a machine that is busy dreams slowly."""


@pytest.fixture
def page(server, browser):
    with opened(browser, server.url, (1300, 900), PATIENCE) as page:
        yield page


def begin(page) -> None:
    page.click("[data-branch-from=plaza-explorer]")
    page.wait_for_selector(FRAME)


def ask(page, path: str) -> Any:
    """What the server says of the story that is open."""
    return page.evaluate(
        "path => fetch(`v1/stories/${location.hash.slice(7)}${path}`).then((answer) => answer.json())", path
    )


def story(page) -> dict[str, Any]:
    return ask(page, "")


def until(page, true: Callable[[], Any], seconds: float = PATIENCE / 1000) -> Any:
    """Poll from here: the page's content policy forbids Playwright's own polling, as it should."""
    end = time.monotonic() + seconds
    while not (found := true()):
        assert time.monotonic() < end, f"in {seconds} s this did not come true"
        page.wait_for_timeout(50)
    return found


def want(page, count: int, frames: int) -> None:
    page.fill(BRANCHES, str(count))
    page.fill("text=Frames each", str(frames))
    page.focus(".story-stage")


def all_done(page) -> bool:
    return all(branch["state"] not in ("waiting", "dreaming") for branch in story(page)["branches"])


def dream(page, count: int, frames: int) -> None:
    """Order branches and wait for their last frame."""
    want(page, count, frames)
    before = len(story(page)["branches"])
    page.click("[data-do=order]")
    until(page, lambda: len(story(page)["branches"]) == before + count and all_done(page))
    page.wait_for_selector("[data-do=stop]", state="detached")


def chosen(page) -> int:
    return int(page.get_attribute(".story-stage", "data-node"))


def png(width: int, height: int, colour: tuple[int, ...]) -> bytes:
    held = io.BytesIO()
    Image.new("RGBA", (width, height), colour).save(held, "PNG")
    return held.getvalue()


def test_a_picture_that_failed_to_load_is_asked_for_again(page):
    page.route("**/*.webp", lambda route: route.abort())
    page.click("[data-branch-from=plaza-explorer]")
    page.wait_for_selector(f"{FRAME}[data-broken=true]", state="attached")
    page.unroute("**/*.webp")
    assert until(page, lambda: page.evaluate(f"document.querySelector('{FRAME}').naturalWidth")) > 0
    assert until(page, lambda: page.locator("img[data-broken=true]").count() == 0)


def test_three_quick_clicks_order_once(page):
    begin(page)
    want(page, 1, 2)
    page.click("[data-do=order]", click_count=3, delay=60)
    until(page, lambda: story(page)["branches"] and all_done(page))
    assert len(story(page)["branches"]) == 1


def test_the_menu_of_files_closes_on_escape_and_on_a_click_elsewhere(page):
    begin(page)
    for close in (lambda: page.keyboard.press("Escape"), lambda: page.mouse.click(5, 400)):
        page.focus(".story-stage")
        page.keyboard.press("d")
        page.wait_for_selector("details.menu[open]")
        close()
        page.wait_for_selector("details.menu:not([open])")
        assert page.locator("details.menu[open]").count() == 0


def test_every_button_has_a_name_on_a_phone_too(page):
    begin(page)
    page.set_viewport_size({"width": 390, "height": 844})
    page.keyboard.press("s")
    for name in ("1 starred: go to the next", "Compare"):
        button = page.get_by_role("button", name=name)
        button.wait_for()
        assert button.is_visible()


def test_branches_come_in_side_by_side_and_a_reload_comes_back(page):
    begin(page)
    dream(page, 3, 3)
    tiles = page.locator(".beside li")
    assert tiles.count() == 3
    page.keyboard.press("2")
    page.keyboard.press("Enter")
    page.wait_for_selector(FRAME)
    found = story(page)
    assert [branch["frames_done"] for branch in found["branches"]] == [3, 3, 3]
    assert chosen(page) == found["branches"][1]["last"]
    assert page.locator(".lane").count() == 4
    page.keyboard.press("Home")
    page.wait_for_selector(".story-stage[data-node='0']")
    page.reload()
    page.wait_for_selector(FRAME)
    assert page.locator(".lane").count() == 4
    assert page.title().startswith("Plaza, explorer")


def test_the_keyboard_alone_is_enough(page):
    page.wait_for_selector("[data-branch-from]")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(FRAME)
    page.focus(BRANCHES)
    page.keyboard.press("Control+a")
    page.keyboard.type("1")
    page.focus("text=Frames each")
    page.keyboard.press("Control+a")
    page.keyboard.type("4")
    page.keyboard.press("Enter")
    until(page, lambda: len(story(page)["nodes"]) == 14 and all_done(page))
    page.focus(".story-stage")
    until(page, lambda: chosen(page) == 13)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("s")
    until(page, lambda: story(page)["nodes"][12]["starred"])
    page.keyboard.press("n")
    page.keyboard.type("the best b so far")  # no key of it may act
    page.keyboard.press("Enter")
    until(page, lambda: story(page)["nodes"][12]["note"] == "the best b so far")
    assert len(story(page)["branches"]) == 1
    page.focus(".story-stage")
    page.keyboard.press("Home")
    page.keyboard.press("Space")
    page.wait_for_selector("text=Pause")
    until(page, lambda: chosen(page) == 13)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Delete")
    page.wait_for_selector("dialog >> text=this frame and the one that comes after it")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    until(page, lambda: [node["id"] for node in story(page)["nodes"]] == list(range(12)))
    until(page, lambda: chosen(page) == 11)


def test_what_is_held_and_what_is_written_is_pressed(page):
    begin(page)
    page.click("input[value=hold]")
    page.click(".chips >> text=Turn right")
    dream(page, 1, 3)
    assert {node["action"][RIGHT_STICK_X] for node in story(page)["nodes"][10:]} == {TURN_RIGHT}
    page.wait_for_selector(".film-words >> text=You turn right")
    page.click("input[value=script]")
    page.fill("textarea", "turn_rihgt for 2")
    page.click("[data-do=order]")
    page.wait_for_selector(".news >> text=turn_right")  # names the nearest word
    page.fill("textarea", "rest; fire")
    dream(page, 1, 3)
    assert [node["action"][1] for node in story(page)["nodes"][13:]] == [0, 1, 1]


def test_inputs_are_recorded_from_the_first_press_on(page):
    begin(page)
    want(page, 1, 5)
    page.click("input[value=perform]")
    page.click("[data-do=record]")
    page.wait_for_selector("text=Recording starts with your first input")
    page.keyboard.down("ArrowRight")
    page.wait_for_selector("text=5 frames recorded")
    page.keyboard.up("ArrowRight")
    assert chosen(page) == 9, "keys that are recorded do not go through the frames"
    dream(page, 1, 5)
    assert [node["action"][RIGHT_STICK_X] for node in story(page)["nodes"][10:]] == [TURN_RIGHT] * 5


def test_a_picture_is_laid_onto_frames_and_dreamed_on_from(page):
    begin(page)
    for _ in range(3):
        page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".story-stage[data-node='6']")
    shot = base64.b64encode(png(60, 60, (255, 0, 0, 255))).decode()
    page.evaluate(
        """async (shot) => {
          const bytes = Uint8Array.from(atob(shot), (letter) => letter.charCodeAt(0));
          const data = new DataTransfer();
          data.items.add(new File([bytes], "red.png", { type: "image/png" }));
          window.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        shot,
    )
    page.wait_for_selector(".placed")
    page.get_by_label("Remove background").uncheck()  # it is all of one colour
    box, stage = (page.locator(name).bounding_box() for name in (".placed", ".story-stage"))
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(stage["x"] + stage["width"] / 4, stage["y"] + stage["height"] / 4, steps=4)
    page.mouse.up()
    page.get_by_label("Also on the next frames").fill("2")
    page.focus(".story-stage")
    page.keyboard.press("Enter")
    page.wait_for_selector(".placed", state="detached")
    edited = [node for node in story(page)["nodes"] if node["origin"] == "edited"]
    assert [(node["edit_of"], node["parent"]) for node in edited] == [(6, 5), (7, 10), (8, 11)]
    assert chosen(page) == edited[-1]["id"]
    data = page.evaluate(
        """node => fetch(`v1/stories/${location.hash.slice(7)}/nodes/${node}.png`).then((answer) => answer.blob())
          .then((blob) => new Promise((done) => { const reader = new FileReader();
            reader.onload = () => done(reader.result.split(",")[1]); reader.readAsDataURL(blob); }))""",
        edited[-1]["id"],
    )
    pixels = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), int)
    height, width = story(page)["size"]
    assert np.abs(pixels[height // 4, width // 4] - [255, 0, 0]).max() < 10
    dream(page, 1, 2)
    assert story(page)["branches"][0]["from"] == edited[-1]["id"]


def test_escape_takes_the_picture_away_and_keys_move_it(page):
    begin(page)
    page.set_input_files(
        "[aria-label='Picture to put onto the frame']",
        {"name": "blue.png", "mimeType": "image/png", "buffer": png(40, 40, (0, 0, 255, 128))},
    )
    page.wait_for_selector(".placed")
    page.focus(".story-stage")
    before = page.locator(".placed").bounding_box()
    page.keyboard.press("Shift+ArrowRight")
    until(page, lambda: page.locator(".placed").bounding_box()["x"] > before["x"] + 10)
    assert chosen(page) == 9
    assert page.get_by_label("Also on the next frames").is_disabled()
    page.keyboard.press("Escape")
    page.wait_for_selector(".placed", state="detached")
    page.set_input_files(
        "[aria-label='Picture to put onto the frame']",
        {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"},
    )
    page.wait_for_selector("text=“notes.txt” is not a picture this browser can read")


def test_dreaming_is_stopped_and_what_is_there_stays(bundled_server, browser):
    """With the bundled model, which takes long enough to be stopped."""
    with opened(browser, bundled_server.url, (1300, 900), PATIENCE) as page:
        begin(page)
        want(page, 2, 100)
        page.keyboard.press("b")
        until(page, lambda: len(story(page)["nodes"]) > 12)
        page.keyboard.press("x")
        until(page, lambda: all_done(page))
        assert {branch["state"] for branch in story(page)["branches"]} == {"cancelled"}
        kept = len(story(page)["nodes"])
        assert 12 < kept < 200
        page.wait_for_selector("text=, stopped")
        assert len(story(page)["nodes"]) == kept


def test_what_is_chosen_is_saved(page):
    begin(page)
    dream(page, 1, 2)
    page.keyboard.press("d")
    begins = {"mp4": b"ftyp", "gif": b"GIF8", "csv": b"left_stick_x", "npz": b"PK", "zip": b"PK"}
    for kind, start in begins.items():
        with page.expect_download() as download:
            page.click(f"[data-save=path-{kind}]")
        assert re.fullmatch(rf"Plaza-explorer(-\d+)?\.{kind}", download.value.suggested_filename)
        assert start in Path(download.value.path()).read_bytes()[:400]
    with page.expect_download() as download:
        page.click("[data-save=all-zip]")
    assert any(name.endswith("story.json") for name in zipfile.ZipFile(download.value.path()).namelist())


def test_a_server_that_comes_back_still_has_the_story(server, page):
    begin(page)
    dream(page, 1, 2)
    server.kill()
    page.wait_for_selector(".curtain[data-line=lost]")
    server.start()
    page.wait_for_selector(".curtain", state="detached")
    assert len(story(page)["nodes"]) == 12
    dream(page, 1, 2)
    assert len(story(page)["nodes"]) == 14


def test_live_play_is_branched_from(page):
    page.click("[data-prompt=court-explorer]")
    page.wait_for_selector(".stage[data-live=true]")
    page.click("[data-do=branch]")
    page.wait_for_selector(FRAME)
    assert "dreamed" in {node["origin"] for node in story(page)["nodes"]}
    dream(page, 1, 1)


def test_stories_are_listed_named_and_deleted(page):
    begin(page)
    page.fill("[aria-label='Name of the story']", "The tower")
    page.keyboard.press("Enter")
    until(page, lambda: story(page)["name"] == "The tower")
    address = page.url
    page.click("text=Leave")
    card = page.locator(".story-entry", has_text="The tower")
    card.wait_for()
    assert "10 frames, 0 branches" in card.inner_text()
    card.locator(".prompt").click()
    page.wait_for_selector(FRAME)
    page.click("text=Leave")
    card.hover()
    page.click("[aria-label='Delete the story The tower']")
    page.click("dialog .strong")
    card.wait_for(state="detached")
    page.goto(address)
    page.wait_for_selector(".curtain[data-line=gone]")
    page.click("text=To the stories")
    page.wait_for_selector("text=Pick a starting point")


def test_on_a_phone_nothing_sticks_out_and_a_finger_scrubs(server, browser):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    context.set_default_timeout(PATIENCE)
    page = context.new_page()
    page.goto(server.url)
    page.tap("[data-branch-from=court-rusher]")
    page.wait_for_selector(FRAME)
    dream(page, 2, 2)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    page.tap("[data-do=beside]")
    page.wait_for_selector(FRAME)
    page.locator(".film").scroll_into_view_if_needed()
    film = page.locator(".film-pictures").bounding_box()
    touch = context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.9), ("touchMove", 0.5), ("touchMove", 0.05)):
        point = {"x": film["x"] + share * film["width"], "y": film["y"] + film["height"] / 2}
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [point]})
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_selector(".story-stage[data-node='0']")
    context.close()


def test_a_window_made_narrower_makes_the_view_narrower(page):
    begin(page)
    want(page, 4, 30)
    page.keyboard.press("b")
    until(page, lambda: len(story(page)["nodes"]) > 14)
    for width in (1280, 360):  # at once, as when a phone is turned
        page.set_viewport_size({"width": width, "height": 800})
        assert until(
            page, lambda width=width: page.evaluate("document.documentElement.scrollWidth") <= width, seconds=10
        )
    page.keyboard.press("x")
    until(page, lambda: all_done(page))


def test_a_shared_link_asks_for_the_key(browser, locked_server):
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(locked_server.url)
    page.fill("text=This server asks for a key.", KEY)
    page.keyboard.press("Enter")
    begin(page)
    address = page.url
    page.close()
    other = browser.new_page()
    other.set_default_timeout(PATIENCE)
    other.goto(address)
    other.fill("text=This server asks for a key.", KEY)
    other.keyboard.press("Enter")
    other.wait_for_selector(FRAME)
    other.click("[data-do=order]")
    other.wait_for_selector(".beside")
    assert other.locator("text=This server asks for a key.").count() == 0
    other.keyboard.press("x")
    other.close()


def test_every_text_and_control_has_a_name(page):
    """Buttons, fields and pictures of the view say what they are, also where only an icon is seen."""
    begin(page)
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, input, select, textarea, img")].filter((one) => {
          const label = one.getAttribute("aria-label") ?? one.labels?.[0]?.textContent ?? one.textContent ?? "";
          return one.tagName === "IMG" ? !one.hasAttribute("alt") : label.trim() === "";
        }).map((one) => one.outerHTML)"""
    )
    assert nameless == [], json.dumps(nameless)
    assert re.fullmatch(r"#story=[0-9a-f]{32}", page.evaluate("location.hash"))
