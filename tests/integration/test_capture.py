"""`playloom capture` of a real game window on a real X11 server, with keys pressed by the server (XTEST)."""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.importing.build import import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import BadInputError
from playloom.games.capture import CaptureOptions, capture
from video_toys import read_frames

GAME = Path(__file__).parents[1] / "support" / "square_game.py"
TITLE = "square game"
NAMES = [control.name for control in CONTROLS]


@pytest.fixture(scope="module")
def server():
    """A connection to an Xvfb of its own, which DISPLAY names."""
    if shutil.which("Xvfb") is None:
        reason = "CAPTURE IS NOT TESTED: no Xvfb on the PATH (`make browser` installs Debian's)"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    from Xlib import display

    read, write = os.pipe()
    words = ["Xvfb", "-displayfd", str(write), "-screen", "0", "640x480x24", "-nolisten", "tcp"]
    process = subprocess.Popen(words, pass_fds=[write], stderr=subprocess.DEVNULL)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DISPLAY", f":{os.read(read, 16).decode().strip()}")
        connection = display.Display()
        yield connection
        connection.close()
    process.terminate()
    process.wait()


class Player:
    """Hands on the keyboard, and the focus of the server."""

    def __init__(self, server) -> None:
        self.server, self.root = server, server.screen().root
        self.when: dict[tuple[object, bool], float] = {}

    def game(self):
        """The window of the game once it is there."""
        from Xlib import error

        until, name = time.monotonic() + 30, self.server.get_atom("_NET_WM_NAME")
        while time.monotonic() < until:
            with suppress(error.BadWindow):  # of an earlier game, closed at this moment
                for window in self.root.query_tree().children:
                    if window.get_full_text_property(name) == TITLE and window.get_attributes().map_state == 2:
                        return window
            time.sleep(0.05)
        raise TimeoutError("the game opened no window")

    def focus(self, window) -> None:
        from Xlib import X

        window.set_input_focus(X.RevertToParent, X.CurrentTime)
        self.server.sync()
        self.when["focus", window is not self.root] = time.monotonic()

    def press(self, key: str | int, down: bool) -> None:
        """Press or release a key, or a button of the mouse."""
        from Xlib import XK, X

        if isinstance(key, int):
            self.fake(X.ButtonPress if down else X.ButtonRelease, key)
        else:
            code = self.server.keysym_to_keycode(XK.string_to_keysym(key))
            self.fake(X.KeyPress if down else X.KeyRelease, code)
        self.when[key, down] = time.monotonic()

    def fake(self, *event, **values) -> None:
        from Xlib.ext import xtest

        xtest.fake_input(self.server, *event, **values)
        self.server.sync()


@pytest.fixture
def player(server):
    environment = {**os.environ, "SDL_VIDEODRIVER": "x11"}
    process = subprocess.Popen([sys.executable, str(GAME), TITLE], stdout=subprocess.DEVNULL, env=environment)
    yield Player(server)
    process.terminate()
    process.wait()


def captured(options: CaptureOptions, play) -> None:
    """Capture in a thread while `play(at)` plays; `at(s)` waits until s seconds after the capture was ready."""
    ready, over, fault = threading.Event(), threading.Event(), []

    def stop() -> bool:
        ready.set()
        return over.is_set()

    def run() -> None:
        try:
            capture(options, stop=stop)
        except Exception as error:
            fault.append(error)
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30)
    begin = time.monotonic()
    try:
        play(lambda seconds: time.sleep(max(0, begin + seconds - time.monotonic())))
    finally:
        over.set()
        thread.join()
    assert not fault, fault


def square(frame_HWC: np.ndarray) -> tuple[float, float]:
    """Middle of the red square."""
    y, x = np.nonzero((frame_HWC[..., 0] > 110) & (frame_HWC[..., 2] < 80))
    return float(x.mean()), float(y.mean())


def test_a_game_is_captured_and_imported_with_its_keys(player, tmp_path):
    from Xlib import X

    game = player.game()
    player.focus(player.root)
    starts: list[float] = []

    def play(at) -> None:
        at(0.3)  # nothing is stored yet
        player.focus(game)
        starts.append(player.when["focus", True])
        at(1.0)
        player.press("d", True)
        at(1.5)
        player.press("d", False)
        player.press("p", True)  # not in the mapping
        at(1.8)
        player.press("p", False)
        player.press("w", True)
        at(2.1)
        player.press("w", False)
        player.fake(X.MotionNotify, detail=True, x=30, y=-10)
        player.press(1, True)
        at(2.4)
        player.press(1, False)
        player.press(4, True)
        player.press(4, False)
        player.press("q", True)  # faster than a tick
        player.press("q", False)
        player.press("s", True)  # held when the focus goes
        at(2.8)
        player.focus(player.root)
        at(2.9)
        player.press("s", False)
        player.press("e", True)  # typed elsewhere
        player.press("e", False)
        at(3.0)
        player.press("a", True)  # held when the focus comes back
        at(3.8)
        player.focus(game)
        at(4.4)
        player.press("a", False)
        at(4.8)

    options = CaptureOptions(out=tmp_path / "in", window=TITLE)
    captured(options, play)
    video, log = sorted((tmp_path / "in").iterdir(), key=lambda path: path.suffix, reverse=True)
    assert (video.suffix, log.suffix) == (".mkv", ".jsonl")
    assert not {'"p"', '"e"'} & set(log.read_text(encoding="utf-8").replace(",", " ").split())
    assert TITLE.encode() not in video.read_bytes() + log.read_bytes()

    dataset, _ = import_recordings(
        tmp_path / "in", tmp_path / "out", ImportOptions(frame_size=(240, 320), split="train")
    )
    first, second = dataset.spans
    values_TC = decode_values(dataset.actions_FA)
    column = {name: values_TC[:, number] for number, name in enumerate(NAMES)}

    def held(name: str, key: str | int, sign: int = 1, end: object = None) -> bool:
        """In the first clip the control has the sign in one piece, from step to step, each within one."""
        times = [player.when[key, True], player.when[end or key, False]]
        begin, end = (10 * (moment - starts[0]) for moment in times)
        rows = np.flatnonzero(column[name][first.rows] == sign)
        near = abs(rows[0] - begin) <= 1.5 and abs(rows[-1] + 1 - end) <= 1.5
        return bool(near and len(rows) == rows[-1] - rows[0] + 1)

    assert held("left_stick_x", "d") and held("left_stick_y", "w") and held("trigger_RT", 1)
    assert held("left_stick_y", "s", -1, end="focus")  # what is held ends with the focus
    assert column["right_stick_x"][first.rows].max() == 1 and np.count_nonzero(column["right_stick_x"]) == 1
    assert column["dpad_up"].sum() == column["skill_1"].sum() == 1
    assert abs(first.length - 10 * (player.when["focus", False] - starts[0])) <= 2
    assert abs(second.length - 10) <= 3
    assert (column["left_stick_x"][second.rows][:5] == -1).all() and not column["left_stick_x"][second.rows][-3:].any()
    assert not column["button_Y"].any()

    places = np.array([square(frame) for frame in dataset.frames_FHWC])
    moved_T = np.abs(np.diff(places[first.rows], axis=0)).sum(axis=1) > 3
    pushed_T = (column["left_stick_x"] != 0) | (column["left_stick_y"] != 0)
    assert np.count_nonzero(moved_T != pushed_T[first.rows][:-1]) <= 6  # three times held, one step at either end
    assert abs(places[0][0] - 160) < 3 and places[first.rows][-1][0] > 200  # 0.5 s to the right


def run(*words: str, **environment: str) -> subprocess.Popen:
    program = [sys.executable, "-m", "playloom", "capture", *words]
    return subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    )


def wait_for_video(folder: Path) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until and not any(path.stat().st_size > 2000 for path in folder.glob(".*.mkv")):
        time.sleep(0.1)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_a_summary(player, tmp_path, number):
    player.focus(player.game())
    process = run("--out", str(tmp_path / "play"), "--window", TITLE, "--fps", "20")
    folder = tmp_path / "play"
    wait_for_video(folder)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    (video,) = folder.glob("*.mkv")
    assert not list(folder.glob(".*"))
    summary, following = out.splitlines()
    told = re.fullmatch(rf"{video}  \d+\.\d s, (\d+) pictures? \([\d.]+ per second\), \d+ dropped, 0 events", summary)
    assert told and int(told[1]) == len(read_frames(video))
    assert following == f"next: playloom import {folder} --out data"


def test_a_killed_capture_can_be_read(player, tmp_path):
    player.focus(player.game())
    process = run("--out", str(tmp_path), "--region", "100,100,201,155")
    wait_for_video(tmp_path)
    process.kill()
    process.communicate()
    (part,) = tmp_path.glob(".*.part.mkv")
    frames_FHWC = read_frames(part)
    assert frames_FHWC.shape[1:] == (154, 200, 3)


def framed(player: Player):
    """The game in a frame, listed as window managers do."""
    from Xlib import X, Xatom

    game = player.game()
    frame = player.root.create_window(40, 30, 400, 300, 0, X.CopyFromParent)
    frame.map()
    game.reparent(frame, 10, 20)
    game.map()
    player.root.change_property(player.server.get_atom("_NET_CLIENT_LIST"), Xatom.WINDOW, 32, [game.id])
    player.server.sync()
    time.sleep(0.5)
    return game


def test_a_closed_window_ends_it_and_a_new_size_is_scaled(player, tmp_path):
    game = framed(player)
    player.focus(game)

    def play(at) -> None:
        at(0.7)
        game.configure(width=200, height=100)
        player.server.sync()
        at(1.2)
        game.destroy()
        player.server.sync()
        at(1.5)

    begin = time.monotonic()
    captured(CaptureOptions(out=tmp_path, window="SQUARE", minutes=1), play)
    assert time.monotonic() - begin < 30
    player.root.delete_property(player.server.get_atom("_NET_CLIENT_LIST"))
    (video,) = tmp_path.glob("*.mkv")
    frames_FHWC = read_frames(video)
    assert frames_FHWC.shape[1:] == (240, 320, 3) and len(frames_FHWC) > 10
    assert np.allclose(square(frames_FHWC[5]), (160, 120), atol=2)  # the game without its frame


def test_what_is_wrong_is_one_sentence(player, tmp_path, monkeypatch):
    player.game()
    for changes, sentence in (
        ({"window": "other game"}, f"no window has the title 'other game'; choose one of: {TITLE}"),
        ({"region": (600, 0, 100, 100)}, "region is wrong"),
        ({"window": TITLE, "region": (0, 0, 9, 9)}, "leave one out"),
    ):
        with pytest.raises(BadInputError, match=sentence):
            capture(CaptureOptions(out=tmp_path, **changes))
    process = run("--out", str(tmp_path), DISPLAY="")
    assert process.communicate()[1] == "playloom: there is no X11 display: got no DISPLAY; run this in an X11 session\n"
    assert process.returncode == 2 and not list(tmp_path.iterdir())
