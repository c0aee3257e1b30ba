"""Report of an evaluation: text table, JSON, Markdown, a plot and a strip of frames."""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from playloom.json_io import plain, write_json
from playloom.media.contact_sheet import Tile, contact_sheet, held_inputs
from playloom.models.card import figure_cells, figures_table

FORMAT = 1  # version of the JSON form
TOLERANCE = 0.3  # largest relative deviation from the recorded figure that reaches the bar
MOTION_TOLERANCE = 0.5  # the same for motion, which depends on what is in view
RESAMPLES = 400  # resamples of the bootstrap
_HEAD = ("part", "figure", "value ± SE", "baseline", "bar", "")

Statistic = Callable[[NDArray[Any]], float]  # computes a figure from the values of any number of segments, [M, ...]


def ratio_of_means(values_M2: NDArray[np.float64]) -> float:
    """Return the mean of the first column over that of the second; NaN where the latter is 0."""
    over, under = values_M2.mean(0)
    return float(over / (under or np.nan))


@dataclass(frozen=True)
class Row:
    """One metric with its baselines and target."""

    part: str
    """Part of the evaluation, such as tokenizer, horizon or control."""
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
    error: float = math.nan
    """Standard error of the value, see `standard_error`; NaN where there is none."""

    @classmethod
    def of(
        cls,
        part: str,
        name: str,
        values_M: ArrayLike,
        unit: str = "",
        baselines: Mapping[str, float] | None = None,
        bar: str = "",
        passed: bool | None = None,
        *,
        episodes_M: NDArray[np.int64] | None = None,
        statistic: Statistic = np.mean,
        tolerance: float | None = None,
    ) -> Row:
        """Return the row of a statistic over segments, with its standard error; see `standard_error`.

        With a `tolerance` the value is a ratio, generated over recorded, and the bar is 1 ± `tolerance`.
        """
        values_M = np.asarray(values_M)
        value = float(statistic(values_M)) if len(values_M) else math.nan
        error = standard_error(values_M, episodes_M, statistic)
        if tolerance is not None:
            bar, passed = f"{100 * (1 - tolerance):.0f} to {100 * (1 + tolerance):.0f} %", abs(value - 1) <= tolerance
        return cls(part, name, value, unit, baselines or {}, bar, passed, len(values_M), error)

    def cells(self) -> tuple[str, ...]:
        """Return the six cells of a table row."""
        return figure_cells(vars(self))


@dataclass(frozen=True, kw_only=True)
class Report:
    """All rows of one evaluation, the curves behind them, and the run's settings."""

    rows: tuple[Row, ...]
    """In the order of the table."""
    curves: Mapping[str, Any]
    """Series and lists behind the rows, JSON values."""
    run: Mapping[str, Any]
    """Model, data, machine, seeds, wall time: JSON values."""

    def to_json(self) -> dict[str, Any]:
        """Return JSON values; NaN becomes null."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        return dict(plain({"format": FORMAT, "run": self.run, "rows": rows, "curves": self.curves}))

    def write(self, path: Path) -> None:
        """Write the JSON form atomically."""
        write_json(path, self.to_json())


def is_significant(values_M: NDArray[np.float64], episodes_M: NDArray[np.int64] | None = None) -> bool:
    """Return True if the mean of paired differences exceeds zero by more than two standard errors."""
    return bool(len(values_M) > 1 and values_M.mean() > 2 * standard_error(values_M, episodes_M))


def standard_error(
    values_M: NDArray[Any], episodes_M: NDArray[np.int64] | None = None, statistic: Statistic = np.mean
) -> float:
    """Return the standard error of a statistic over the first axis; NaN for fewer than two values.

    Segments of one episode are not independent, so whole episodes are drawn with replacement (the cluster bootstrap,
    Davison and Hinkley 1997, section 3.8) with a fixed seed. `episodes_M` has the episode of each value. With None, or
    with one episode only, every value counts as an episode. Draws without a value of the statistic are left out.
    """
    if len(values_M) < 2:
        return math.nan
    episodes_M = np.arange(len(values_M)) if episodes_M is None or len(set(episodes_M)) < 2 else episodes_M
    rows = [np.flatnonzero(episodes_M == episode) for episode in np.unique(episodes_M)]
    count, rng = len(rows), np.random.default_rng(0)
    drawn = (np.concatenate([rows[index] for index in rng.integers(0, count, count)]) for _ in range(RESAMPLES))
    found = np.array([statistic(values_M[index]) for index in drawn], np.float64)
    known = found[~np.isnan(found)]
    return float(known.std() * math.sqrt(count / (count - 1))) if len(known) else math.nan


def table(rows: Sequence[Row]) -> str:
    """Format rows as aligned plain text; a part is named on its first line only."""
    lines = [_HEAD, *(row.cells() for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text, part = [], ""
    for line in lines:
        cells = ("" if line[0] == part else line[0], *line[1:])
        part = line[0]
        text.append("  ".join(map(str.ljust, cells, widths)).rstrip())
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def markdown(rows: Sequence[Row]) -> str:
    """Format rows as a Markdown table."""
    return figures_table(map(vars, rows))


def summary(report: Report) -> str:
    """Return one sentence: the number of targets reached, and those missed."""
    targets = [row for row in report.rows if row.passed is not None]
    missed = [f"{row.part}: {row.name}" for row in targets if not row.passed]
    end = f"; not reached: {'; '.join(missed)}" if missed else ""
    return f"{len(targets) - len(missed)} of {len(targets)} bars reached{end}"


def rollout_plot(curves: Mapping[str, Any], title: str) -> NDArray[np.uint8]:
    """Plot PSNR over the steps from the result of `rollout_curves`, uint8 RGB [400, 720, 3]."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(7.2, 4.0), dpi=100, layout="constrained")
    axes = figure.add_subplot(title=title, xlabel="step (0.1 s)", ylabel="PSNR, dB")
    axes.plot(curves["steps"], curves["dream_psnr"], ".-", color="#dc5a14", label="dream")
    axes.plot(curves["steps"], curves["repeat_psnr"], ".-", color="#6e6e6e", label="last frame repeated")
    ceiling = curves["ceiling_psnr"]
    axes.plot([int(step) for step in ceiling], [*ceiling.values()], ".-", color="#289646", label="tokenizer ceiling")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(color="#e1e1e1")
    axes.legend()
    png = io.BytesIO()
    figure.savefig(png, format="png")
    return np.array(Image.open(png).convert("RGB"))


def rollout_strip(
    real_SHWC: NDArray[np.uint8],
    dreamed_SHWC: NDArray[np.uint8],
    actions_SA: NDArray[np.uint8],
    steps: Sequence[int],
    title: str,
) -> NDArray[np.uint8]:
    """Draw real frames, captioned with the held inputs, above generated ones at some steps (1 is the first)."""
    held = {step: f"{step}: {held_inputs(actions_SA[step - 1])}" for step in steps}
    real = [Tile(frame_HWC=real_SHWC[step - 1], kind="real", caption=held[step]) for step in steps]
    dreamed = [Tile(frame_HWC=dreamed_SHWC[step - 1], kind="dreamed", caption=str(step)) for step in steps]
    return contact_sheet([real, dreamed], title=title, tile_width=220)  # wide enough for most captions
