"""Choice of the number of CPU threads, from the cost of each call and the number of free cores.

OpenMP threads meet at a barrier after each short operation: on free cores two are faster than one, but with one core
taken they need ten times as long. So more are tried as long as that helps, and given up when a call costs more.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch

from playloom.device import usable_cores

log = logging.getLogger("playloom")

USER_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OMP_WAIT_POLICY")
"""Environment variables by which a user chooses threads; where one is set, nothing is adapted."""

_SLOW = 3.0  # a call is slow if it takes this many times the processor time it needs
_SLOW_CALLS = 5  # in a row, before a warning
_SLOW_SECONDS = 0.05  # shorter calls are never reported
_GAIN = 0.97  # more threads must cost less than this share of fewer
_STARVED = 0.7  # below this share of the processor, threads wait for cores
_SPARE = 0.4  # cores that other programs may use when more threads are tried
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 60.0  # seconds until more threads are tried again


@dataclass(kw_only=True)
class _CallStatistics:
    threads: int = 1
    cost: dict[int, float] = field(default_factory=dict)  # moving average of wall time by number of threads
    calls: int = 0  # calls since the number of threads changed
    slow: int = 0  # calls in a row that cost far more than fewer threads do
    retry_at: float = 0.0
    pause: float = _FIRST_PAUSE

    def use(self, threads: int) -> None:
        self.threads, self.calls, self.slow = threads, 0, 0
        self.cost.pop(threads, None)  # an old figure may be of a time of other load


class ThreadTuner:
    """Sets the number of threads of every call, and restores it after; results do not depend on the number."""

    def __init__(self, device: torch.device, *, most: int | None = None) -> None:
        """Start; `most` is the largest number of threads (None: torch's own, at most the usable cores)."""
        self.most = most or min(torch.get_num_threads(), usable_cores())
        chosen = any(os.environ.get(name) for name in USER_VARIABLES)
        self.adapt = device.type == "cpu" and self.most > 1 and not chosen
        self._watch = device.type == "cpu"
        self._kinds: dict[Hashable, _CallStatistics] = {}
        self._cores = _FreeCores()
        self._slow_calls = 0
        self._warned = False

    @contextmanager
    def call(self, kind: Hashable) -> Iterator[None]:
        """Run the body with the number of threads that is best for this kind of call."""
        if not self._watch:
            yield
            return
        before = torch.get_num_threads()
        statistics = self._kinds.get(kind)
        if statistics is None:
            statistics = self._kinds[kind] = _CallStatistics(threads=self._first() if self.adapt else before)
        if self.adapt:
            self._try_more(statistics)
            if statistics.threads != before:
                torch.set_num_threads(statistics.threads)
        started, cpu = time.perf_counter(), time.process_time()
        try:
            yield
        finally:
            seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)
        if self.adapt:
            self._record(statistics, seconds, cpu)
        self._watch_speed(statistics, seconds, cpu)

    def _first(self) -> int:
        free = self._cores.free()
        return 2 if (self._cores.by_load if free is None else free) >= 2 - _SPARE else 1

    def _try_more(self, statistics: _CallStatistics) -> None:
        if statistics.threads > 1 and len(statistics.cost) == 1 and statistics.calls >= 10:
            statistics.use(1)  # one call, to measure its cost
            return
        threads = statistics.threads
        if threads >= self.most or statistics.calls < 1 or time.monotonic() < statistics.retry_at:
            return
        more, free = min(2 * threads, self.most), self._cores.free()
        if free is not None and free >= more - _SPARE:
            statistics.use(more)

    def _record(self, statistics: _CallStatistics, seconds: float, cpu: float) -> None:
        threads, cost = statistics.threads, statistics.cost
        statistics.calls += 1
        usual = cost.get(threads, seconds)
        # The first call with more threads starts them, which costs once.
        cost[threads] = min(usual, seconds) if statistics.calls <= 3 else usual + 0.3 * (seconds - usual)
        fewer = max((t for t in cost if t < threads), default=None)
        less = usual if fewer is None else cost[fewer]  # unknown if it began with two threads
        starved = fewer is None and threads > 1 and cpu < _STARVED * seconds * threads
        statistics.slow = statistics.slow + 1 if threads > 1 and (starved or seconds > 1.5 * less) else 0
        slow = statistics.slow >= 2 or (statistics.slow == 1 and seconds > 3 * less)
        no_gain = fewer is not None and statistics.calls >= 3 and cost[threads] > _GAIN * cost[fewer]
        if slow or no_gain:
            statistics.pause = min(2 * statistics.pause, _LONGEST_PAUSE) if statistics.calls <= 5 else _FIRST_PAUSE
            statistics.retry_at = time.monotonic() + statistics.pause
            statistics.use(1 if slow or fewer is None else fewer)

    def _watch_speed(self, statistics: _CallStatistics, seconds: float, cpu: float) -> None:
        """Warn once when the threads of several calls in a row got a third of the processor time they could use."""
        starved = seconds > _SLOW_SECONDS and cpu * _SLOW < seconds * statistics.threads
        self._slow_calls = self._slow_calls + 1 if starved else 0
        if self._slow_calls < _SLOW_CALLS or self._warned:
            return
        self._warned = True
        advice = "close them" if statistics.threads == 1 else "close them, or take fewer threads (--threads 1)"
        log.warning(
            "frames take more than %.0f times as long as they should: the processor is busy with other programs; %s",
            _SLOW,
            advice,
        )


class _FreeCores:
    def __init__(self) -> None:
        self._at, self._seconds = time.monotonic(), _idle_seconds() + time.process_time()
        self._cores: float | None = None
        load = _load_average()
        self.by_load = 0.0 if load is None else usable_cores() - load
        """Free cores by the load of the last minute; 0 if the system has no such figure."""

    def free(self) -> float | None:
        """Mean number of cores that were idle or used by this process, over the last 0.1 s or more; None at first."""
        now = time.monotonic()
        if now - self._at >= 0.1:
            seconds = _idle_seconds() + time.process_time()
            self._cores = (seconds - self._seconds) / (now - self._at)
            self._at, self._seconds = now, seconds
        return self._cores


def _load_average() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None  # absent on Windows


def _idle_seconds() -> float:
    times = psutil.cpu_times(percpu=True)
    affinity = getattr(psutil.Process(), "cpu_affinity", None)  # absent on macOS
    mine = affinity() if affinity else range(len(times))
    return sum(times[cpu].idle for cpu in mine if cpu < len(times))
