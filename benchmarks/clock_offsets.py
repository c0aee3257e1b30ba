"""Errors of the estimated clock on a recording with known offsets: `python benchmarks/clock_offsets.py play.mp4`.

Imports the recording with each of the offsets, and prints a Markdown table.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
import time
from pathlib import Path

from playloom.data.importing.build import import_recordings
from playloom.data.importing.recordings import ImportOptions

OFFSETS = (-0.5, 0.0, 0.23, 1.0)


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


check(Path(sys.argv[1]))
