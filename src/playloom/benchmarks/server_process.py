"""A server of our own in a process of its own, for a load from outside: its address, its memory, its end."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from playloom.errors import PlayloomError

_PROGRAM = (sys.executable, "-c", "from playloom.cli.app import main; main()")
_ADDRESS = re.compile(r"http://([\w.\[\]:]+:\d+)")
_ROOMY = {"PLAYLOOM_MAX_REQUESTS": "16", "PLAYLOOM_MAX_SESSIONS": "32", "PLAYLOOM_RECONNECT_GRACE_SECONDS": "1"}
_PATIENCE = 60.0  # seconds until the server says where it is


@dataclass(frozen=True, kw_only=True)
class ServerProcess:
    """A running server."""

    address: str
    """Host and port."""
    process: psutil.Process
    """The process that holds the model."""

    def memory(self) -> int:
        """Bytes of main memory that the process and its children hold now."""
        family = [self.process, *self.process.children(recursive=True)]
        return sum(member.memory_info().rss for member in family)


@contextmanager
def server_process(model: str | None, threads: int) -> Iterator[ServerProcess]:
    """A server on a free port of this machine, stopped at the end.

    Raises:
        PlayloomError: when it does not start; carries what it said last.
    """
    ask = ["serve", "--port", "0", *(["--model", model] if model else [])]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1", **_ROOMY}
    child = subprocess.Popen(
        [*_PROGRAM, *ask], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )
    try:
        address = _address(child)
        yield ServerProcess(address=address, process=psutil.Process(child.pid))
    finally:
        child.terminate()
        try:
            child.communicate(timeout=15)
        except subprocess.TimeoutExpired:
            child.kill()
            child.communicate()


def _address(child: subprocess.Popen[str]) -> str:
    assert child.stdout is not None
    said: list[str] = []
    alarm = threading.Timer(_PATIENCE, child.kill)
    alarm.start()
    try:
        for line in child.stdout:
            said.append(line.strip())
            found = _ADDRESS.search(line)
            if found:
                return found[1]
    finally:
        alarm.cancel()
    raise PlayloomError(f"the server did not start: {said[-1] if said else 'it said nothing'}")
