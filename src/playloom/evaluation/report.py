"""The result of an evaluation as values, and its three forms: a plain table, JSON, Markdown.

Owns no measure: rows come in, text goes out.

    >>> row = Row(part="horizon", name="PSNR at step 1", value=24.1, unit="dB", baselines={"repeat": 20.0},
    ...           bar="> repeat", passed=True)
    >>> print(table([row]))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.files import atomic_write

FORMAT = 1
"""Version of the JSON form."""
_HEAD = ("part", "figure", "value", "baseline", "bar", "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure beside what it has to be compared with."""

    part: str
    """Which part measured it: tokenizer, likelihood, alignment, horizon, collapse, diversity, persistency, control."""
    name: str
    """What it is."""
    value: float
    """The figure; NaN where nothing could be measured."""
    unit: str = ""
    """Its unit; `%` means that value and baselines are shares in [0, 1]."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Named figures of the same unit."""
    bar: str = ""
    """What was asked for, in words; empty: nothing was."""
    passed: bool | None = None
    """Whether it was reached; None where nothing was asked for."""
    count: int = 0
    """How many moments, windows or frames it is the figure of."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows of one evaluation, the curves behind them, and how it was run."""

    rows: tuple[Row, ...]
    """In the order of the table."""
    curves: Mapping[str, Any]
    """Series and lists behind the rows, JSON values."""
    run: Mapping[str, Any]
    """Model, data, machine, seeds, wall time: JSON values."""

    @property
    def passed(self) -> tuple[int, int]:
        """Bars reached, and bars in all."""
        asked = [row.passed for row in self.rows if row.passed is not None]
        return sum(asked), len(asked)

    def to_json(self) -> dict[str, Any]:
        """JSON values; NaN becomes null."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return {"format": FORMAT, "run": _plain(self.run), "rows": _plain(rows), "curves": _plain(self.curves)}

    def write(self, path: Path) -> None:
        """Write the JSON form, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def beyond_noise(values: NDArray[np.float64]) -> bool:
    """Whether the mean of paired differences [moments] is above zero by more than two standard errors."""
    if len(values) < 2:
        return False
    return bool(values.mean() > 2 * values.std(ddof=1) / np.sqrt(len(values)))


def verdict(row: Row) -> str:
    """`reached`, `missed`, or nothing where nothing was asked for."""
    return "" if row.passed is None else "reached" if row.passed else "missed"


def show(value: float, unit: str) -> str:
    """A figure with its unit, in as many digits as it deserves."""
    if not math.isfinite(value):
        return "n/a"
    if unit == "%":
        return f"{100 * value:.1f} %"
    digits = 0 if unit in ("codes",) else 3 if unit in ("", "nats") else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def cells(row: Row) -> tuple[str, ...]:
    """The six texts of a table line."""
    baselines = ", ".join(f"{name} {show(value, row.unit)}" for name, value in row.baselines.items())
    return row.part, row.name, show(row.value, row.unit), baselines, row.bar, verdict(row)


def table(rows: Sequence[Row]) -> str:
    """Aligned plain text, one line a row; a part's name stands on its first line only."""
    lines = [_HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    text, part = [], None
    for line in lines:
        shown = ("" if line[0] == part else line[0], *line[1:])
        part = line[0]
        text.append("  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip())
    return "\n".join([text[0], "-" * max(len(line) for line in text), *text[1:]])


def markdown(rows: Sequence[Row]) -> str:
    """The same as a Markdown table, for a model card or a README."""
    lines = [["part", "figure", "value", "baseline", "bar", "result"], ["---"] * 6]
    lines += [[cell.replace("|", "\\|") for cell in cells(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(report: Report) -> str:
    """One sentence: how many bars were reached and which were not."""
    reached, asked = report.passed
    missed = [f"{row.part}: {row.name}" for row in report.rows if row.passed is False]
    return f"{reached} of {asked} bars reached" + (f"; not reached: {'; '.join(missed)}" if missed else "")


def _plain(value: Any) -> Any:
    """Only what strict JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
