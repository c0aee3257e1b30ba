"""Speed of an import beside that of the decoder: `python benchmarks/import_speed.py play.mp4`.

Enlarges the video to 1080p at 60 pictures per second, H.264 by x264 `veryfast`. Then it decodes all of its pictures
with one thread, only those that an import needs, and imports it, five times in turns. Prints the least processor time.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from playloom.data.importing.build import import_recordings
from playloom.data.importing.files import video_pictures, video_times
from playloom.data.importing.recordings import ImportOptions
from playloom.data.importing.resample import find_runs, step_times

TURNS, RATE = 5, 60


def enlarge(source: Path, target: Path) -> None:
    """Write a larger copy of a video, with a log of no input."""
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream("libx264", rate=RATE, options={"preset": "veryfast", "crf": "20", "threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 1920, 1080, "yuv420p"
        for number, frame in enumerate(old.decode(video=0)):
            large = frame.reformat(1920, 1080, "yuv420p", interpolation="BICUBIC")
            large.pts, large.time_base = number, Fraction(1, RATE)
            new.mux(stream.encode(large))
        new.mux(stream.encode())
    target.with_suffix(".csv").write_text("time_s,key,down\n0,w,1\n9,w,0\n", encoding="utf-8")


def decode_all(video: Path) -> None:
    """Decode every picture, without converting it."""
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        for _ in container.decode(stream):
            pass


def compare(source: Path) -> None:
    """Print a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        video = Path(folder) / "in" / "large.mp4"
        video.parent.mkdir()
        enlarge(source, video)
        times_F = video_times(video)
        steps_T = step_times(find_runs(times_F))
        wanted_F = times_F[np.searchsorted(times_F, steps_T + 1e-3, side="right") - 1]
        options = ImportOptions(frame_size=(180, 300))
        ways: dict[str, Callable[[int], object]] = {
            "decoder, all pictures": lambda turn: decode_all(video),
            "decoder, needed pictures": lambda turn: [time for time, _ in video_pictures(video, wanted_F=wanted_F)],
            "import": lambda turn: import_recordings(video.parent, Path(folder) / str(turn), options),
        }
        best = dict.fromkeys(ways, float("inf"))
        for turn in range(TURNS):
            for name, way in ways.items():
                before = time.process_time()
                way(turn)
                best[name] = min(best[name], time.process_time() - before)
        print("| | CPU seconds | x real time |\n|---|--:|--:|")
        for name, seconds in best.items():
            print(f"| {name} | {seconds:.2f} | {float(times_F[-1]) / seconds:.1f} |")


compare(Path(sys.argv[1]))
