"""The page in a real headless Chromium against a real server: it is played, reloaded, and outlives its server."""

from __future__ import annotations

import base64
import io
import struct
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from page_browser import KEY, STUB_GAMEPAD, opened

LIVE = ".stage[data-live=true]"
GONE = ".curtain[data-line=waiting], .curtain[data-line=opening]"
TURN_RIGHT, TURN_LEFT, REST = [0, 0, 1, 0], [0, 0, -1, 0], [0, 0, 0, 0]


@pytest.fixture
def page(server, browser):
    with opened(browser, server.url, (1000, 600), 30_000, STUB_GAMEPAD) as page:
        yield page


@pytest.fixture
def bundled_page(bundled_server, browser):
    """The page with the bundled model, whose pictures follow the controller."""
    with opened(browser, bundled_server.url, (1000, 600), 30_000, STUB_GAMEPAD) as page:
        yield page


def begin(page, prompt: str = "plaza-explorer") -> None:
    page.click(f"[data-prompt={prompt}]")
    page.wait_for_selector(LIVE)


def picture(page) -> np.ndarray:
    """What is on the canvas, grey [H, W]."""
    shot = page.evaluate("document.querySelector('.stage canvas').toDataURL('image/png').split(',')[1]")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(shot))).convert("L"), np.float32)


def stick(page, axes: list[float]) -> None:
    page.evaluate("axes => { window.stub.axes = axes; }", axes)


def frames_shown(page) -> int:
    return int(page.get_attribute(".stage", "data-frame"))


def wait_until(page, expression: str, seconds: float = 30) -> None:
    """Poll from here: the page's content policy forbids Playwright's own polling, as it should."""
    until = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < until, f"in {seconds} s this did not come true: {expression}"
        page.wait_for_timeout(30)


def wait_for_frames(page, count: int) -> None:
    wait_until(page, f"Number(document.querySelector('.stage').dataset.frame) >= {frames_shown(page) + count}")


def step_with(page, axes: list[float], steps: int) -> np.ndarray:
    """Start over, paused, and step with the stick held: the same pictures at any speed of the machine."""
    stick(page, axes)
    sides = {"right": axes[2] > 0, "left": axes[2] < 0}
    for side, held in sides.items():
        page.wait_for_selector(f"[data-stick=right] kbd.{side}[data-held={str(held).lower()}]")
    page.click("[data-do=reset]")
    for _ in range(steps):
        before = frames_shown(page)
        page.click("[data-do=step]")
        wait_until(page, f"document.querySelector('.stage').dataset.frame !== '{before}'")
    return picture(page)


def shift_between(one: np.ndarray, other: np.ndarray, most: int = 60) -> int:
    """By how many pixels the columns of `other` lie to the right of those of `one`."""
    top = slice(0, int(one.shape[0] * 0.6))  # above the mark and the body
    a, b = one[top], other[top]
    width = a.shape[1]

    def distance(shift: int) -> float:
        left, right = max(0, -shift), min(width, width - shift)
        return float(np.abs(a[:, left:right] - b[:, left + shift : right + shift]).mean())

    return min(range(-most, most + 1), key=distance)


def test_five_seconds_with_a_gamepad(bundled_page):
    page = bundled_page
    sent: list[bytes] = []

    def watch(socket) -> None:
        socket.on("framesent", lambda payload: sent.append(payload) if isinstance(payload, bytes) else None)

    page.on("websocket", watch)
    began = time.monotonic()
    begin(page)
    page.wait_for_selector("text=A gamepad is connected.")
    first = picture(page)
    stick(page, TURN_RIGHT)
    page.wait_for_selector("text=turn right")
    page.wait_for_timeout(2500)
    turned = picture(page)
    stick(page, TURN_LEFT)
    page.wait_for_selector("text=turn left")
    page.wait_for_timeout(2500)
    assert frames_shown(page) > 5
    assert np.abs(turned - first).mean() > 10
    actions = [struct.unpack("<16f", message) for message in sent]
    assert {action[2] for action in actions} >= {0.0, 1.0, -1.0}
    assert len(actions) < 20 + 3 * (time.monotonic() - began), "only changes and two heartbeats a second are sent"
    assert page.inner_text("[data-figure=key-to-picture]").split()[0].isdigit()
    assert page.inner_text("[data-figure=key-to-frame]").split()[0].isdigit()
    assert float(page.inner_text("[data-figure=rate]").split()[0]) > 0


def test_right_and_left_move_the_picture_to_either_side(bundled_page):
    page = bundled_page
    begin(page)
    page.keyboard.press("p")
    page.wait_for_selector("text=Paused")
    rest = step_with(page, REST, 1)
    right, left = step_with(page, TURN_RIGHT, 2), step_with(page, TURN_LEFT, 2)
    assert shift_between(rest, right) < -5  # turning right, the world goes left
    assert shift_between(rest, left) > 5


def test_a_reload_goes_on_with_the_same_session(page):
    begin(page)
    kept = page.evaluate("sessionStorage.getItem('playloom.session')")
    wait_for_frames(page, 5)
    before = frames_shown(page)
    page.reload()
    page.wait_for_selector(LIVE)
    assert page.evaluate("sessionStorage.getItem('playloom.session')") == kept
    assert frames_shown(page) > before


def test_it_comes_back_when_the_server_does(page, server):
    begin(page)
    wait_for_frames(page, 3)
    server.kill()
    page.wait_for_selector("text=The server does not answer.")
    page.wait_for_selector(GONE)
    server.start()
    page.wait_for_selector(LIVE)
    page.wait_for_selector("text=the dream starts over")
    wait_for_frames(page, 3)
    assert page.locator(GONE).count() == 0


def test_the_keyboard_alone_is_enough(page):
    page.wait_for_selector("[data-prompt]")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector(LIVE)
    page.keyboard.down("w")
    page.wait_for_selector("text=walk forward")
    page.keyboard.up("w")
    page.wait_for_selector("text=no input")
    page.focus(".seed input")
    page.keyboard.type("wd12")
    page.wait_for_selector("text=A seed is a whole number")
    assert page.locator("[data-held=true]").count() == 0
    page.keyboard.press("Control+a")
    page.keyboard.type("12")
    page.keyboard.press("Enter")
    wait_until(page, "JSON.parse(sessionStorage.getItem('playloom.session')).opening.seed === 12")
    page.focus(".stage")
    page.keyboard.down("d")
    page.wait_for_selector("[data-held=true]")
    page.evaluate("window.dispatchEvent(new Event('blur'))")
    wait_until(page, "!document.querySelector('[data-held=true]')")


def test_the_model_plays_and_a_recording_is_kept(page):
    begin(page)
    page.click(".segments [data-controller=model]")
    page.wait_for_selector(".in-words[data-given=false]")
    wait_for_frames(page, 3)
    for kind, begins in (("mp4", b"ftyp"), ("csv", b"left_stick_x")):
        with page.expect_download() as download:
            page.click(f"[data-save={kind}]")
        assert begins in Path(download.value.path()).read_bytes()[:400]


def test_on_a_phone_fingers_steer_and_nothing_sticks_out(server, browser):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.goto(server.url)
    page.tap("[data-prompt=court-rusher]")
    page.wait_for_selector(LIVE)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    box = page.locator("[data-stick=left]").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    touch = context.new_cdp_session(page)
    touch.send("Input.dispatchTouchEvent", {"type": "touchStart", "touchPoints": [{"x": x, "y": y - 60}]})
    page.wait_for_selector("text=walk forward")
    touch.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    page.wait_for_selector("text=no input")
    leave = page.locator("text=Leave").bounding_box()
    assert leave["x"] + leave["width"] <= 360 - 16
    context.close()


def test_who_leaves_gives_the_place_back(page):
    begin(page)
    with page.expect_response(lambda answer: answer.request.method == "DELETE") as answer:
        page.click("text=Leave")
    assert answer.value.status == 204
    page.wait_for_selector("text=Pick a starting point")
    page.reload()
    page.wait_for_selector("[data-prompt]")  # not back in the session


def test_what_is_not_a_picture_is_told_in_a_sentence(page):
    page.wait_for_selector("[data-prompt]")
    page.set_input_files("input[type=file]", {"name": "notes.txt", "mimeType": "text/plain", "buffer": b"no picture"})
    page.wait_for_selector("text=“notes.txt” is not a picture this browser can read")
    assert page.locator("[data-prompt]").count() > 0, "another start can be chosen"


def test_a_picture_takes_away_what_was_said_of_the_last_file(page):
    begin(page)
    page.locator("input[type=file]").set_input_files({"name": "a.txt", "mimeType": "text/plain", "buffer": b"none"})
    page.wait_for_selector("text=“a.txt” is not a picture")
    held = io.BytesIO()
    Image.new("RGB", (150, 90)).save(held, "PNG")
    page.locator("input[type=file]").set_input_files(
        {"name": "b.png", "mimeType": "image/png", "buffer": held.getvalue()}
    )
    page.wait_for_selector("text=“a.txt” is not a picture", state="detached")
    assert page.locator(LIVE).count() == 1


def test_play_that_began_without_a_server_can_be_branched_once_it_is_back(page):
    page.route("**/v1/stories", lambda route: route.abort())
    page.reload()
    begin(page)
    assert page.locator("[data-do=branch]").count() == 0
    page.unroute("**/v1/stories")
    page.wait_for_selector("[data-do=branch]")


def test_a_picture_of_ones_own_begins_a_dream(page):
    held = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 150, 3), dtype=np.uint8)).save(held, "PNG")
    page.wait_for_selector("[data-prompt]")
    page.set_input_files("input[type=file]", {"name": "own.png", "mimeType": "image/png", "buffer": held.getvalue()})
    page.wait_for_selector(LIVE)
    page.wait_for_selector("text=Your picture · arena-")
    wait_for_frames(page, 1)
    assert frames_shown(page) > 0


def test_the_temperature_begins_at_the_model_s_own(page):
    """The thumb stood at 0.9 while the label said "model's own", which was 0.50."""
    served = page.evaluate("fetch('v1/models').then((answer) => answer.json())")[0]
    page.wait_for_selector(".temperature input")
    assert float(page.input_value(".temperature input")) == pytest.approx(served["temperature"], abs=0.025)
    assert page.inner_text(".temperature output") == f"model’s own, {served['temperature']:.2f}"
    begin(page)
    assert page.inner_text(".temperature output") == f"{served['temperature']:.2f}"


def test_a_server_with_a_key_is_opened_with_it(locked_server, browser):
    page = browser.new_page()
    page.goto(locked_server.url)
    page.fill("text=This server asks for a key.", "open barley")
    page.keyboard.press("Enter")
    page.wait_for_selector("text=The server does not know this key.")
    page.fill("text=This server asks for a key.", KEY)
    page.keyboard.press("Enter")
    begin(page)
    assert page.locator("text=This server asks for a key.").count() == 0
    page.close()
