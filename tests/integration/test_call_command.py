"""`playloom call` as people run it, and that the key never leaves but in the header of a request."""

import base64
import json
import logging
import os
import pty
import subprocess
import sys

import pytest
from PIL import Image

from call_toys import Scripted, drops, frame, good, result, says
from playloom.cli.app import main
from playloom.client import CallEvents, CallJob, Key, run_call, start_from_picture

SECRET = "k3y-/\"that'is\\never+shown"


@pytest.fixture
def server():
    running = []

    def start(*script) -> Scripted:
        running.append(Scripted(*script))
        return running[-1]

    yield start
    for one in running:
        one.stop()


@pytest.fixture
def said(tmp_path, monkeypatch, capsys):
    """Runs `playloom call`: (exit code, what it printed, what it complained)."""
    Image.fromarray(frame(1)).save(tmp_path / "me.png")
    for name in ("MUSE_API_KEY", "PLAYLOOM_API_KEY", "MUSE_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["playloom", "call", *words, "--out", str(tmp_path / "call")])
        try:
            main()
            code = 0
        except SystemExit as exited:
            code = int(exited.code or 0)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_a_whole_call(said, server, tmp_path, monkeypatch):
    endpoint = server(good(), good(actions=None, actions_output=None), good())
    monkeypatch.setenv("MUSE_ENDPOINT_URL", endpoint.address)
    monkeypatch.setenv("PLAYLOOM_API_KEY", "loom")
    code, out, err = said("--image", str(tmp_path / "me.png"), "--steps", "3", "--seed", "4")
    assert code == 0 and [h["Authorization"] for h in endpoint.headers] == ["Bearer loom"] * 3
    assert "[1/3] raw/01.png  left_stick_y=1 (binned, from the response)" in out and "(random)" in out
    assert "1 of them with a random action" in out and "sr/dream_x4.gif" in out
    assert "me.png: resized from 30 x 18 to 300 x 180" in err and "random action is used (seed 4)" in err
    assert "results" not in out


def test_a_payload_and_the_replies_shown(said, server, tmp_path):
    (tmp_path / "p.json").write_text(json.dumps({"input_data": {"context": [{"image": result(1)["image"]}]}}))
    endpoint = server(good(note="x" * 9000))
    words = ("--payload", str(tmp_path / "p.json"), "--endpoint", endpoint.address, "--steps", "2", "--upscale", "none")
    code, out, _ = said(*words, "--show-reply")
    shown = [line for line in out.splitlines() if line.startswith('{"results"')]
    assert code == 0 and [len(line) for line in shown] == [2048, 2048]
    assert "Authorization" not in endpoint.headers[0], "no key, no header"
    assert said(*words, "--key", "flag", "--resume")[0] == 0


def test_a_failure_is_one_sentence_and_resume_goes_on(said, server, tmp_path):
    words = ("--image", str(tmp_path / "me.png"), "--upscale", "none", "--steps", "2", "--retries", "0")
    code, out, err = said(*words, "--endpoint", server(good(), says(500, {"error": "no memory"})).address)
    assert code == 2 and "[1/2]" in out
    last = err.strip().splitlines()[-1]
    assert last.startswith("playloom: step 2 of 2 failed: http://127.0.0.1:") and "no memory" in last
    code, out, _ = said("--resume", "--upscale", "none", "--steps", "2", "--endpoint", server(good()).address)
    assert code == 0 and "2 steps (1 of an earlier call)" in out


def test_what_cannot_go_together(said, tmp_path):
    picture = str(tmp_path / "me.png")
    assert "give one of them" in said("--image", picture, "--payload", picture)[2]
    code, _, err = said()
    assert code == 2 and "give --payload or --image, or --resume" in err


def test_the_prompt_is_hidden(server, tmp_path):
    """On a real terminal: the key is asked for, not echoed, and sent."""
    endpoint = server(good())
    Image.fromarray(frame(1)).save(tmp_path / "me.png")
    code = "from playloom.cli.app import main; main()"
    words = ["call", "--image", str(tmp_path / "me.png"), "--endpoint", endpoint.address, "--steps", "1"]
    hidden = {"MUSE_API_KEY", "PLAYLOOM_API_KEY", "MUSE_ENDPOINT_URL"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden}
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words, "--out", str(tmp_path / "call")],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    screen = b""
    while not screen.endswith(b"none): "):  # the blank comes when the echo is off
        screen += os.read(ours, 4096)
    os.write(ours, b"typed-secret\n")
    try:
        while part := os.read(ours, 4096):
            screen += part
    except OSError:  # the terminal is gone with its last process
        pass
    assert process.wait(30) == 0, screen
    os.close(ours)
    assert endpoint.headers[0]["Authorization"] == "Bearer typed-secret"
    assert b"[1/1]" in screen and b"typed-secret" not in screen


def _forms(secret: str) -> list[bytes]:
    """The key, and the key as JSON writes it."""
    return [secret.encode(), json.dumps(secret)[1:-1].encode()]


TELLTALE = {"error": f"bad key {SECRET}", "Authorization": f"Bearer {SECRET}"}


@pytest.mark.parametrize(
    "last",
    [
        good(echo=SECRET),
        says(401, TELLTALE),
        says(503, TELLTALE, Retry_After="0"),
        says(400, f"your header was: Bearer {SECRET}".encode()),
        says(302, Location=f"http://127.0.0.1/{SECRET}/x"),
        says(200, TELLTALE),
        says(200, {"results": [{"image": SECRET}]}),
        says(200, SECRET.encode(), Content_Encoding="gzip"),
        drops,
    ],
    ids=["echoed", "401", "503", "400", "redirect", "nothing", "as image", "as gzip", "dropped"],
)
def test_the_key_is_never_printed_logged_or_written(server, tmp_path, caplog, capsys, last):
    caplog.set_level(logging.DEBUG)
    Image.fromarray(frame(1)).save(tmp_path / "me.png")
    endpoint = server(good(echo=SECRET), last)
    told: list[str] = []
    events = CallEvents(step=lambda n, of, words: told.append(words), note=told.append, reply=told.append)
    job = CallJob(
        start=start_from_picture(tmp_path / "me.png")[0],
        key=Key(SECRET),
        endpoint=endpoint.address,
        out=tmp_path / "call",
        steps=2,
        retries=1,
    )
    told.append(repr(job))
    try:
        run_call(job, events, sleep=lambda seconds: None)
    except Exception as error:
        while error is not None:  # the whole chain, as a traceback would print it
            told.append(f"{error!r} {error} {vars(error)}")
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    assert endpoint.headers[-1]["Authorization"] == f"Bearer {SECRET}"
    printed = capsys.readouterr()
    texts = [text.encode() for text in (*told, caplog.text, printed.out, printed.err)]
    written = [path.read_bytes() for path in (tmp_path / "call").rglob("*") if path.is_file()]
    assert len(written) >= 6 and len(told) >= 3 and "HTTP" in caplog.text
    assert any(b"***" in text for text in texts), "it was in the replies"
    for form in _forms(SECRET):
        assert not any(form in text for text in [*texts, *written])


def test_a_payload_that_holds_the_key_is_refused(said, server, tmp_path):
    payload = {"input_data": {"context": [{"image": result(1)["image"]}], "key": "abc123"}}
    (tmp_path / "p.json").write_text(json.dumps(payload))
    code, out, err = said("--payload", str(tmp_path / "p.json"), "--key", "abc123")
    assert code == 2 and "the payload holds the key" in err and "abc123" not in out + err
    assert not (tmp_path / "call").exists()


def test_a_key_that_cannot_be_sent_is_not_shown(said, tmp_path):
    for text in ("two words", "schl\N{LATIN SMALL LETTER U WITH DIAERESIS}ssel"):
        code, out, err = said("--image", str(tmp_path / "me.png"), "--key", text)
        assert code == 2 and "the key has characters" in err and text not in out + err


def test_a_short_key_may_turn_up_in_pictures_by_chance(server, tmp_path):
    Image.fromarray(frame(1)).save(tmp_path / "me.png")
    start = start_from_picture(tmp_path / "me.png")[0]
    short = start["input_data"]["context"][0]["image"][30:32]
    assert base64.b64decode(start["input_data"]["context"][0]["image"])
    CallJob(start=start, key=Key(short))


def test_the_client_needs_no_torch(server, tmp_path):
    Image.fromarray(frame(1)).save(tmp_path / "me.png")
    code = """
import sys
from playloom.client import CallJob, run_call, start_from_picture
place, address = sys.argv[1:]
job = CallJob(start=start_from_picture(place + "/me.png")[0], steps=1, endpoint=address, out=place + "/out")
run_call(job)
sys.exit(any(name in sys.modules for name in ("torch", "typer")))
"""
    words = [sys.executable, "-c", code, str(tmp_path), server(good()).address]
    assert subprocess.run(words, check=False, timeout=60).returncode == 0
    assert (tmp_path / "out/sr/dream_x4.gif").is_file()
