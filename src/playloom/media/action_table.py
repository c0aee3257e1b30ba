"""Actions in a CSV file, a script, or either: a header `step,` plus sixteen names, then one row per step.

Columns are found by name, so their order is free; written files have the schema's own order.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import SLOT_NAMES, Schema, check_schema, detect_schema, rows_to_values, values_to_rows
from playloom.actions.controller import CONTROLS
from playloom.actions.script import Script, fit_length, parse_script, rounding
from playloom.atomic_io import atomic_write
from playloom.errors import ActionError

STEP_COLUMN = "step"
"""First column; optional in a file that is read."""
_COLUMNS: dict[str, tuple[str, ...]] = {"named": tuple(control.name for control in CONTROLS), "binned": SLOT_NAMES}


def read_actions(path: Path | str, schema: Schema | Literal["auto"]) -> Script:
    """Read a CSV of actions, with notes on the detected schema, ignored columns and rounded values."""
    check_schema(schema)
    header, rows = _read_cells(Path(path))
    ignored = [name for name in header if name not in (*SLOT_NAMES, STEP_COLUMN)]
    notes = [f"{path}: ignored the columns {', '.join(ignored)}, which are no controls"] if ignored else []
    numbers_TA = _numbers(path, header, rows)  # columns in slot order
    try:
        found, reason = detect_schema(numbers_TA) if schema == "auto" else (schema, "")
        ordered_TA = numbers_TA[:, [SLOT_NAMES.index(name) for name in _COLUMNS[found]]]
        values_TA = rows_to_values(ordered_TA, found)
    except ActionError as error:
        other = "binned" if schema == "named" else "named"
        hint = "" if schema == "auto" else f"; if it is in the other schema, give --schema {other}"
        raise ActionError(f"{path}: {error}{hint}") from error
    if schema == "auto":
        notes.append(f"{path} is read in the {found} schema: {reason}")
    if found == "named":
        notes += _rounded(path, ordered_TA, values_TA)
    return Script(values_TA, tuple(notes))


def write_actions(path: Path | str, values_TA: ArrayLike, schema: Schema = "named", *, first_step: int = 1) -> None:
    """Write action values [T, 16] as CSV; the inverse of `read_actions`."""
    rows_T16 = values_to_rows(np.asarray(values_TA).reshape(-1, len(SLOT_NAMES)), schema)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([STEP_COLUMN, *_COLUMNS[schema]])
        for step, row in enumerate(rows_T16, first_step):
            writer.writerow([step, *(f"{value:g}" for value in row)])


def read_inputs(text: str, schema: Schema | Literal["auto"], steps: int | None) -> Script:
    """Read the CSV file of that name, else parse the text as a script; `steps` None: as many as there are."""
    path = Path(text)
    try:
        is_file, is_folder = path.is_file(), bool(text.strip()) and path.is_dir()
    except OSError:  # a script may be longer than a file name can be
        is_file = is_folder = False
    if is_file:
        script = read_actions(path, schema)
        return script if steps is None else fit_length(script, steps, "the table")
    if is_folder or path.suffix.lower() == ".csv":
        raise ActionError(f"there is no file {text}; give a CSV of actions, or a script such as 'forward for 10'")
    return parse_script(text, steps)


def csv_rows(path: Path) -> Iterator[list[str]]:
    """Give the cells of every row that has any, the header first.

    It is UTF-8, separated by commas, or by semicolons or tabs; a spreadsheet that writes these writes 0,5 for a half.
    """
    with path.open(encoding="utf-8-sig", newline="") as file:
        head = next((line for line in file if line.strip()), "")
        separator = next((mark for mark in ";\t" if mark in head and "," not in head), ",")
        for cells in csv.reader(itertools.chain([head], file), delimiter=separator):
            if any(map(str.strip, cells)):
                yield cells if separator == "," else [cell.replace(",", ".") for cell in cells]


def _read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        lines = [[cell.strip() for cell in row] for row in csv_rows(path)]
    except FileNotFoundError as error:
        raise ActionError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ActionError(f"{path} cannot be read as a CSV file ({error}); expected UTF-8 text") from error
    if len(lines) < 2:
        raise ActionError(f"{path} holds no actions; expected a header step,{','.join(_COLUMNS['named'])} and rows")
    header, rows = lines[0], lines[1:]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise ActionError(f"{path} row {number} has {len(row)} cells; the header has {len(header)}")
    names = _COLUMNS["named"]
    missing = [name for name in names if name not in header]
    if missing:
        which = "that names a control" if len(missing) == len(names) else ", ".join(missing)
        raise ActionError(f"{path} has no column {which}; expected the header step,{','.join(names)}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ActionError(f"{path} has the column {', '.join(twice)} more than once; keep one")
    cells = [row[header.index(STEP_COLUMN)] for row in rows] if STEP_COLUMN in header else []
    for index, cell in enumerate(cells):
        expected = str(int(cells[0]) + index) if cells[0].isdecimal() else "a whole number"
        if not cell.isdecimal() or int(cell) != int(cells[0]) + index:
            raise ActionError(f"{path} row {index + 1}: step is {cell!r}; expected {expected}, one row per step")
    return header, rows


def _numbers(path: Path | str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    columns = [header.index(name) for name in SLOT_NAMES]
    numbers_TA = np.empty((len(rows), len(columns)))
    for index, row in enumerate(rows):
        for slot, column in enumerate(columns):
            try:
                numbers_TA[index, slot] = float(row[column])
            except ValueError as error:
                where = f"{path} row {index + 1}, {SLOT_NAMES[slot]}"
                raise ActionError(f"{where}: {row[column]!r} is not a number") from error
    return numbers_TA


def _rounded(path: Path | str, given_TA: NDArray[np.float64], values_TA: NDArray[np.uint8]) -> list[str]:
    """One sentence for all values that are not played exactly, with the first of them."""
    played_TA = values_to_rows(values_TA, "named")  # with this schema's signs
    notes = [
        f"in row {row + 1}, {note}"
        for row, column in np.argwhere(given_TA != played_TA)
        if (note := rounding(_COLUMNS["named"][column], given_TA[row, column], played_TA[row, column]))
    ]
    return [f"{path}: {len(notes)} value{'s are' if len(notes) > 1 else ' is'} rounded; {notes[0]}"] if notes else []
