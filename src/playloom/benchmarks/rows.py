"""What a benchmark says: rows, the bars they are held to, and the report in its two forms, a table and JSON.

Owns no measurement: rows come in, text goes out.

    >>> bar = Bar(most=150.0)
    >>> bar.words("ms"), bar.reached(120.0)
    ('<= 150 ms', True)
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from playloom.atomic_io import atomic_write

FORMAT = 1
"""Version of the JSON form."""
_HEAD = ("case", "figure", "value", "bar", "", "floor", "x floor", "beside", "")


@dataclass(frozen=True, kw_only=True)
class Bar:
    """What a figure must reach."""

    least: float | None = None
    """Smallest value that will do, in the row's unit."""
    most: float | None = None
    """Largest value that will do, in the row's unit."""

    def words(self, unit: str) -> str:
        """The bar as a table shows it."""
        if self.least is not None and self.most is not None:
            return f"{self.least:g} to {self.most:g} {unit}".rstrip()
        sign, value = ("<=", self.most) if self.least is None else (">=", self.least)
        return "" if value is None else f"{sign} {value:g} {unit}".rstrip()

    def reached(self, value: float) -> bool:
        """Whether a value is within the bar."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)


@dataclass(frozen=True, kw_only=True)
class BenchRow:
    """One figure of speed, beside its bar, its floor and what a user would otherwise take."""

    case: str
    """The case that measured it."""
    name: str
    """What it is."""
    value: float | None
    """The figure; None where nothing was measured, and the note says why."""
    unit: str
    """Its unit."""
    bar: Bar | None = None
    """What must be reached; None: nothing is asked."""
    floor: float | None = None
    """The best this machine could do by bytes and FLOPs, in the row's unit: a least time or a highest rate."""
    beside: float | None = None
    """The same work by the usual way, in the row's unit."""
    note: str = ""
    """What must be said about the figure; shown under the table."""
    detail: Mapping[str, Any] = field(default_factory=dict)
    """JSON values behind the figure."""

    @property
    def reached(self) -> bool | None:
        """Whether the bar was reached; None where nothing is asked, or nothing was measured."""
        return None if self.bar is None or self.value is None else self.bar.reached(self.value)

    @property
    def times_floor(self) -> float | None:
        """How many times the floor's time the figure takes; 1 is perfect."""
        if not self.floor or not self.value:
            return None
        return self.floor / self.value if "/s" in self.unit else self.value / self.floor

    def said(self) -> str:
        """The figure alone, or why there is none, in one line."""
        return f"{self.case}: {self.name}: {show(self.value, self.unit) or self.note or 'not measured'}"

    def to_json(self) -> dict[str, Any]:
        """JSON values, with what follows from them."""
        asked = None if self.bar is None else self.bar.words(self.unit)
        derived = {"bar": asked, "reached": self.reached, "times_floor": self.times_floor}
        return plain({**dataclasses.asdict(self), **derived})


class JsonRow(Protocol):
    """A row of any kind of report."""

    def to_json(self) -> dict[str, Any]:
        """JSON values."""


@dataclass(frozen=True, kw_only=True)
class BenchReport:
    """All rows of one run, and what they belong to."""

    kind: str
    """What was run: speed, ladder or agreement."""
    rows: Sequence[JsonRow]
    """In the order of the table."""
    table: str
    """The rows as plain text, aligned."""
    run: Mapping[str, Any]
    """Machine, versions, date, settings: JSON values."""
    notes: tuple[str, ...] = ()
    """What must be said about the whole run: what was skipped and why, how a verdict was reached."""

    def text(self) -> str:
        """The table and the notes, for people."""
        return "\n".join([self.table, *self.notes])

    def to_json(self) -> dict[str, Any]:
        """JSON values; what is not finite becomes null."""
        rows = [row.to_json() for row in self.rows]
        return {"format": FORMAT, "kind": self.kind, **plain(dict(self.run)), "rows": rows, "notes": list(self.notes)}

    def line(self) -> str:
        """The JSON form in one line, for programs."""
        return json.dumps(self.to_json(), allow_nan=False)

    def write(self, path: Path) -> None:
        """Write the JSON form, whole or not at all."""
        with atomic_write(path) as temporary:
            temporary.write_text(json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n", encoding="utf-8")


def speed_table(rows: Sequence[BenchRow]) -> str:
    """One line a row, a case's name on its first line only; the rows' notes are numbered and stand below."""
    notes = list(dict.fromkeys(row.note for row in rows if row.note))
    lines = [_cells(row, notes) for row in rows]
    cases = [None, *(line[0] for line in lines)]
    lines = [("" if line[0] == before else line[0], *line[1:]) for line, before in zip(lines, cases, strict=False)]
    return "\n".join([aligned(_HEAD, lines), *(f"[{number}] {note}" for number, note in enumerate(notes, 1))])


def aligned(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Columns of equal width under a ruled head."""
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    text = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in (head, *lines)
    ]
    return "\n".join([text[0], "-" * max(map(len, text)), *text[1:]])


def show(value: float | None, unit: str) -> str:
    """A figure with its unit, in three or four digits."""
    if value is None or not math.isfinite(value):
        return ""
    whole = len(str(int(abs(value)))) if abs(value) >= 1 else 0
    return f"{value:.{min(max(3 - whole, 0), 3)}f} {unit}".rstrip()


def plain(value: Any) -> Any:
    """Only what strict JSON knows."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cells(row: BenchRow, notes: Sequence[str]) -> tuple[str, ...]:
    """The texts of one line."""
    verdict = "" if row.reached is None else "reached" if row.reached else "missed"
    return (
        row.case,
        row.name,
        show(row.value, row.unit) or "not measured",
        "" if row.bar is None else row.bar.words(row.unit),
        verdict,
        show(row.floor, row.unit),
        "" if row.times_floor is None else f"{row.times_floor:.1f}",
        show(row.beside, row.unit),
        f"[{notes.index(row.note) + 1}]" if row.note else "",
    )
