"""`playloom serve --cluster`, the whole program: two replicas on one machine, one killed under load, an orderly end."""

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from playloom.server.settings import replica_in
from serving_toys import error_of, model_folder, picture, score_body

PROGRAM = "from playloom.cli.app import main; main()"
KEY = "a key of the tests"
OWN = {"Authorization": f"Bearer {KEY}"}
STARTUP = 180  # seconds; on a busy machine
ORDER = {"steps": [{"image_name": "a"}], "num_steps_to_predict": 5}


@contextmanager
def program(*options):
    """The program on a free port: its process and its address."""
    command = [sys.executable, "-c", PROGRAM, "serve", "--cluster", "--port", "0", "--model", str(model_folder())]
    environment = {
        "PLAYLOOM_DEVICE": "cpu",
        "PLAYLOOM_MAX_STEPS": "10000",
        "PLAYLOOM_API_KEY": KEY,
        "PLAYLOOM_DRAIN_SECONDS": "30",
    }
    without = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen([*command, *options], env=without | environment, **pipes) as process:
        try:
            greeting = process.stdout.readline()
            assert "2 replicas on Ray" in greeting, greeting if greeting else process.stderr.read()
            assert "requests need the key" in greeting
            yield process, greeting.split("http://")[1].split()[0]
        finally:
            left = [psutil.Process(process.pid), *family(process)] if process.poll() is None else []
            for one in left:
                with suppress(psutil.NoSuchProcess):
                    one.kill()


def family(process):
    """All processes that it began, and those that these began."""
    return psutil.Process(process.pid).children(recursive=True)


def asked(home, path="/v1/health", **options):
    return httpx.get(f"http://{home}{path}", headers=OWN, timeout=30, **options)


def posted(home, path, body=None, **options):
    return httpx.post(f"http://{home}{path}", json=body, headers=OWN, timeout=60, **options)


def replicas_up(home, expected=2, seconds=STARTUP, besides=frozenset()):
    """Names of the replicas that answer, once there are so many."""
    end, seen = time.monotonic() + seconds, set()
    while len(seen - besides) < expected and time.monotonic() < end:
        seen.add(asked(home).headers["x-playloom-replica"])
        time.sleep(0.02)
    return seen - besides


def join(home, at=None, **hello):
    player = connect(
        f"ws://{home}/v1/play" + (f"?at={at}" if at else ""), proxy=None, ping_interval=None, close_timeout=1
    )
    player.send(json.dumps({"type": "hello", "key": KEY, **hello}))
    while (ready := json.loads(player.recv(timeout=30)))["type"] == "opening":
        pass
    assert ready["type"] == "ready", ready
    return player, ready["token"]


def last_words(player):
    """The error and the code a player is left with."""
    said = None
    try:
        while True:
            message = player.recv(timeout=15)
            if isinstance(message, str) and json.loads(message)["type"] == "error":
                said = json.loads(message)["message"]
    except ConnectionClosed as closed:
        return said, closed.rcvd.code if closed.rcvd else None


def sessions_and_jobs_stick(home, tags):
    """Each is known to one replica only; all of them are found, whoever asks at the same time."""
    with ThreadPoolExecutor(6) as pool:
        tokens = [answer.json()["token"] for answer in pool.map(lambda _: posted(home, "/v1/sessions", {}), range(6))]
        assert {replica_in(token) for token in tokens} == tags
        steps = list(pool.map(lambda token: posted(home, f"/v1/sessions/{token}/step", {}), tokens * 2))
        assert [answer.status_code for answer in steps] == [200] * 12
        assert [answer.headers["x-playloom-replica"] for answer in steps] == [replica_in(token) for token in tokens * 2]
        film = asked(home, f"/v1/sessions/{tokens[0]}/recording.csv")
        assert (film.status_code, len(film.text.splitlines())) == (200, 3)
        for token in tokens:
            assert httpx.delete(f"http://{home}/v1/sessions/{token}", headers=OWN, timeout=30).status_code == 204

        def a_job(_):
            files = {"a": picture()}
            form = {"data": {"json": json.dumps(ORDER)}, "files": files}
            return httpx.post(f"http://{home}/new_job", headers=OWN, timeout=30, **form).json()["job_ids"][0]

        jobs = list(pool.map(a_job, range(4)))
        results = list(pool.map(lambda job: wait_for_results(home, job), jobs))
    assert results == [list(range(ORDER["num_steps_to_predict"]))] * 4
    homes = {replica_in(job): job for job in jobs}
    if len(homes) == 2:
        refused = asked(home, "/get_job_results", params={"job_ids": list(homes.values())})
        assert (refused.status_code, "different replicas" in error_of(refused)) == (400, True)


def wait_for_results(home, job):
    """All steps of a job, as they come; what is left unread would be waited for at the end."""
    found = []
    for _ in range(600):
        answer = asked(home, "/get_job_results", params={"job_ids": job})
        if answer.status_code == 200:
            found += json.loads(zipfile.ZipFile(io.BytesIO(answer.content)).read("predictions.json"))
            if len(found) == ORDER["num_steps_to_predict"]:
                break
        else:
            assert answer.status_code == 204
            time.sleep(0.05)
    return [step["dream_step_index"] for step in found]


def a_player_goes_on(home, tags):
    """Whoever comes back with a token, and says whose it is, has the same session."""
    for _ in range(2):
        player, token = join(home)
        with player:
            while not isinstance(player.recv(timeout=20), bytes):
                pass
        player, again = join(home, at=replica_in(token), resume=token)
        with player:
            assert again == token
            while not isinstance(player.recv(timeout=20), bytes):
                pass
            player.send("no json")
            said, code = last_words(player)
        assert "json" in said.lower()
        assert code == 1008
    for tag in tags:
        found = asked(home, f"/metrics?at={tag}")
        assert found.headers["x-playloom-replica"] == tag
        assert "playloom_generated_frames_total" in found.text


def bad_input_gets_the_same_sentences(home):
    def too_much():
        for _ in range(100):
            yield b"x" * 2**20

    with suppress(httpx.TransportError):  # it may be cut off while it still sends
        answer = httpx.post(f"http://{home}/score", content=too_much(), headers=OWN, timeout=30)
        assert (answer.status_code, "larger than" in error_of(answer)) == (413, True)
    wrong = httpx.post(f"http://{home}/score", json=score_body(), headers={"Authorization": "Bearer no"}, timeout=30)
    assert (wrong.status_code, "Authorization: Bearer KEY" in error_of(wrong)) == (401, True)
    foreign = httpx.get(f"http://{home}/v1/models", headers={**OWN, "Origin": "https://a.example"}, timeout=30)
    assert (foreign.status_code, "other origins" in error_of(foreign)) == (403, True)
    nonsense = httpx.post(f"http://{home}/score", content=b"\xff{", headers=OWN, timeout=30)
    assert nonsense.status_code == 400
    assert error_of(nonsense)
    assert "no /nowhere here" in error_of(asked(home, "/nowhere"))
    with connect(f"ws://{home}/v1/play", proxy=None) as player:
        player.send('{"type": "hello", "key": "no"}')
        assert last_words(player)[1] == 1008
    with connect(f"ws://{home}/v1/play", proxy=None) as player:
        player.send('{"type": "goodbye"}')
        assert last_words(player)[1] == 1008


@dataclass
class Load:
    """Users who ask without a pause, and what each was answered."""

    home: str
    answers: list = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    threads: list = field(default_factory=list)

    def user(self, where, path, body):
        def ask():
            while not self.over.is_set():
                began = time.monotonic()
                answer = posted(self.home, path, body)
                self.answers.append((where, began, answer))
                if answer.status_code == 404:
                    return

        self.threads.append(threading.Thread(target=ask))
        self.threads[-1].start()

    def until_asked_after(self, moment):
        """Go on until some who may go anywhere have asked after a moment, and have an answer."""
        end = time.monotonic() + 60
        while sum(where is None and began > moment for where, began, _ in self.answers) < 3 and time.monotonic() < end:
            time.sleep(0.1)

    def end(self):
        self.over.set()
        for thread in self.threads:
            thread.join(60)


def one_is_killed_under_load(home, process, tags):
    """Requests that were not on it all succeed, those on it are told, and a new one takes its place."""
    load = Load(home)
    body = score_body(num_steps_to_predict=20)
    sessions = [posted(home, "/v1/sessions", {}, params={"at": tag}).json()["token"] for tag in sorted(tags) * 2]
    player, token = join(home)
    for token_of_one in sessions:
        load.user(replica_in(token_of_one), f"/v1/sessions/{token_of_one}/step", {})
    for tag in tags:
        load.user(tag, f"/score?at={tag}", body)
    for _ in range(3):
        load.user(None, "/score", body)
    time.sleep(1)
    victim = next(child for child in family(process) if "ServeReplica" in " ".join(child.cmdline()))
    victim.kill()
    killed = time.monotonic()
    load.until_asked_after(killed)
    load.end()
    new = replicas_up(home, expected=1, besides=tags)
    assert new, "a replica begins in its place"
    after = replicas_up(home)
    (dead,) = tags - after
    failed = [(where, began, answer) for where, began, answer in load.answers if answer.status_code != 200]
    for where, began, answer in failed:
        if answer.status_code == 404:
            assert where == dead, "its sessions are gone with it"
        else:
            assert where in (None, dead), "only what was on it"
            assert began <= killed, "whoever asked later was sent elsewhere"
            assert answer.status_code == 503
            assert int(answer.headers["retry-after"]) >= 1
            assert "is gone" in error_of(answer)
    alone = [answer for where, began, answer in load.answers if where not in (None, dead)]
    assert len(alone) > 3
    assert sum(where is None and began > killed for where, began, _ in load.answers) >= 3
    assert sum(answer.status_code == 503 for _, _, answer in failed) <= len(load.threads)
    with player:
        if replica_in(token) == dead:
            said, code = last_words(player)
            assert (code, "is gone" in said) == (1013, True)
            with join(home, at=dead, resume=token)[0]:
                pass  # begins anew, elsewhere
    return after


def it_ends_in_good_order(home, process):
    """New work is refused, what runs is finished, and no process stays behind."""
    began, finished = time.monotonic(), []
    posted(home, "/score", score_body(num_steps_to_predict=20)).raise_for_status()
    steps = max(20, int(40 / (time.monotonic() - began)))  # as many as take two seconds or so, alone
    player, _ = join(home)
    running = threading.Thread(
        target=lambda: finished.append(posted(home, "/score", score_body(num_steps_to_predict=steps)))
    )
    running.start()
    time.sleep(0.3)
    everybody = family(process)
    process.send_signal(signal.SIGTERM)
    while (refused := posted(home, "/score", score_body())).status_code == 200:
        time.sleep(0.1)
    assert refused.status_code == 503
    assert int(refused.headers["retry-after"]) >= 1
    assert "stopping" in error_of(refused)
    with player:
        said, code = last_words(player)
    assert (code, "stopping" in said) == (1013, True)
    running.join(60)
    assert finished[0].status_code == 200
    assert len(finished[0].json()["results"]) == steps
    assert process.wait(60) == 0
    assert psutil.wait_procs(everybody, timeout=10)[1] == [], "nothing is left running"
    assert process.stderr.read() == ""


@pytest.mark.slow
def test_two_replicas_on_one_machine():
    with program() as (process, home):
        tags = replicas_up(home)
        assert len(tags) == 2
        sessions_and_jobs_stick(home, tags)
        a_player_goes_on(home, tags)
        bad_input_gets_the_same_sentences(home)
        one_is_killed_under_load(home, process, tags)
        it_ends_in_good_order(home, process)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--host", "0.0.0.0"], "without a key"),
        (["--model", "no-such-model"], "neither a folder"),
        (["--replicas", "3", "--max-replicas", "2"], "do not fit together"),
    ],
)
def test_what_cannot_be_served_is_said_in_a_sentence(options, expected):
    command = [sys.executable, "-c", PROGRAM, "serve", "--cluster", "--port", "0", *options]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert ended.returncode == 2
    assert expected in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.slow
def test_a_cluster_that_cannot_begin_leaves_nothing_behind():
    """The start fails after Ray is up: one sentence, and no process stays."""
    mark = f"of the test in {os.getpid()}"
    command = [sys.executable, "-c", PROGRAM, "serve", "--cluster", "--port", "0", "--model", str(model_folder())]
    environment = os.environ | {"PLAYLOOM_DEVICE": "cpu", "PLAYLOOM_API_KEY": mark}
    ended = subprocess.run(
        [*command, "--replicas", "100000"],
        capture_output=True,
        text=True,
        timeout=STARTUP,
        check=False,
        env=environment,
    )
    assert ended.returncode == 2
    assert "not the processors" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    left = [found for found in psutil.process_iter() if mark in environment_of(found).get("PLAYLOOM_API_KEY", "")]
    assert psutil.wait_procs(left, timeout=10)[1] == []


def environment_of(process):
    try:
        return process.environ()
    except psutil.Error:
        return {}
