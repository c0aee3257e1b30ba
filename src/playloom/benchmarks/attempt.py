"""A part of a benchmark that may fail without taking the others with it. Knows rows, not what is measured."""

from __future__ import annotations

from collections.abc import Callable

import torch

from playloom.benchmarks.rows import BenchRow
from playloom.errors import PlayloomError

Found = Callable[[BenchRow], None]
"""Told every row as soon as there is one: a run that is ended from outside has said what it knew."""


def rows_or_why(
    case: str, name: str, unit: str, measure: Callable[[], list[BenchRow]], found: Found = lambda _: None
) -> list[BenchRow]:
    """The rows of a part; or, whatever stopped it, one that says why there are none.

    Args:
        case: of the row that says why.
        name: what was to be measured.
        unit: of the figure that is missing.
        measure: measures.
        found: told the rows.
    """
    try:
        rows = measure()
    except Exception as error:
        rows = [missing(case, name, unit, error)]
    for row in rows:
        found(row)
    return rows


def missing(case: str, name: str, unit: str, error: Exception) -> BenchRow:
    """A row without a figure."""
    return BenchRow(case=case, name=name, value=None, unit=unit, note=f"not measured: {reason(error)}")


def reason(error: Exception) -> str:
    """Why, in one line."""
    if isinstance(error, torch.OutOfMemoryError):
        return "the device ran out of memory"
    words = " ".join(str(error).split("\n")[0].split())
    return words if isinstance(error, PlayloomError) else f"{type(error).__name__}: {words}"
