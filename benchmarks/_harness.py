"""Shared parts of the benchmark scripts: options, result rows with targets, tables, JSON and run metadata.

>>> target = Target(most=150.0)
>>> target.text("ms"), target.reached(120.0)
('<= 150 ms', True)
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.metadata
import json
import math
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import playloom
from playloom.cli.common import text_table
from playloom.device import machine, set_threads
from playloom.errors import PlayloomError
from playloom.json_io import plain, write_json

_HEAD = ("case", "figure", "value", "target", "", "roofline", "x roofline", "baseline", "")


@dataclass(frozen=True)
class Target:
    """Bounds that a figure should stay within, in the row's unit."""

    least: float = -math.inf
    most: float = math.inf

    def text(self, unit: str) -> str:
        """Format the bounds for a table."""
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"{self.least:g} to {self.most:g} {unit}".rstrip()
        return (f">= {self.least:g} {unit}" if math.isfinite(self.least) else f"<= {self.most:g} {unit}").rstrip()

    def reached(self, value: float) -> bool:
        """Return whether a value lies within the bounds."""
        return self.least <= value <= self.most


@dataclass(frozen=True)
class Row:
    """One figure. Roofline and baseline have the figure's unit; a value of None was not measured."""

    case: str
    name: str
    value: float | None
    unit: str
    _: dataclasses.KW_ONLY
    target: Target | None = None
    roofline: float | None = None
    """Best value that this machine allows: a least time or a highest rate."""
    baseline: float | None = None
    """The same work in GPT-2."""
    note: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """JSON values behind the figure."""

    @property
    def reached(self) -> bool | None:
        """Whether the target was reached; None without a target or a value."""
        return None if self.target is None or self.value is None else self.target.reached(self.value)

    @property
    def times_roofline(self) -> float | None:
        """Time of the figure over the roofline's; 1 is perfect."""
        if not self.roofline or not self.value:
            return None
        return self.roofline / self.value if "/s" in self.unit else self.value / self.roofline

    def to_json(self) -> dict[str, Any]:
        """Return JSON values, derived ones included."""
        target = None if self.target is None else self.target.text(self.unit)
        derived = {"target": target, "reached": self.reached, "times_roofline": self.times_roofline}
        return {**dataclasses.asdict(self), **derived}


def run_case(case: str, name: str, unit: str, measure: Callable[[], list[Row]], *, nested: bool = False) -> list[Row]:
    """Measure one case and print its rows to stderr; after any error return one row that gives the reason.

    A long run must not lose its other figures. Where `measure` itself runs cases (`nested`), those print their rows.
    """
    try:
        rows = measure()
        shown = [] if nested else rows
    except Exception as error:
        rows = shown = [Row(case, name, None, unit, note=f"not measured: {reason(error)}")]
    for row in shown:
        progress(f"{row.case}: {row.name}: {show(row.value, row.unit) or row.note or 'not measured'}")
    return rows


def reason(error: Exception) -> str:
    """Describe an error in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the device ran out of memory"
    words = " ".join(str(error).split("\n")[0].split())
    return words if isinstance(error, PlayloomError) else f"{type(error).__name__}: {words}"


def median(values: Sequence[float] | NDArray[np.float64]) -> float:
    """Median as a float."""
    return float(np.median(values))


def progress(text: str) -> None:
    """Print a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def table(rows: Sequence[Row]) -> str:
    """Format one line per row, with numbered notes below."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    lines, case = [], ""
    for row in rows:
        shown, case = "" if row.case == case else row.case, row.case
        lines.append(
            (
                shown,
                row.name,
                show(row.value, row.unit) or "not measured",
                "" if row.target is None else row.target.text(row.unit),
                "" if row.reached is None else "reached" if row.reached else "missed",
                show(row.roofline, row.unit),
                "" if row.times_roofline is None else f"{row.times_roofline:.1f}",
                show(row.baseline, row.unit),
                f"[{notes.index(row.note) + 1}]" if row.note else "",
            )
        )
    return "\n".join([text_table(_HEAD, lines), *(f"[{number}] {note}" for number, note in enumerate(notes, 1))])


def show(value: float | None, unit: str) -> str:
    """Format a figure with three or four digits; empty where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{min(max(3 - whole, 0), 3)}f} {unit}".rstrip()


def options(description: str | None, *names: str) -> argparse.ArgumentParser:
    """Build a parser with the options of all scripts, and with those of `model`, `frames` and `seed` that are named."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if "model" in names:
        parser.add_argument("--model", help="Name of a bundled model, or a folder.")
    if "frames" in names:
        parser.add_argument("--frames", type=_positive, default=300, help="Most frames or repeats of any measurement.")
    if "seed" in names:
        parser.add_argument("--seed", type=int, default=0, help="Seed of dreams and random weights.")
    parser.add_argument("--threads", type=_positive, help="CPU threads. Default: chosen by torch.")
    parser.add_argument("--quick", action="store_true", help="Fewer frames and repeats, for a rough look.")
    parser.add_argument("--json", action="store_true", help="Print one line of JSON instead of the table.")
    parser.add_argument("--out", type=Path, help="Write the JSON to this file too.")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"got {value}, expected 1 or more")
    return value


def count(given: argparse.Namespace, full: int, quick: int) -> int:
    """Number of frames or repeats, at most --frames."""
    return min(quick if given.quick else full, given.frames)


def report(
    given: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]],
    text: str,
    device: torch.device,
    notes: Sequence[str] = (),
    **metadata: Any,
) -> None:
    """Print the table or the JSON, and write --out.

    Args:
        given: parsed options.
        rows: JSON values.
        text: the table.
        device: the one that was measured.
        notes: sentences about the whole run.
        metadata: further JSON values.
    """
    content = {
        "format": 2,
        "script": Path(sys.argv[0]).name,
        "playloom": playloom.__version__,
        "commit": _commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": {name: _version(name) for name in ("torch", "numpy", "transformers")}
        | {"cuda": torch.version.cuda},
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in vars(given).items()},
        **metadata,
        "rows": rows,
        "notes": notes,
    }
    if given.out is not None:
        write_json(given.out, content)
    print(json.dumps(plain(content), allow_nan=False) if given.json else "\n".join([text, *notes]))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of this checkout, ending in -dirty where files have changed."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--exclude", "*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def run(main: Callable[[], None]) -> None:
    """Run a script; an error of the user ends it with one sentence and exit code 2."""
    try:
        main()
    except PlayloomError as error:
        progress(f"{Path(sys.argv[0]).name}: {error}")
        sys.exit(2)


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the options and set the number of threads."""
    given = parser.parse_args(arguments)
    set_threads(given.threads)
    return given
