"""Report of an evaluation: text table, JSON, Markdown, a plot and a strip of frames.

>>> row = Row(part="horizon", name="PSNR at step 1", value=24.1, unit="dB", baselines={"repeat": 20.0},
...           bar="> repeat", passed=True)
>>> print(table([row]))  # doctest: +SKIP
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from playloom.json_io import plain, write_json
from playloom.media.contact_sheet import Tile, contact_sheet, held_inputs

_SIZE = (720, 400)
_BOX = (56, 34, 700, 352)
"""Left, top, right, bottom of the plotted area."""
_PAPER, _INK, _GRID = (255, 255, 255), (40, 40, 40), (225, 225, 225)
COLOURS = ((220, 90, 20), (110, 110, 110), (40, 150, 70), (60, 90, 200))
"""Line colours, in the order of the series."""


class Series(NamedTuple):
    """One line of a plot."""

    name: str
    """Label of the legend."""
    x: Sequence[float]
    """Ascending."""
    y: Sequence[float]
    """Same length."""


def plot(series: Sequence[Series], *, title: str, x_label: str, y_label: str) -> NDArray[np.uint8]:
    """Draw a line plot with axes, grid and legend, uint8 RGB [400, 720, 3]."""
    image = Image.new("RGB", _SIZE, _PAPER)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    x_range = _range([x for line in series for x in line.x], whole=True)
    y_range = _range([y for line in series for y in line.y], whole=False)
    _draw_axes(draw, font, x_range, y_range)
    for number, line in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        points = [
            (_place(x, x_range, _BOX[0], _BOX[2]), _place(y, y_range, _BOX[3], _BOX[1]))
            for x, y in zip(line.x, line.y, strict=True)
        ]
        draw.line(points, fill=colour, width=2)
        for left, top in points:
            draw.ellipse((left - 2, top - 2, left + 2, top + 2), fill=colour)
        draw.text((_BOX[2] - 190, _BOX[1] + 6 + 16 * number), line.name, fill=colour, font=font)
    beside = max(_BOX[0], 6 + draw.textlength(y_label, font=font) + 24)  # the label of y may be wider than its margin
    draw.text((beside, 8), title, fill=_INK, font=ImageFont.load_default(size=14))
    draw.text(((_BOX[0] + _BOX[2]) / 2, _SIZE[1] - 18), x_label, fill=_INK, font=font)
    draw.text((6, 10), y_label, fill=_INK, font=font)
    return np.array(image)


def strip(
    real_SHWC: NDArray[np.uint8],
    dreamed_SHWC: NDArray[np.uint8],
    actions_SA: NDArray[np.uint8],
    steps: Sequence[int],
    title: str,
) -> NDArray[np.uint8]:
    """Draw real above generated frames at some steps (1 is the first), captioned with the held inputs."""
    captions = {step: f"{step}: {held_inputs(actions_SA[step - 1])}" for step in steps}
    real = [Tile(frame_HWC=real_SHWC[step - 1], kind="real", caption=captions[step]) for step in steps]
    dreamed = [Tile(frame_HWC=dreamed_SHWC[step - 1], kind="dreamed", caption=captions[step]) for step in steps]
    return contact_sheet([real, dreamed], title=title)


def horizon_plot(curves: Mapping[str, object], title: str) -> NDArray[np.uint8]:
    """Plot the result of `horizon_curves`."""
    steps, ceiling = curves["steps"], curves["ceiling_psnr"]
    assert isinstance(steps, list) and isinstance(ceiling, dict)
    lines = [
        Series("dream", steps, list(np.asarray(curves["dream_psnr"], float))),
        Series("last frame repeated", steps, list(np.asarray(curves["repeat_psnr"], float))),
    ]
    if ceiling:
        lines.append(Series("tokenizer ceiling", [float(step) for step in ceiling], list(ceiling.values())))
    return plot(lines, title=title, x_label="step (0.1 s)", y_label="PSNR, dB")


def _draw_axes(
    draw: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> None:
    for y in _ticks(*y_range):
        top = _place(y, y_range, _BOX[3], _BOX[1])
        draw.line((_BOX[0], top, _BOX[2], top), fill=_GRID)
        draw.text((_BOX[0] - 34, top - 7), f"{y:g}", fill=_INK, font=font)
    for x in _ticks(*x_range):
        left = _place(x, x_range, _BOX[0], _BOX[2])
        draw.line((left, _BOX[1], left, _BOX[3]), fill=_GRID)
        draw.text((left - 6, _BOX[3] + 4), f"{x:g}", fill=_INK, font=font)
    draw.rectangle(_BOX, outline=_INK)


def _range(values: Sequence[float], *, whole: bool) -> tuple[float, float]:
    low, high = min(values), max(values)
    if whole:
        return low, max(high, low + 1)
    return float(np.floor(low - 0.5)), float(np.ceil(high + 0.5))


def _ticks(low: float, high: float) -> list[float]:
    """Five to ten round numbers."""
    wish = (high - low) / 6
    size = 10 ** np.floor(np.log10(wish))
    step = min((s for s in (size, 2 * size, 5 * size, 10 * size)), key=lambda s: abs(s - wish))
    return [float(t) for t in np.arange(np.ceil(low / step), np.floor(high / step) + 1) * step]


def _place(value: float, limits: tuple[float, float], start: float, end: float) -> float:
    return start + (value - limits[0]) / (limits[1] - limits[0]) * (end - start)


FORMAT = 1
"""Version of the JSON form."""
_HEAD = ("part", "figure", "value", "baseline", "bar", "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One metric beside its baselines and target."""

    part: str
    """Part of the evaluation: tokenizer, likelihood, alignment, horizon, collapse, diversity, persistency, control."""
    name: str
    value: float
    """The metric; NaN where nothing could be measured."""
    unit: str = ""
    """Unit; `%` means that value and baselines are shares in [0, 1]."""
    baselines: Mapping[str, float] = field(default_factory=dict)
    """Baselines of the same unit, by name."""
    bar: str = ""
    """Target in words; empty: none."""
    passed: bool | None = None
    """True if the target was reached; None without a target."""
    count: int = 0
    """Number of segments, windows or frames."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows of one evaluation, the curves behind them, and the run's settings."""

    rows: tuple[Row, ...]
    """In the order of the table."""
    curves: Mapping[str, Any]
    """Series and lists behind the rows, JSON values."""
    run: Mapping[str, Any]
    """Model, data, machine, seeds, wall time: JSON values."""

    @property
    def passed(self) -> tuple[int, int]:
        """Number of targets reached, and number of targets."""
        asked = [row.passed for row in self.rows if row.passed is not None]
        return sum(asked), len(asked)

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; NaN becomes null."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return dict(plain({"format": FORMAT, "run": self.run, "rows": rows, "curves": self.curves}))

    def write(self, path: Path) -> None:
        """Write the JSON form atomically."""
        write_json(path, self.to_json())


def is_significant(values: NDArray[np.float64]) -> bool:
    """Return True if the mean of paired differences exceeds zero by more than two standard errors."""
    if len(values) < 2:
        return False
    return bool(values.mean() > 2 * values.std(ddof=1) / np.sqrt(len(values)))


def verdict(row: Row) -> str:
    """Return `reached`, `missed`, or an empty text without a target."""
    return "" if row.passed is None else "reached" if row.passed else "missed"


def show(value: float, unit: str) -> str:
    """Format a value with its unit."""
    if not math.isfinite(value):
        return "n/a"
    if unit == "%":
        return f"{100 * value:.1f} %"
    digits = 0 if unit in ("codes",) else 3 if unit in ("", "nats") else 2
    return f"{value:.{digits}f} {unit}".rstrip()


def cells(row: Row) -> tuple[str, ...]:
    """Return the six cells of a table row."""
    baselines = ", ".join(f"{name} {show(value, row.unit)}" for name, value in row.baselines.items())
    return row.part, row.name, show(row.value, row.unit), baselines, row.bar, verdict(row)


def table(rows: Sequence[Row]) -> str:
    """Format rows as aligned plain text; a part is named on its first line only."""
    lines = [_HEAD, *(cells(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_HEAD))]
    text, part = [], None
    for line in lines:
        shown = ("" if line[0] == part else line[0], *line[1:])
        part = line[0]
        text.append("  ".join(cell.ljust(width) for cell, width in zip(shown, widths, strict=True)).rstrip())
    return "\n".join([text[0], "-" * max(len(line) for line in text), *text[1:]])


def markdown(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table."""
    lines = [["part", "figure", "value", "baseline", "bar", "result"], ["---"] * 6]
    lines += [[cell.replace("|", "\\|") for cell in cells(row)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(report: Report) -> str:
    """Return one sentence: the number of targets reached, and those missed."""
    reached, asked = report.passed
    missed = [f"{row.part}: {row.name}" for row in report.rows if row.passed is False]
    return f"{reached} of {asked} bars reached" + (f"; not reached: {'; '.join(missed)}" if missed else "")
