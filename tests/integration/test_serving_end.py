"""The whole program: `playloom serve` starts, ends when it is told to, loses nothing it had begun, and comes back."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from playloom.cli.app import main
from serving_toys import model_folder, picture, score_body

PROGRAM = "from playloom.cli.app import main; main()"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@contextmanager
def program(port, stderr=None, **environment):
    command = [sys.executable, "-c", PROGRAM, "serve", "--port", str(port), "--model", str(model_folder())]
    settings = {"PLAYLOOM_DEVICE": "cpu", "PLAYLOOM_MAX_STEPS": "10000", **environment}
    pipes = {"stdout": subprocess.PIPE, "stderr": stderr}
    with subprocess.Popen(command, **pipes, text=True, env=os.environ | settings) as process:
        try:
            assert process.stdout is not None
            greeting = process.stdout.readline()
            assert f"Open http://127.0.0.1:{port} " in greeting
            assert "this machine only" in greeting
            yield process
        finally:
            process.kill()


def join(port, **hello):
    player = connect(f"ws://127.0.0.1:{port}/v1/play", proxy=None)
    player.send(json.dumps({"type": "hello", **hello}))
    while (ready := json.loads(player.recv(timeout=20)))["type"] == "opening":
        pass
    assert ready["type"] == "ready"
    return player, ready["token"]


def last_words(player):
    """The error and the code a player is left with."""
    said = None
    try:
        while True:
            message = player.recv(timeout=10)
            if isinstance(message, str) and json.loads(message)["type"] == "error":
                said = json.loads(message)["message"]
    except ConnectionClosed as closed:
        return said, closed.rcvd.code if closed.rcvd else None


def test_sigterm_finishes_what_runs_refuses_the_rest_and_a_restart_takes_over():
    port, finished = free_port(), []
    home = f"http://127.0.0.1:{port}"

    def long_request():
        # As many steps as take a second or two here; measured first, since machines differ.
        finished.append(httpx.post(f"{home}/score", json=score_body(num_steps_to_predict=steps), timeout=30))

    with program(port) as process:
        began = time.monotonic()
        httpx.post(f"{home}/score", json=score_body(num_steps_to_predict=20), timeout=30).raise_for_status()
        steps = max(20, int(20 / (time.monotonic() - began)))
        player, token = join(port)
        running = threading.Thread(target=long_request)
        running.start()
        order = {"steps": [{"image_name": "a"}], "num_steps_to_predict": 5}
        job = httpx.post(f"{home}/new_job", data={"json": json.dumps(order)}, files={"a": picture()}, timeout=10).json()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        asked = time.monotonic()
        time.sleep(0.2)
        refused = httpx.post(f"{home}/score", json=score_body(), timeout=10)
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert "stopping" in refused.json()["error"]
        assert httpx.get(f"{home}/v1/health").status_code == 503
        with player:
            said, code = last_words(player)
        assert code == 1013
        assert "stopping" in said
        running.join(20)
        results = httpx.get(f"{home}/get_job_results", params=job)
        assert results.headers["content-type"] == "application/zip", "what was dreamed can still be fetched"
        assert finished[0].status_code == 200
        assert len(finished[0].json()["results"]) == steps
        assert process.wait(12) == 0
        assert time.monotonic() - asked < 10
    with program(port) as process:
        player, new_token = join(port, resume=token)
        with player:
            assert new_token != token, "the session went with its process; the player begins anew, unasked"
            assert isinstance(player.recv(timeout=10), (str, bytes))
        process.kill()
        assert process.wait(5) == -signal.SIGKILL


def test_what_takes_too_long_is_given_up_and_told():
    port, answers = free_port(), []

    def endless():
        body = score_body(num_steps_to_predict=10_000)
        answers.append(httpx.post(f"http://127.0.0.1:{port}/score", json=body, timeout=30))

    with program(port, subprocess.PIPE, PLAYLOOM_DRAIN_SECONDS="0.5", PLAYLOOM_ACCESS_LOG="0") as process:
        running = threading.Thread(target=endless)
        running.start()
        time.sleep(1)
        process.send_signal(signal.SIGTERM)
        assert process.wait(6) == 0
        running.join(5)
        assert "/score" not in process.stderr.read(), "no access log"
    assert answers[0].status_code == 503
    assert "stopped before" in answers[0].json()["error"]


def test_what_cannot_be_served_is_said_in_a_sentence(monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for options, expected in (
            (["--port", str(port)], "already in use"),
            (["--host", "0.0.0.0"], "without a key"),
        ):
            monkeypatch.setattr(sys, "argv", ["playloom", "serve", "--port", "0", *options])
            with pytest.raises(SystemExit) as ended:
                main()
            said = capsys.readouterr().err
            assert (ended.value.code, len(said.splitlines())) == (2, 1) and expected in said.lower()


def test_an_idle_server_says_what_it_does_and_ends_at_once():
    port = free_port()
    with program(port, subprocess.PIPE) as process:
        httpx.get(f"http://127.0.0.1:{port}/v1/health").raise_for_status()
        process.send_signal(signal.SIGINT)
        assert process.wait(5) == 0
        assert "stopping" in process.stdout.read()
        assert "GET /v1/health 200" in process.stderr.read()
