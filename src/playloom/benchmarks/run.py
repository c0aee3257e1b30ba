"""One benchmark run: the wanted cases in turn, one report.

report = bench(BenchSettings(quick=True))
print(report.text())
"""

from __future__ import annotations

from typing import Any

import torch

from playloom.benchmarks.about import about
from playloom.benchmarks.attempt import Found
from playloom.benchmarks.bundled import bundled_rows
from playloom.benchmarks.rows import BenchReport, BenchRow, speed_table
from playloom.benchmarks.settings import BUNDLED_CASES, GPU_PRESETS, SHAPE_CASES, BenchSettings
from playloom.benchmarks.shapes import shape_rows
from playloom.benchmarks.stream import Tick

NO_GPU = "The rows of the sizes {} are skipped: there is no GPU here, or --device cpu was asked for."
"""Said where nothing is measured on a GPU."""


def bench(settings: BenchSettings, tick: Tick = lambda _: None, found: Found = lambda _: None) -> BenchReport:
    """Measure speed. A case that fails gives a row that says why; the others go on.

    Args:
        settings: what and how much.
        tick: told what is being measured.
        found: told every row as it comes.

    Raises:
        ConfigError: when a device is not there.
        CheckpointError: when the model cannot be loaded.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    shape_device = settings.shape_device
    rows: list[BenchRow] = []
    more: dict[str, Any] = {}
    rates: dict[str, Any] = {}
    notes: list[str] = []
    if settings.bundled and any(map(settings.wants, BUNDLED_CASES)):
        rows, rates["cpu"], more = bundled_rows(settings, tick, found)
    if any(map(settings.wants, SHAPE_CASES)):
        if shape_device is None:
            notes.append(NO_GPU.format(" and ".join(GPU_PRESETS)))
        else:
            more_rows, rates[shape_device.type] = shape_rows(settings, shape_device, tick, found)
            rows = [*rows, *more_rows]
    device = shape_device or torch.device("cpu")
    dtypes = {name: str(settings.dtype_on(torch.device(name))).removeprefix("torch.") for name in rates}
    more |= {"dtype": dtypes, "rates": {name: known for name, known in rates.items() if known}}
    run = about(settings, device, **more)
    return BenchReport(kind="speed", rows=rows, table=speed_table(rows), run=run, notes=tuple(notes))
