"""How long the program takes to start: fresh processes, timed from outside.

Knows the command line only by its name; every run is a process of its own, as a user's is.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from playloom.benchmarks.rows import Bar, BenchRow
from playloom.errors import PlayloomError

_PROGRAM = (sys.executable, "-c", "from playloom.cli.app import main; main()")
DREAM_BAR = Bar(most=6.0)
"""Seconds from the call to the first dreamed frame."""
HELP_BAR = Bar(most=0.5)
"""Seconds to `playloom --help`."""


def start_rows(model: Path, threads: int, repeats: int) -> list[BenchRow]:
    """The rows of the program's start, medians of `repeats` after one run that warms the disk."""
    with tempfile.TemporaryDirectory() as folder:
        ask = ["dream", "--steps", "1", "--device", "cpu", "--model", str(model), "--out", f"{folder}/dream"]
        dream = [run_seconds(ask, threads) for _ in range(repeats + 1)][1:]
    asked = [run_seconds(["--help"], threads) for _ in range(repeats + 1)][1:]
    return [
        BenchRow(
            case="start",
            name="playloom dream --steps 1, warm disk, to its end",
            value=statistics.median(dream),
            unit="s",
            bar=DREAM_BAR,
            note="a fresh process, imports and writing all files included: more than the time to the first frame",
            detail={"seconds": dream},
        ),
        BenchRow(
            case="start",
            name="playloom --help",
            value=statistics.median(asked),
            unit="s",
            bar=HELP_BAR,
            detail={"seconds": asked},
        ),
    ]


def run_seconds(arguments: Sequence[str], threads: int, environment: Mapping[str, str] | None = None) -> float:
    """Seconds one run of the program takes in a fresh process.

    Raises:
        PlayloomError: when it fails; carries the last line it wrote.
    """
    variables = {**os.environ, "OMP_NUM_THREADS": str(threads), **(environment or {})}
    started = time.perf_counter()
    done = subprocess.run([*_PROGRAM, *arguments], env=variables, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode:
        last = (done.stderr.strip() or "nothing").splitlines()[-1]
        raise PlayloomError(f"playloom {arguments[0]} failed in a fresh process (code {done.returncode}): {last}")
    return seconds
