"""Load on a server in a process of its own: users of `/score`, live players, memory.

    python benchmarks/bench_server.py --model arena-live --out server.json

Load and server share the machine and talk over loopback; the load is small beside the model's work.
"""

from __future__ import annotations

import base64
import json
import math
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from websockets.sync.client import connect

from _harness import Row, Target, options, parse, progress, report, run, run_case, table
from playloom.actions.codec import REST_VALUES
from playloom.actions.controller import CONTROLS
from playloom.client import Endpoint
from playloom.data.prompts import find_prompt, list_prompts, load_prompt_file
from playloom.errors import PlayloomError
from playloom.media.images import encode_png
from playloom.server.sessions import HEADER

SETTINGS = {"max_requests": 16, "max_sessions": 32, "reconnect_grace_seconds": 1}
"""Settings of the server: enough room for the largest load."""
_TURN = [control.name for control in CONTROLS].index("right_stick_x")
_MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Load:
    """Sizes of the load."""

    users: tuple[int, ...] = (1, 4, 8, 16)
    """Concurrent users of `/score`."""
    requests: int = 100
    """Requests of each such group."""
    players: tuple[int, ...] = (1, 2, 4, 8)
    """Concurrent live players."""
    seconds: float = 20.0
    """Time that each such group plays."""
    memory: tuple[int, int] = (100, 1000)
    """Requests after which the memory is read."""
    context: int = 10
    """Pictures in a request."""
    held: int = 8
    """Live sessions over which the memory of one is averaged."""


QUICK = Load(requests=8, seconds=4.0, memory=(10, 30))


# -- The server ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A running server."""

    address: str
    """Host and port."""
    process: psutil.Process

    def memory(self) -> int:
        """Return the resident bytes of the process and its children."""
        return sum(each.memory_info().rss for each in (self.process, *self.process.children(recursive=True)))


@contextmanager
def server_process(model: str | None, settings: Mapping[str, int]) -> Iterator[ServerProcess]:
    """Run a server on a free port; raises PlayloomError with its last line where it does not start in a minute."""
    command = [sys.executable, "-m", "playloom", "serve", "--port", "0", *(["--model", model] if model else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads()), "PYTHONUNBUFFERED": "1"}
    environment |= {f"PLAYLOOM_{name.upper()}": str(value) for name, value in settings.items()}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment)
    try:
        yield ServerProcess(address=_address(child), process=psutil.Process(child.pid))
    finally:
        child.terminate()
        try:
            child.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def _address(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    line, alarm = "it printed nothing", threading.Timer(60.0, child.kill)
    alarm.start()
    try:
        for line in child.stdout:
            if found := re.search(r"http://([\w.\[\]:]+:\d+)", line):
                return found[1]
    finally:
        alarm.cancel()
    raise PlayloomError(f"the server did not start: {line.strip()}")


def together(number: int, work: Callable[[int], None]) -> None:
    """Run `work(index)` in threads of their own and raise the first error."""
    failures: list[BaseException] = []

    def guarded(index: int) -> None:
        try:
            work(index)
        except BaseException as error:  # raised in the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=guarded, args=(index,)) for index in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


# -- /score ----------------------------------------------------------------------------------------------------------


def score_request(context: int) -> dict[str, Any]:
    """A request of a client in the middle of its dream: `context` pictures, one step wanted."""
    clip = load_prompt_file(find_prompt(list_prompts()[0]))
    actions = [*clip.actions_TA[: context - 1], REST_VALUES]
    entries = [
        {"image": base64.b64encode(encode_png(frame)).decode(), "actions": action.tolist(), "tokens": []}
        for frame, action in zip(clip.frames_THWC[:context], actions, strict=True)
    ]
    return {"input_data": {"num_steps_to_predict": 1, "context": entries}}


def send_requests(address: str, request: Mapping[str, Any], *, users: int, each: int) -> tuple[list[float], float]:
    """Let every user send `each` requests in turn; return the seconds of every request, and of all together."""
    seconds: list[float] = []

    def ask(_: int) -> None:
        with Endpoint(f"http://{address}/score", timeout=120, retries=0) as endpoint:
            for _ in range(each):
                started = time.perf_counter()
                assert json.loads(endpoint.send(request))["results"]
                seconds.append(time.perf_counter() - started)

    started = time.perf_counter()
    together(users, ask)
    return seconds, time.perf_counter() - started


def score_rows(server: ServerProcess, request: Mapping[str, Any], users: int, each: int, alone: float) -> list[Row]:
    """Throughput and latency of one group of users; `alone` is the rate of one user, NaN where it is unknown."""
    seconds, lasted = send_requests(server.address, request, users=users, each=each)
    p50, p95, p99 = (float(np.percentile(seconds, q)) for q in (50, 95, 99))
    case, detail = f"score {users}", {"seconds": seconds, "lasted": lasted}
    fair = Target(most=3.0) if users == 8 else None
    steady = Target(least=alone) if users == 8 and math.isfinite(alone) else None
    return [
        Row(case, "requests per second, all users", len(seconds) / lasted, "/s", target=steady),
        Row(case, "time of a request, p50", p50, "s", detail=detail),
        Row(case, "time of a request, p95", p95, "s"),
        Row(case, "time of a request, p99", p99, "s"),
        Row(case, "p99 over p50", p99 / p50, "x", target=fair),
    ]


# -- Live players ----------------------------------------------------------------------------------------------------


@dataclass
class Played:
    """Counts of one live player."""

    rate: float = 0.0
    """Frames per second."""
    key_to_frame: list[float] = field(default_factory=list)
    """Seconds from an input to its frame, by the server's clock."""
    memory: int = 0
    """Resident bytes of the server while all players were connected; of the first player only."""


def play(server: ServerProcess, players: int, seconds: float) -> list[Played]:
    """Let players change their input ten times per second, and count after two seconds of warm-up.

    Raises:
        PlayloomError: when the server refuses a player.
    """
    results = [Played() for _ in range(players)]
    barrier = threading.Barrier(players)

    def one(number: int) -> None:
        try:
            _play(server, number, seconds, results[number], barrier)
        except BaseException:
            barrier.abort()
            raise

    together(players, one)
    return results


def _play(server: ServerProcess, number: int, seconds: float, result: Played, barrier: threading.Barrier) -> None:
    with connect(f"ws://{server.address}/v1/play", proxy=None) as socket:
        socket.send(json.dumps({"type": "hello", "seed": number}))
        ready = json.loads(socket.recv(30))
        while ready.get("type") == "opening":
            ready = json.loads(socket.recv(30))
        if ready.get("type") != "ready":
            raise PlayloomError(f"the server refused a player: {ready.get('message', ready)}")
        source, frames, pressed = np.random.default_rng(number), 0, 0.0
        begin = time.perf_counter() + 2.0
        while (now := time.perf_counter()) < begin + seconds:
            if now >= pressed + 0.1:
                pressed = now + source.uniform(-0.02, 0.02)
                stick = np.zeros(len(CONTROLS), "<f4")
                stick[_TURN] = source.uniform(-1, 1)
                socket.send(stick.tobytes())
            try:
                message = socket.recv(0.02)
            except TimeoutError:
                continue
            if isinstance(message, bytes) and now >= begin:
                delay = HEADER.unpack_from(message)[4]
                frames += 1
                result.key_to_frame += [] if math.isnan(delay) else [delay]
        result.rate = frames / seconds
        barrier.wait(30)
        result.memory = server.memory() if number == 0 else 0
        barrier.wait(30)


def live_rows(server: ServerProcess, players: int, seconds: float) -> list[Row]:
    """Frame rate and latency of one group of players."""
    played, case = play(server, players, seconds), f"live {players}"
    rows = [Row(case, "frames per second, the slowest player", min(each.rate for each in played), "frames/s")]
    delays = [1e3 * delay for each in played for delay in each.key_to_frame]
    for q in (50, 95) if delays else ():
        rows.append(Row(case, f"key to frame, p{q}, server's clock", float(np.percentile(delays, q)), "ms"))
    return rows


def memory_rows(server: ServerProcess, load: Load) -> list[Row]:
    """Memory after few and after many requests of one picture, and of live sessions."""
    few, many = load.memory
    request = score_request(1)
    send_requests(server.address, request, users=4, each=few // 4)
    before = server.memory()
    send_requests(server.address, request, users=4, each=(many - few) // 4)
    after = server.memory()
    quiet = statistics.median(server.memory() for _ in range(3))
    each = (max(played.memory for played in play(server, load.held, 2)) - quiet) / load.held
    return [
        Row("memory", f"after {few} requests", before / _MIB, "MiB"),
        Row("memory", f"after {many} requests", after / _MIB, "MiB"),
        Row("memory", "growth", (after - before) / before, "", target=Target(most=0.1)),
        Row("memory", f"of a live session, average of {load.held}", each / _MIB, "MiB"),
    ]


def measure(model: str | None, load: Load, settings: Mapping[str, int] = SETTINGS) -> list[Row]:
    """Run a server under the whole load."""
    rows: list[Row] = []
    with server_process(model, settings) as server:
        request, alone = score_request(load.context), math.nan
        progress("warm-up")
        send_requests(server.address, request, users=1, each=3)
        for users in load.users:
            each = max(3, load.requests // users)
            work = partial(score_rows, server, request, users, each, alone)
            rows += (found := run_case(f"score {users}", "requests", "/s", work))
            alone = found[0].value or math.nan if users == 1 else alone
        for players in load.players:
            work = partial(live_rows, server, players, load.seconds)
            rows += run_case(f"live {players}", "players", "frames/s", work)
        return rows + run_case("memory", "after requests", "MiB", partial(memory_rows, server, load))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure a server and print one table."""
    given = parse(options(__doc__, "model"), arguments)
    rows = measure(given.model, QUICK if given.quick else Load())
    report(given, [row.to_json() for row in rows], table(rows), torch.device("cpu"))


if __name__ == "__main__":
    run(main)
