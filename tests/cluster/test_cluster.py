"""`playloom serve --cluster`, the whole program: two replicas on one machine, one killed under load, an orderly end."""

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from playloom.server.settings import replica_in
from serving_toys import error_of, model_folder, picture, score_body

KEY = "a key of the tests"
OWN = {"Authorization": f"Bearer {KEY}"}
COMMAND = [sys.executable, "-c", "from playloom.cli.app import main; main()", "serve", "--cluster", "--port", "0"]
SETTINGS = {
    "PLAYLOOM_DEVICE": "cpu",
    "PLAYLOOM_MAX_STEPS": "9999",
    "PLAYLOOM_API_KEY": KEY,
    "PLAYLOOM_DRAIN_SECONDS": "30",
}
STARTUP = 180  # seconds; on a busy machine
ORDER = {"steps": [{"image_name": "a"}], "num_steps_to_predict": 5}


@contextmanager
def program():
    """The program on a free port: its process and its address."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"} | SETTINGS
    command = [*COMMAND, "--model", str(model_folder())]
    with (
        tempfile.TemporaryFile("w+", encoding="utf-8") as log,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True) as process,
    ):
        try:
            greeting = process.stdout.readline()
            assert "2 replicas on Ray" in greeting, [greeting, log.seek(0), log.read()]
            yield process, greeting.split("http://")[1].split()[0], log
        finally:
            left = [psutil.Process(process.pid), *family(process)] if process.poll() is None else []
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def family(process):
    """All processes that it started, and those that these started."""
    return psutil.Process(process.pid).children(recursive=True)


def asked(home, path, **options):
    return httpx.get(f"http://{home}{path}", headers=OWN, timeout=30, **options)


def posted(home, path, body=None, **options):
    return httpx.post(f"http://{home}{path}", json=body, headers=OWN, timeout=60, **options)


def replicas_up(home, expected, besides=frozenset()):
    """Tags of the replicas that answer, once there are so many."""
    end, seen = time.monotonic() + STARTUP, set()
    while len(seen - besides) < expected and time.monotonic() < end:
        seen |= {asked(home, "/v1/health").headers.get("x-playloom-replica")} - {None}
        time.sleep(0.02)
    return seen - besides


def join(home, at, **hello):
    player = connect(f"ws://{home}/v1/play?at={at}", proxy=None, ping_interval=None, close_timeout=1)
    player.send(json.dumps({"type": "hello", "key": KEY, **hello}))
    while (ready := json.loads(player.recv(timeout=30)))["type"] == "opening":
        pass
    assert ready["type"] == "ready", ready
    return player, ready["token"]


def shows_frames(player):
    return any(isinstance(player.recv(timeout=20), bytes) for _ in range(20))


def last_words(player):
    """The error and the code that a player is left with."""
    said = None
    try:
        while True:
            message = player.recv(timeout=15)
            if isinstance(message, str) and json.loads(message)["type"] == "error":
                said = json.loads(message)["message"]
    except ConnectionClosed as closed:
        return said, closed.rcvd.code if closed.rcvd else None


def sessions_jobs_and_players_stay_with_their_replica(home, tags):
    with ThreadPoolExecutor(6) as pool:
        tokens = [answer.json()["token"] for answer in pool.map(lambda _: posted(home, "/v1/sessions", {}), range(6))]
        assert {replica_in(token) for token in tokens} == tags
        steps = list(pool.map(lambda token: posted(home, f"/v1/sessions/{token}/step", {}), tokens * 2))
        assert [answer.status_code for answer in steps] == [200] * 12
        assert [answer.headers["x-playloom-replica"] for answer in steps] == [replica_in(token) for token in tokens * 2]
        for token in tokens:
            assert httpx.delete(f"http://{home}/v1/sessions/{token}", headers=OWN, timeout=30).status_code == 204
        results = list(pool.map(lambda _: results_of_a_job(home), range(4)))
    assert results == [list(range(ORDER["num_steps_to_predict"]))] * 4
    for tag in tags:
        player, token = join(home, tag)
        with player:
            assert replica_in(token) == tag
            assert shows_frames(player)
        player, again = join(home, tag, resume=token)
        with player:
            assert again == token
            assert shows_frames(player)
        assert asked(home, f"/metrics?at={tag}").headers["x-playloom-replica"] == tag


def results_of_a_job(home):
    """All steps of a job, as they come."""
    form = {"data": {"json": json.dumps(ORDER)}, "files": {"a": picture()}}
    job = httpx.post(f"http://{home}/new_job", headers=OWN, timeout=30, **form).json()["job_ids"][0]
    found, end = [], time.monotonic() + 60
    while len(found) < ORDER["num_steps_to_predict"] and time.monotonic() < end:
        answer = asked(home, "/get_job_results", params={"job_ids": job})
        if answer.status_code == 200:
            found += json.loads(zipfile.ZipFile(io.BytesIO(answer.content)).read("predictions.json"))
        else:
            assert answer.status_code == 204
            time.sleep(0.05)
    return [step["dream_step_index"] for step in found]


def bad_input_gets_the_sentences_of_the_server(home):
    wrong = httpx.post(f"http://{home}/score", json=score_body(), headers={"Authorization": "Bearer no"}, timeout=30)
    assert (wrong.status_code, "key" in error_of(wrong)) == (401, True)
    nonsense = httpx.post(f"http://{home}/score", content=b"\xff{", headers=OWN, timeout=30)
    assert (nonsense.status_code, bool(error_of(nonsense))) == (400, True)
    with suppress(httpx.TransportError):  # it may be cut off while it still sends
        large = httpx.post(f"http://{home}/score", content=(b"x" * 2**20 for _ in range(100)), headers=OWN, timeout=30)
        assert (large.status_code, "larger" in error_of(large)) == (413, True)
    with connect(f"ws://{home}/v1/play", proxy=None) as player:
        player.send('{"type": "hello", "key": "no"}')
        assert last_words(player)[1] == 1008


def one_is_killed_under_load(home, process, tags):
    """Requests that were not on it all succeed, its sessions are unknown, and a new one takes its place."""
    answers, dead_now, over, body = [], threading.Event(), threading.Event(), score_body(num_steps_to_predict=20)

    def user(where, path, body):
        while not over.is_set():
            began = time.monotonic()
            try:
                status = posted(home, path, body).status_code
            except httpx.TransportError:
                status = 0
            answers.append((where, began, status))
            if status == 404:
                return
            if dead_now.is_set():
                over.wait(0.3)  # leaves the new replica time to start

    sessions = [posted(home, f"/v1/sessions?at={tag}", {}).json()["token"] for tag in sorted(tags) * 2]
    users = [(replica_in(token), f"/v1/sessions/{token}/step", {}) for token in sessions]
    users += [(tag, f"/score?at={tag}", body) for tag in tags] + [(None, "/score", body)] * 2
    players = {tag: join(home, tag) for tag in tags}
    threads = [threading.Thread(target=user, args=args) for args in users]
    for thread in threads:
        thread.start()
    time.sleep(1)
    next(child for child in family(process) if "ServeReplica" in " ".join(child.cmdline())).send_signal(signal.SIGKILL)
    killed = time.monotonic()
    dead_now.set()
    new = replicas_up(home, expected=1, besides=tags)
    assert new, "a replica starts in its place"
    while sum(where is None and began > killed for where, began, _ in answers) < 3 and time.monotonic() < killed + 60:
        time.sleep(0.1)
    over.set()
    for thread in threads:
        thread.join(60)
    (dead,) = tags - replicas_up(home, expected=2)
    (alive,) = tags - {dead}
    failed = [(where, began, status) for where, began, status in answers if status != 200]
    for where, began, status in failed:
        assert where in (None, dead), "only what was on it"
        assert began <= killed or (where, status) == (dead, 404), "later ones are sent elsewhere"
    assert sum(status != 404 for _, _, status in failed) <= len(threads), "each user lost one request at most"
    assert sum(where == dead and status == 404 for where, _, status in failed) == 2, "its sessions are gone with it"
    assert len([where for where, _, _ in answers if where == alive]) > 3
    with players[alive][0] as player:
        assert shows_frames(player)
    with players[dead][0] as player:
        last_words(player)  # the connection ends
    with join(home, dead, resume=players[dead][1])[0] as player:
        assert shows_frames(player), "begins anew, elsewhere"


def it_ends_in_good_order(home, process, log):
    """New work is refused, what runs is finished, and no process stays behind."""
    began, finished = time.monotonic(), []
    posted(home, "/score", score_body(num_steps_to_predict=20)).raise_for_status()
    steps = max(20, int(30 / (time.monotonic() - began)))  # as many as take a second or two, alone
    player, _ = join(home, "any")
    running = threading.Thread(
        target=lambda: finished.append(posted(home, "/score", score_body(num_steps_to_predict=steps)))
    )
    running.start()
    time.sleep(0.3)
    everybody = family(process)
    process.send_signal(signal.SIGTERM)
    while (refused := posted(home, "/score", score_body())).status_code == 200:
        time.sleep(0.1)
    assert (refused.status_code, "stopping" in error_of(refused)) == (503, True)
    assert int(refused.headers["retry-after"]) >= 1
    with player:
        said, code = last_words(player)
    assert (code, "stopping" in said) == (1013, True)
    running.join(60)
    assert (finished[0].status_code, len(finished[0].json()["results"])) == (200, steps)
    assert process.wait(60) == 0
    assert psutil.wait_procs(everybody, timeout=10)[1] == [], "nothing is left running"
    log.seek(0)
    text = log.read()
    assert "GET /v1/health 200" in text, "the access log"
    assert "Traceback" not in text
    assert [line for line in text.splitlines() if "(ServeReplica" not in line] == [], "nothing of Ray's own"


@pytest.mark.slow
def test_two_replicas_on_one_machine():
    with program() as (process, home, log):
        tags = replicas_up(home, expected=2)
        assert len(tags) == 2
        sessions_jobs_and_players_stay_with_their_replica(home, tags)
        bad_input_gets_the_sentences_of_the_server(home)
        one_is_killed_under_load(home, process, tags)
        it_ends_in_good_order(home, process, log)


@pytest.mark.slow
def test_a_cluster_that_cannot_start_leaves_nothing_behind():
    """The start fails after Ray is up: one sentence, and no process stays."""
    mark = f"of the test in {os.getpid()}"
    ended = subprocess.run(
        [*COMMAND, "--model", str(model_folder()), "--replicas", "100000"],
        capture_output=True,
        text=True,
        timeout=STARTUP,
        check=False,
        env=os.environ | {"PLAYLOOM_DEVICE": "cpu", "PLAYLOOM_API_KEY": mark},
    )
    assert (ended.returncode, "CPUs" in ended.stderr, len(ended.stderr.splitlines())) == (2, True, 1), ended.stderr
    left = [found for found in psutil.process_iter() if mark in environment_of(found).get("PLAYLOOM_API_KEY", "")]
    assert psutil.wait_procs(left, timeout=10)[1] == []


def environment_of(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}
