"""Errors of the estimated clock on recordings with known offsets.

    python benchmarks/clock_offsets.py record recordings/car.mp4 --seconds 90   # needs gymnasium[box2d]
    python benchmarks/clock_offsets.py check recordings/car.mp4

`record` plays CarRacing with random keys, and writes a video at 25 pictures and a log at 50 rows per second. `check`
imports it with each of the offsets, and prints a Markdown table.
"""

from __future__ import annotations

import argparse
import csv
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.build import import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.media.video import write_mp4

OFFSETS = (-0.5, 0.0, 0.23, 1.0)


def record(video: Path, seconds: float) -> None:
    """Record random keys: each state of the keys lasts 0.1 to 0.8 s."""
    environment = gymnasium.make("CarRacing-v3", render_mode="rgb_array", max_episode_steps=10**9).unwrapped
    environment.reset(seed=3)
    random, rows, until = np.random.default_rng(3), [], 0.0

    def frames() -> Iterator[NDArray[np.uint8]]:
        nonlocal until
        for step in range(round(50 * seconds)):
            if step % 2 == 0:
                yield np.asarray(environment.render())
            if step / 50 >= until:
                until = step / 50 + random.uniform(0.1, 0.8)
                steer, gas = int(random.integers(-1, 2)), int(random.random() < 0.4)
            rows.append((step / 50, int(steer < 0), int(steer > 0), gas))
            environment.step(np.array([steer, 0.6 * gas, 0.0], np.float32))

    write_mp4(video, frames(), frames_per_second=25)
    with video.with_suffix(".csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([("time", "a", "d", "w"), *rows])


def check(video: Path) -> None:
    """Import the recording with each offset of its log, and print what was found."""
    print("| true offset | said | CPU seconds |\n|--:|---|--:|")
    header, *rows = csv.reader(video.with_suffix(".csv").open(encoding="utf-8"))
    for offset in OFFSETS:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(video, Path(folder) / "play.mp4")
            with (Path(folder) / "play.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([header, *((float(row[0]) - offset, *row[1:]) for row in rows)])
            options, before = ImportOptions(frame_size=(72, 120), estimate_clock=True), time.process_time()
            _, notes = import_recordings(folder, Path(folder) / "out", options)
            said = next(note for note in notes if "offset of the input" in note or "input is early" in note)
            print(f"| {offset:+.2f} | {said.partition(': ')[2]} | {time.process_time() - before:.0f} |", flush=True)


parser = argparse.ArgumentParser()
parser.add_argument("task", choices=("record", "check"))
parser.add_argument("video", type=Path)
parser.add_argument("--seconds", type=float, default=90)
arguments = parser.parse_args()
record(arguments.video, arguments.seconds) if arguments.task == "record" else check(arguments.video)
