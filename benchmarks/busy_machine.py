"""Speed on an idle and on a busy machine, of this checkout and of another one in turns.

    python benchmarks/busy_machine.py --other ../old-checkout --tokens runs/world/tokens --out busy.json

Each figure is a median over the turns: frames per second of `playloom dream`, seconds until a live session is ready
and frames per second of its player, and frames per second of `playloom train world`. A busy process computes without
pause on any core. Nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from websockets.sync.client import connect

from playloom.device import machine, pick_device

_BUSY = "while True: sum(range(10000))"
_LIMIT = 90  # seconds of one command


def main() -> None:
    """Measure, print one line for each figure, and write them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", type=Path, help="Root of the checkout to compare with.")
    parser.add_argument("--tokens", type=Path, help="A token store to train on; without it training is left out.")
    parser.add_argument("--turns", type=int, default=3, help="How often each is measured.")
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 1, 2], help="Busy processes beside it.")
    parser.add_argument("--only", nargs="+", default=["dream", "live", "train"], help="What is measured.")
    parser.add_argument("--out", type=Path, default=Path("busy_machine.json"))
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    checkouts = {"this": here} | ({"other": options.other.resolve()} if options.other else {})
    measures = {"dream": _dream, "live": _live} | ({"train": _train} if options.tokens else {})
    rows = []
    for busy in options.busy:
        for name in [name for name in options.only if name in measures]:
            found: dict[str, list[dict[str, float]]] = {checkout: [] for checkout in checkouts}
            for _ in range(options.turns):
                for checkout, root in checkouts.items():
                    with _busy(busy), tempfile.TemporaryDirectory() as folder:
                        found[checkout].append(measures[name](root, Path(folder), options.tokens))
                    print(busy, name, checkout, found[checkout][-1], flush=True)
            for checkout, values in found.items():
                medians = {key: round(statistics.median(value[key] for value in values), 3) for key in values[0]}
                rows.append({"busy": busy, "measure": name, "checkout": checkout, "median": medians, "values": values})
                print("median", busy, name, checkout, medians, flush=True)
    report = {"machine": machine(pick_device("cpu")), "date": time.strftime("%Y-%m-%d %H:%M"), "rows": rows}
    options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@contextmanager
def _busy(processes: int) -> Iterator[None]:
    running = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(processes)]
    try:
        yield
    finally:
        for process in running:
            process.kill()


def _environment(root: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "MKL_"))}
    return {**kept, "PYTHONPATH": str(root / "src"), "PYTHONUNBUFFERED": "1"}


def _run(root: Path, *words: str | Path) -> str:
    command = [sys.executable, "-m", "playloom", *map(str, words)]
    try:
        done = subprocess.run(command, env=_environment(root), capture_output=True, text=True, timeout=_LIMIT)
    except subprocess.TimeoutExpired:
        return ""
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return done.stdout


def _dream(root: Path, folder: Path, tokens: Path | None) -> dict[str, float]:
    held = "right_stick_x=1 for 50"
    said = _run(root, "dream", "--prompt", "plaza-explorer", "--actions", held, "--out", folder / "dream")
    found = re.search(r"([\d.]+) s, [\d.]+ frames", said)
    return {"frames_per_second": 50 / float(found[1]) if found else 0.0}


def _train(root: Path, folder: Path, tokens: Path | None) -> dict[str, float]:
    assert tokens is not None
    config = folder / "every_step.json"
    config.write_text('{"loop": {"log_steps": 1}}', encoding="utf-8")
    how: list[str | Path] = ["--data", tokens.resolve(), "--config", config]
    how += ["--steps", "5", "--batch", "2", "--alignment", "off"]
    started = time.perf_counter()
    _run(root, "train", "world", "--start", "arena-live", *how, "--out", folder / "run")
    log = folder / "run" / "log.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []
    elapsed = [line["elapsed"] for line in lines if "frames/s" in line]
    if len(elapsed) < 3:  # stopped at the limit: at most what was begun
        return {"updates_per_second": len(elapsed) / (time.perf_counter() - started)}
    return {"updates_per_second": (len(elapsed) - 1) / (elapsed[-1] - elapsed[0])}


def _live(root: Path, folder: Path, tokens: Path | None) -> dict[str, float]:
    command = [sys.executable, "-m", "playloom", "serve", "--port", "0", "--stories", str(folder / "stories")]
    server = subprocess.Popen(
        command, env=_environment(root), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        assert server.stdout is not None
        address = ""
        while not address:
            found = re.search(r"http://([\w.:]+)", server.stdout.readline())
            address = found[1] if found else ""
        with connect(f"ws://{address}/v1/play", proxy=None, max_size=None) as socket:
            started = time.perf_counter()
            socket.send(json.dumps({"type": "hello", "seed": 0}))
            while json.loads(socket.recv(120))["type"] != "ready":
                pass
            ready, frames = time.perf_counter() - started, 0
            action = np.zeros(16, "<f4").tobytes()
            while (left := started + ready + 10 - time.perf_counter()) > 0:
                socket.send(action)
                try:
                    frames += isinstance(socket.recv(min(0.1, left)), bytes)
                except TimeoutError:
                    continue
        return {"seconds_to_ready": ready, "frames_per_second": frames / 10}
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


if __name__ == "__main__":
    main()
