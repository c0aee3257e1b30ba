"""`WS /v1/play` over a real socket: frames, actions, reconnects and invalid messages."""

import json
import math
import socket
import struct
import threading
import time
import urllib.request
from contextlib import contextmanager

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from playloom.actions.controller import CONTROLS
from playloom.media.images import live_picture
from playloom.provenance import stamp
from serving_toys import b64, picture, pixels_of, served

HEADER = struct.Struct("<4sIIdffBBxx16f")
TURN = [0.0, 0.0, 1.0] + [0.0] * 13


@pytest.fixture(scope="module")
def server():
    with served(fps=40, reconnect_grace_seconds=1.0, handshake_timeout=0.5, max_sessions=6) as found:
        yield found


def join(server, **hello):
    found = connect(f"ws://{server[0]}/v1/play", proxy=None, max_size=None, compression=None)
    found.send(json.dumps({"type": "hello", "seed": 1, **hello}))
    return found


def text(player, kind):
    """The next text of that type."""
    while True:
        message = player.recv(timeout=10)
        if isinstance(message, str) and json.loads(message)["type"] == kind:
            return json.loads(message)


def frame(player):
    """The next frame: header fields, then the picture."""
    while True:
        message = player.recv(timeout=10)
        if isinstance(message, bytes):
            magic, sequence, dream, at, key, cost, given_, form, *action = HEADER.unpack_from(message)
            assert magic == b"PLF1"
            return {
                "sequence": sequence, "dream": dream, "time": at, "key": key, "cost": cost,
                "given": given_, "form": form, "action": action, "picture": message[HEADER.size :],
            }  # fmt: skip


def press(player, action):
    player.send(struct.pack("<16f", *action))


def say(player, kind, **fields):
    player.send(json.dumps({"type": kind, **fields}))


def live(server):
    return server[1].state.server.sessions


def wait_until(happened, seconds=5.0):
    end = time.monotonic() + seconds
    while not happened() and time.monotonic() < end:
        time.sleep(0.02)
    assert happened()


def test_frames_come_marked_and_follow_the_newest_action(server):
    with join(server) as player:
        ready = text(player, "ready")
        assert ready["controls"] == [control.name for control in CONTROLS]
        assert (ready["controller"], ready["seed"], ready["paused"], ready["model"]) == ("person", 1, False, "tiny")
        assert (ready["height"], ready["width"]) == server[1].state.server.service.size
        first = frame(player)
        assert first["given"] == 1
        assert first["action"] == [0.0] * 16
        assert math.isnan(first["key"])
        turned = first
        while math.isnan(turned["key"]):  # the first frame of a press may be lost: this reader is slow under load
            press(player, [0.0, -1.0] + [0.0] * 14)
            press(player, TURN)
            turned = next(f for f in iter(lambda: frame(player), None) if f["action"] == TURN)
        assert 0 < turned["key"] < 5
        assert frame(player)["action"] == TURN
        assert turned["time"] > first["time"]
        assert turned["cost"] > 0
        pixels = pixels_of(turned["picture"])
        badge = np.abs(stamp(pixels).astype(int) - pixels).mean()
        assert badge < 12, "the mark is there already, up to JPEG's losses"
        assert b"playloom" in turned["picture"], "and says what made it"


def test_pause_step_reset_controller_and_temperature(server):
    with join(server, format="webp", controller="model") as player:
        assert frame(player)["form"] == 2
        say(player, "pause")
        while not text(player, "state")["paused"]:
            pass
        time.sleep(0.1)
        say(player, "step")
        stepped = [frame(player)["sequence"]]
        say(player, "controller", value="person")
        while text(player, "state")["controller"] != "person":
            pass
        say(player, "temperature", value=0)
        while text(player, "state")["temperature"] != 0:
            pass
        say(player, "reset", seed=9)
        while text(player, "state")["seed"] != 9:
            pass
        say(player, "step")
        again = frame(player)
        while again["dream"] == 0:
            again = frame(player)
        assert again["sequence"] > stepped[0]
        assert again["given"] == 1
        say(player, "resume")
        assert frame(player)["sequence"] > again["sequence"]
        assert text(player, "state")["late"] >= 0


def test_an_image_as_prompt_and_at_a_reset(server):
    with join(server, image=b64(picture(0, (90, 70), "JPEG"))) as player:
        assert text(player, "ready")["prompt"] is None
        say(player, "reset", image=b64(picture(1)))
        while frame(player)["dream"] == 0:
            pass
        say(player, "reset", image="%%%")
        assert "base64" in text(player, "error")["message"]
        say(player, "reset", prompt="nowhere")
        assert "no bundled prompt" in text(player, "error")["message"]
        assert frame(player)["dream"] == 1, "what cannot be done changes nothing"


def test_a_reconnect_resumes_the_session(server):
    player = join(server)
    token = text(player, "ready")["token"]
    last = frame(player)["sequence"]
    player.close()
    wait_until(lambda: live(server).connections[token].send_queue is None)
    assert live(server).connections[token].state.paused
    with join(server, resume=token) as back:
        assert text(back, "ready")["token"] == token
        assert frame(back)["sequence"] > last
        with join(server, resume=token) as third:
            assert "taken over" in text(back, "error")["message"]
            press(back, TURN)  # of no effect, as all that it asks for
            say(back, "pause")
            assert text(third, "ready")["token"] == token
            assert not text(third, "state")["paused"]
            assert all(frame(third)["action"] != TURN for _ in range(8))
    wait_until(lambda: token not in live(server).connections)
    with join(server, resume=token) as anew:
        assert text(anew, "ready")["token"] != token


def test_a_session_that_is_deleted_ends_its_connection_and_is_no_bug_of_the_server(server):
    with join(server) as player:
        token = text(player, "ready")["token"]
        assert httpx.delete(f"http://{server[0]}/v1/sessions/{token}").status_code == 204
        assert "closed" in text(player, "error")["message"]
        with pytest.raises(ConnectionClosed) as caught:
            player.recv(timeout=5)
    assert caught.value.rcvd.code == 1008


def test_a_frame_is_of_the_format_that_its_header_names(monkeypatch):
    def switch(frame_HWC, form, manifest):
        for connection in live(server).connections.values():
            connection.form = "jpeg"  # as a player who reconnects meanwhile
        return live_picture(frame_HWC, form, manifest)

    monkeypatch.setattr("playloom.server.sessions.live_picture", switch)
    with served(fps=40) as server, join(server, format="webp") as player:
        first = frame(player)
        assert (first["form"], first["picture"][:4]) == (2, b"RIFF")


@contextmanager
def held_up(server):
    """Nothing is computed meanwhile."""
    go_on = threading.Event()
    server[1].state.server.service.scheduler.run(go_on.wait)
    try:
        yield
    finally:
        go_on.set()


def test_progress_is_sent_while_a_session_opens(server):
    with held_up(server), join(server) as player:
        for _ in range(2):
            assert json.loads(player.recv(timeout=5))["type"] == "opening"
        press(player, TURN)  # before it is open: counts all the same
    with join(server) as player:
        press(player, TURN)
        assert text(player, "ready")["token"]
        while frame(player)["action"] != TURN:
            pass


def test_a_disconnect_while_opening_closes_the_session():
    with served(max_sessions=16) as busy:
        with join(busy) as first:  # after this the moment is known, and opening is all there is to do
            text(first, "ready")
        with held_up(busy):
            players = [join(busy) for _ in range(16)]
            wait_until(lambda: live(busy).open_sessions == 16)
            assert broken(busy, '{"type": "hello"}', hello=False)[0] == 1013
            for player in players:
                player.close()
            wait_until(lambda: live(busy).open_sessions == 0)
        for _ in range(16):
            join(busy).close()
        with join(busy) as last:
            text(last, "ready")
            wait_until(lambda: live(busy).open_sessions == 1)
            wait_until(lambda: busy[1].state.server.service.scheduler.stats.sessions == 1)


def test_a_session_closed_at_the_end_of_a_restart_frees_both(monkeypatch):
    with served(fps=40) as busy, join(busy) as player:
        frame(player)
        service, reached, go_on = busy[1].state.server.service, threading.Event(), threading.Event()
        manifest, scheduler = service.manifest, service.scheduler

        def hold_up(*given):  # called before the switch is queued, which has to wait then
            scheduler.run(go_on.wait)
            reached.set()
            return manifest(*given)

        monkeypatch.setattr(service, "manifest", hold_up)
        say(player, "reset")
        assert reached.wait(10)
        player.send("no request")
        wait_until(lambda: not live(busy).connections)
        go_on.set()
        wait_until(lambda: scheduler.stats.sessions == 0)


def test_a_session_without_a_sent_frame_is_not_kept():
    with served(fps=0.001) as slow:
        with join(slow) as player:
            token = text(player, "ready")["token"]
            assert token in live(slow).connections
        wait_until(lambda: not live(slow).connections)


def test_the_recording_is_what_was_shown(server):
    with join(server) as player:
        token = text(player, "ready")["token"]
        for _ in range(3):
            frame(player)
        place = f"http://{server[0]}/v1/sessions/{token}/recording"
        with urllib.request.urlopen(f"{place}.csv") as answer:
            assert len(answer.read().splitlines()) > 3
        with urllib.request.urlopen(f"{place}.mp4") as answer:
            assert answer.read()[4:8] == b"ftyp"


def test_a_slow_reader_loses_frames_and_delays_no_other(monkeypatch):
    # Who reads nothing answers no ping either; here that takes as long as the machine needs.
    monkeypatch.setattr(WebSocketsSansIOProtocol, "start_keepalive", lambda protocol: None)
    with served(fps=100) as server:
        host, port = server[0].split(":")
        narrow = socket.socket()
        narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        narrow.connect((host, int(port)))
        lost = live(server).metrics.unseen._value.get
        slow = connect(
            f"ws://{server[0]}/v1/play", sock=narrow, proxy=None, compression=None, max_queue=1, close_timeout=0.1
        )
        slow.send(json.dumps({"type": "hello"}))
        with slow, join(server) as quick:
            connection = live(server).connections[text(slow, "ready")["token"]]
            sequences: list[int] = []
            # Nobody reads from the slow one meanwhile. Its first frame may be lost early; the session must still go on.
            while (not lost() or len(connection.history.sent()) <= 20) and len(sequences) < 400:
                sequences.append(frame(quick)["sequence"])
            assert lost() > 0
            assert sequences == sorted(set(sequences))
            shown = len(connection.history.sent())
            assert shown > 20, "its session goes on all the same"
            assert frame(slow)["sequence"] < shown


def broken(server, *messages, hello=True):
    """How the server ends it: (code, sentence)."""
    address = f"ws://{server[0]}/v1/play"
    player = join(server) if hello else connect(address, proxy=None, max_size=None, compression=None)
    with player:
        if hello:
            text(player, "ready")
        for message in messages:
            player.send(message)
        said = None
        try:
            while True:
                message = player.recv(timeout=10)
                if isinstance(message, str) and json.loads(message)["type"] == "error":
                    said = json.loads(message)["message"]
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return closed.rcvd.code, said


NAN = struct.pack("<16f", *[math.nan] * 16)


@pytest.mark.parametrize(
    "message",
    [b"", b"short", bytes(65), NAN, struct.pack("<16f", *[9.0] * 16), "hello", "{}", '{"type": "fly"}', "[" * 5000,
     '{"type": "temperature", "value": NaN}', '{"type": "controller", "value": "nobody"}',
     '{"type": "reset", "seed": -1}',
     '{"type": "pause", "seed": 1}'],
)  # fmt: skip
def test_an_invalid_message_ends_the_session(server, message):
    code, said = broken(server, message)
    assert code == 1008
    assert len(said) > 10


@pytest.mark.parametrize(
    "hello",
    ["", "null", b"\x00", '{"type": "pause"}', '{"type": "hello", "controller": "dog"}',
     '{"type":"hello","prompt":"x/../y"}', '{"type":"hello","image":"AAAA"}',
     '{"type":"hello","seed":-1}', '{"type":"hello","format":"gif"}',
     '{"type":"hello","sead":1}'],
)  # fmt: skip
def test_an_invalid_hello(server, hello):
    code, said = broken(server, hello, hello=False)
    assert code == 1008
    assert len(said) > 10


def test_an_unknown_field_names_the_nearest(server):
    assert "did you mean temperature?" in broken(server, '{"type":"hello","temprature":1}', hello=False)[1]
    assert "did you mean prompt?" in broken(server, '{"type": "reset", "promt": "x"}')[1]


def test_a_connection_without_hello_is_closed(server):
    code, said = broken(server, hello=False)
    assert code == 1008
    assert "no hello" in said


def test_too_large_a_message_is_cut_off():
    with served(socket_bytes=5000) as small:
        assert broken(small, "x" * 6000, hello=False)[0] == 1009


@pytest.mark.parametrize("hello", [True, False])
def test_a_text_that_is_not_utf8_is_closed_without_a_traceback(server, hello, caplog):
    with join(server) if hello else connect(f"ws://{server[0]}/v1/play", proxy=None) as player:
        player.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            while True:
                player.recv(timeout=10)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 1007
    assert not caplog.records


def test_foreign_pages_may_not_play(server):
    for origin in ("https://evil.example", "null", f"https://{server[0]}.evil.example"):
        with pytest.raises(InvalidStatus) as refused:
            connect(f"ws://{server[0]}/v1/play", proxy=None, origin=origin)
        assert refused.value.response.status_code == 403
        assert "other origins" in json.loads(refused.value.response.body)["error"]
    with connect(f"ws://{server[0]}/v1/play", proxy=None, origin=f"http://{server[0]}"):
        pass


def test_full_server_and_key():
    with served(max_sessions=1, api_key="sesame") as guarded:
        hello = {"type": "hello", "key": "sesame"}
        assert broken(guarded, json.dumps({**hello, "key": "Sesame"}), hello=False) == (
            1008,
            "the key is missing or wrong; send it as key in hello",
        )
        with join(guarded, key="sesame") as player:
            text(player, "ready")
            code, said = broken(guarded, json.dumps(hello), hello=False)
            assert code == 1013
            assert "taken" in said


MESSAGES = st.lists(
    st.binary(max_size=80)
    | st.text(max_size=40)
    | st.lists(st.floats(width=32, allow_subnormal=False), min_size=16, max_size=16).map(
        lambda row: struct.pack("<16f", *row)
    )
    | st.fixed_dictionaries(
        {"type": st.sampled_from(["pause", "resume", "step", "reset", "controller", "temperature", "hello"])},
        optional={
            "value": st.floats(allow_subnormal=False) | st.sampled_from(["person", "model", "both"]),
            "seed": st.integers(-1, 5),
        },
    ).map(json.dumps),
    min_size=1,
    max_size=6,
)


@settings(max_examples=20)
@given(messages=MESSAGES)
def test_no_messages_break_it(server, messages):
    with join(server) as player:
        text(player, "ready")
        try:
            for message in messages:
                player.send(message)
            player.send('{"type": "fly"}')
            while True:
                player.recv(timeout=10)
        except ConnectionClosed as closed:
            assert closed.rcvd is None or closed.rcvd.code == 1008
    with urllib.request.urlopen(f"http://{server[0]}/v1/health") as answer:
        assert json.load(answer)["status"] == "ok"


def test_no_session_is_left(server):
    stats = server[1].state.server.service.scheduler.stats
    wait_until(lambda: not live(server).connections and not stats.sessions, 8)
    assert (len(live(server).connections), stats.sessions) == (0, 0)
