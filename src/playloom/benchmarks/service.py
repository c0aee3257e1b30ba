"""How many users one server carries: requests of `/score` from several at once, and live sessions at their clock.

The server is a process of its own and is spoken to over loopback, by our own client and over WebSockets. Load and
server share the machine; the load is small beside the model's work.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import statistics
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from playloom.actions.codec import REST_VALUES
from playloom.benchmarks.about import about
from playloom.benchmarks.attempt import rows_or_why
from playloom.benchmarks.live_load import PlayedLive, play_together
from playloom.benchmarks.rows import Bar, BenchReport, BenchRow, speed_table
from playloom.benchmarks.server_process import ServerProcess, server_process
from playloom.benchmarks.settings import BenchSettings
from playloom.benchmarks.stream import Tick
from playloom.client.client import Endpoint, Retries
from playloom.data.prompts import find_prompt, list_prompts, load_bundled_prompt
from playloom.errors import BadInputError
from playloom.media.images import encode_png


@dataclass(frozen=True, kw_only=True)
class Load:
    """How much is asked of the server."""

    users: tuple[int, ...] = (1, 4, 8, 16)
    """How many ask `/score` at once."""
    requests: int = 100
    """Requests of each such group."""
    players: tuple[int, ...] = (1, 2, 4, 8)
    """How many play live at once."""
    seconds: float = 20.0
    """How long each such group plays."""
    memory: tuple[int, int] = (100, 1000)
    """Requests after which the memory is read."""
    context: int = 10
    """Pictures a request brings."""
    held: int = 8
    """Live sessions over which the memory of one is taken."""

    def quick(self) -> Load:
        """A rough look in a tenth of the time."""
        return dataclasses.replace(self, requests=8, seconds=4.0, memory=(10, 30))


_MIB = 2**20


def service(settings: BenchSettings, load: Load | None = None, tick: Tick = lambda _: None) -> BenchReport:
    """Measure a server. A group that fails gives a row that says why; the others go on.

    Args:
        settings: the model, threads, and whether it is a short look.
        load: how much is asked; None: the whole of it, or a short look's.
        tick: told what is being measured.

    Raises:
        PlayloomError: when the server does not start.
    """
    threads = settings.threads or torch.get_num_threads()
    load = load or (Load().quick() if settings.quick else Load())
    rows: list[BenchRow] = []
    with server_process(settings.model, threads) as server:
        request = _request(load.context)
        tick("warming up")
        _ask(server, request, users=1, each=3)
        rates: dict[int, float] = {}
        for users in load.users:
            tick(f"/score, {users} users")
            ask = partial(_ask, server, request, users=users, each=max(3, load.requests // users))
            rows += rows_or_why(f"score {users}", "requests", "/s", partial(_score_rows, users, ask, rates))
        for players in load.players:
            tick(f"live, {players} players")
            play = partial(play_together, server.address, players, seconds=load.seconds)
            rows += rows_or_why(f"live {players}", "players", "frames/s", partial(_live_rows, play))
        tick("memory")
        rows += rows_or_why("memory", "after requests", "MiB", partial(_memory_rows, server, load))
    return BenchReport(
        kind="service", rows=rows, table=speed_table(rows), run=about(settings, torch.device("cpu")), notes=()
    )


def _request(context: int) -> dict[str, Any]:
    """A request as a client in the middle of its dream sends it: a full context, one step asked for."""
    moments = list_prompts()
    if not moments:
        raise BadInputError("this installation bundles no moment to ask the server about")
    moment = load_bundled_prompt(find_prompt(moments[0]))
    entries = [
        {"image": base64.b64encode(encode_png(frame)).decode(), "actions": action.tolist(), "tokens": []}
        for frame, action in zip(
            moment.frames_THWC[:context], [*moment.actions_TA[: context - 1], REST_VALUES], strict=True
        )
    ]
    return {"input_data": {"num_steps_to_predict": 1, "context": entries}}


def _ask(server: ServerProcess, request: Mapping[str, Any], *, users: int, each: int) -> tuple[list[float], float]:
    """Every user asks `each` times, one request after the other; seconds of every request, and of all of it."""
    seconds: list[float] = []
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            with Endpoint(f"http://{server.address}/score", timeout=120, retries=Retries(times=0)) as endpoint:
                for _ in range(each):
                    started = time.perf_counter()
                    assert json.loads(endpoint.send(request))["results"]
                    seconds.append(time.perf_counter() - started)
        except BaseException as error:  # told to the caller below
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(users)]
    started = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    return seconds, time.perf_counter() - started


def _score_rows(users: int, ask: Callable[[], tuple[list[float], float]], rates: dict[int, float]) -> list[BenchRow]:
    """One group of users, whose requests a second are kept in `rates`."""
    seconds, lasted = ask()
    rates[users] = len(seconds) / lasted
    p50, p95, p99 = (float(np.percentile(seconds, q)) for q in (50, 95, 99))
    case, detail = f"score {users}", {"seconds": seconds, "lasted": lasted}
    fair = Bar(most=3.0) if users == 8 else None
    steady = Bar(least=rates[1]) if users == 8 and 1 in rates else None
    return [
        BenchRow(case=case, name="requests a second, all users", value=rates[users], unit="/s", bar=steady),
        BenchRow(case=case, name="time of a request, p50", value=p50, unit="s", detail=detail),
        BenchRow(case=case, name="time of a request, p95", value=p95, unit="s"),
        BenchRow(case=case, name="time of a request, p99", value=p99, unit="s"),
        BenchRow(case=case, name="p99 over p50", value=p99 / p50, unit="x", bar=fair),
    ]


def _live_rows(play: Callable[[], Sequence[PlayedLive]]) -> list[BenchRow]:
    """One group of players."""
    played = play()
    case = f"live {len(played)}"
    slowest = min(one.frames_per_second for one in played)
    delays = [delay for one in played for delay in one.key_to_frame]
    rows = [BenchRow(case=case, name="frames a second, the slowest player", value=slowest, unit="frames/s")]
    if delays:
        p50, p95 = (1e3 * float(np.percentile(delays, q)) for q in (50, 95))
        rows += [
            BenchRow(case=case, name="key to frame, p50, by the server's clock", value=p50, unit="ms"),
            BenchRow(case=case, name="key to frame, p95, by the server's clock", value=p95, unit="ms"),
        ]
    return rows


def _memory_rows(server: ServerProcess, load: Load) -> list[BenchRow]:
    """Memory after few and after many requests, of one picture each to get through them; and of live sessions."""
    few, many = load.memory
    request = _request(1)
    _ask(server, request, users=4, each=few // 4)
    before = server.memory()
    _ask(server, request, users=4, each=(many - few) // 4)
    after = server.memory()
    quiet = statistics.median(server.memory() for _ in range(3))
    held = play_together(server.address, load.held, seconds=2, memory=server.memory)
    each = (max(one.memory for one in held) - quiet) / load.held
    return [
        BenchRow(case="memory", name=f"after {few} requests", value=before / _MIB, unit="MiB"),
        BenchRow(case="memory", name=f"after {many} requests", value=after / _MIB, unit="MiB"),
        BenchRow(case="memory", name="grown by", value=(after - before) / before, unit="", bar=Bar(most=0.1)),
        BenchRow(case="memory", name=f"of a live session, of {load.held}", value=each / _MIB, unit="MiB"),
    ]
