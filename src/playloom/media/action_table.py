"""Actions in a CSV file: a header `step,` plus sixteen names, then one row a step.

Owns the CSV form of the two wire schemas. Columns are found by their names, so their order is free when
reading; writing uses the schema's own order. Knows nothing of the pictures the actions belong to.

The inputs a dream is given: a CSV, a script of held inputs, or what was really done. Values only.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import (
    REST_VALUES,
    SLOT_NAMES,
    SLOT_SIZES,
    Schema,
    detect_schema,
    rows_to_values,
    values_to_rows,
)
from playloom.actions.controller import CONTROLS
from playloom.actions.script import is_rounded, parse_script, rounding
from playloom.atomic_io import atomic_write
from playloom.errors import ActionError, PlayloomError, did_you_mean

STEP_COLUMN = "step"
"""The first column; it may be missing in a file that is read."""
_NAMED_ORDER = tuple(control.name for control in CONTROLS)
_ORDERS: dict[str, tuple[str, ...]] = {"named": _NAMED_ORDER, "binned": SLOT_NAMES}
_CONTROLS = {control.name: control for control in CONTROLS}
_BINS = dict(zip(SLOT_NAMES, SLOT_SIZES, strict=True))


class ActionTable(NamedTuple):
    """The actions of a CSV file."""

    values_TA: NDArray[np.uint8]
    """Action values [T, 16] in slot order."""
    schema: Schema
    """The schema they were read in."""
    notes: tuple[str, ...]
    """What was chosen, left out or rounded, as sentences."""


def read_actions(path: Path | str, schema: Schema | Literal["auto"]) -> ActionTable:
    """Read a CSV of actions.

    Args:
        path: the file; UTF-8, separated by commas, or by semicolons or tabs (then decimal commas are fine too).
            Columns that are no control are left out, with a note.
        schema: `named`, `binned`, or `auto` to decide by the values and say what was decided.

    Raises:
        ActionError: when the file is missing or empty, a column is missing, the steps are not consecutive, or
            a value is out of its range (names the row counted from 1, the column and the range).
    """
    check_schema(schema)
    header, rows = _read_cells(Path(path))
    _check_columns(path, header)
    notes = _unknown_columns(path, header)
    _check_steps(path, header, rows)
    numbers = _numbers(path, header, rows)  # columns in slot order
    chosen: Schema
    if schema == "auto":
        chosen, why = _detect(path, numbers)
        notes.append(f"{path} is read in the {chosen} schema: {why}")
    else:
        chosen = schema
    _check_values(path, numbers, chosen)
    ordered = numbers[:, [SLOT_NAMES.index(name) for name in _ORDERS[chosen]]]
    values_TA = rows_to_values(ordered, chosen)
    if chosen == "named":
        notes += _rounded(path, ordered, values_TA)
    return ActionTable(values_TA, chosen, tuple(notes))


def write_actions(path: Path | str, values_TA: ArrayLike, schema: Schema = "named", *, first_step: int = 1) -> None:
    """Write action values [T, 16] as CSV in a schema; `read_actions` gives exactly these back.

    Args:
        path: where.
        values_TA: integers [T, 16] in slot order.
        schema: `named` (the header people of the guide expect) or `binned`.
        first_step: the number in the first row's step column.

    Raises:
        ActionError: when a value is outside its slot's range or the schema is unknown.
        PlayloomError: when the place cannot be written to or the disk is full.
    """
    rows_T16 = values_to_rows(np.asarray(values_TA).reshape(-1, len(SLOT_NAMES)), schema)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([STEP_COLUMN, *_ORDERS[schema]])
    for step, row in enumerate(rows_T16, first_step):
        writer.writerow([step, *(f"{value:g}" for value in row)])
    with atomic_write(path) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def check_schema(schema: str) -> None:
    """Raise an ActionError, naming the choices, unless it is a schema or `auto`."""
    known = [*get_args(Schema), "auto"]
    if schema not in known:
        raise ActionError(f"unknown action schema {schema!r}; {did_you_mean(schema, known)}")


def _read_cells(path: Path) -> tuple[list[str], list[list[str]]]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise ActionError(f"there is no file {path}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ActionError(f"{path} cannot be read as a CSV file ({error}); expected UTF-8 text") from error
    separator = _separator(text)
    lines = [
        [cell.strip() for cell in line] for line in csv.reader(io.StringIO(text), delimiter=separator) if any(line)
    ]
    if len(lines) < 2:
        raise ActionError(f"{path} holds no actions; expected a header step,{','.join(_NAMED_ORDER)} and rows")
    header, rows = lines[0], lines[1:]
    if separator != ",":  # where a spreadsheet writes these, it writes 0,5 for a half
        rows = [[cell.replace(",", ".") for cell in row] for row in rows]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise ActionError(f"{path} row {number} has {len(row)} cells; the header has {len(header)}")
    return header, rows


def _separator(text: str) -> str:
    """What stands between the header's cells: a comma, or what spreadsheets of other countries write."""
    header = text.lstrip().partition("\n")[0]
    return next((mark for mark in ";\t" if mark in header and "," not in header), ",")


def _check_columns(path: Path | str, header: Sequence[str]) -> None:
    missing = [name for name in _NAMED_ORDER if name not in header]
    if missing:
        expected = ",".join(_NAMED_ORDER)
        which = "that names a control" if len(missing) == len(_NAMED_ORDER) else ", ".join(missing)
        raise ActionError(f"{path} has no column {which}; expected the header step,{expected}")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise ActionError(f"{path} has the column {', '.join(twice)} more than once; keep one")


def _unknown_columns(path: Path | str, header: Sequence[str]) -> list[str]:
    unknown = [name for name in header if name not in _CONTROLS and name != STEP_COLUMN]
    return [f"{path}: left out the columns {', '.join(unknown)}, which are no controls"] if unknown else []


def _rounded(path: Path | str, asked_TA: NDArray[np.float64], values_TA: NDArray[np.uint8]) -> list[str]:
    """One sentence for all values that are not played exactly, with the first of them."""
    played_TA = values_to_rows(values_TA, "named")  # with this schema's signs
    places = [
        (row, column)
        for row, column in np.argwhere(asked_TA != played_TA)
        if is_rounded(asked_TA[row, column], played_TA[row, column])
    ]
    if not places:
        return []
    row, column = places[0]
    example = rounding(_NAMED_ORDER[column], asked_TA[row, column], played_TA[row, column])
    return [f"{path}: {len(places)} value{'s are' if len(places) > 1 else ' is'} rounded; in row {row + 1}, {example}"]


def _check_steps(path: Path | str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    if STEP_COLUMN not in header:
        return
    column = header.index(STEP_COLUMN)
    expected: int | None = None
    for index, row in enumerate(rows, 1):
        try:
            number = int(row[column])
        except ValueError as error:
            raise ActionError(f"{path} row {index}: step is {row[column]!r}; expected a whole number") from error
        if expected is not None and number != expected:
            raise ActionError(f"{path} row {index}: step is {number}; expected {expected}, one row a step")
        expected = number + 1


def _numbers(path: Path | str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> NDArray[np.float64]:
    columns = [header.index(name) for name in SLOT_NAMES]
    numbers = np.empty((len(rows), len(columns)))
    for index, row in enumerate(rows):
        for slot, column in enumerate(columns):
            try:
                numbers[index, slot] = float(row[column])
            except ValueError as error:
                where = f"{path} row {index + 1}, column {SLOT_NAMES[slot]}"
                raise ActionError(f"{where}: {row[column]!r} is not a number") from error
    return numbers


def _detect(path: Path | str, numbers: NDArray[np.float64]) -> tuple[Schema, str]:
    try:
        return detect_schema(numbers)
    except ActionError as error:
        raise ActionError(f"{path}: {error}") from error


def _check_values(path: Path | str, numbers: NDArray[np.float64], schema: Schema) -> None:
    """Cell by cell, so that the message names the cell; the codec alone would only name the field."""
    for index, row in enumerate(numbers.tolist(), 1):
        for name, value in zip(SLOT_NAMES, row, strict=True):
            try:
                if schema == "named":
                    _CONTROLS[name].check(value)
                elif value not in range(_BINS[name]):
                    raise ActionError(f"{name} is {value:g}; expected a whole number 0 to {_BINS[name] - 1}")
            except PlayloomError as error:
                other = "binned" if schema == "named" else "named"
                hint = f" in the {schema} schema; if the file is in the other one, say --schema {other}"
                raise ActionError(f"{path} row {index}, column {error}{hint}") from error


class Inputs(NamedTuple):
    """Actions to give, and what was chosen on the way."""

    actions_SA: NDArray[np.uint8]
    """Action values [S, 16]."""
    notes: tuple[str, ...]
    """Sentences for the user."""


def read_inputs(text: str, schema: Schema | Literal["auto"], steps: int | None) -> Inputs:
    """The actions that `text` names: a CSV file if there is one of that name, else a script of held inputs.

    Args:
        text: a path, or a script such as `right_stick_x=1 for 10` (see `playloom.actions.script`).
        schema: of the CSV.
        steps: how many are wanted; None: as many as there are.

    Raises:
        ActionError: when neither can be read.
    """
    if _is_there(text, Path.is_file):
        table = read_actions(text, schema)
        found = Inputs(table.values_TA, table.notes)
        return found if steps is None else fit_length(found, steps, "the table")
    if Path(text).suffix.lower() == ".csv" or _is_there(text, Path.is_dir):
        raise ActionError(f"there is no file {text}; give a CSV of actions, or held inputs such as 'forward for 10'")
    script = parse_script(text, steps)
    return Inputs(script.values_SA, tuple(script.notes))


def _is_there(text: str, kind: Callable[[Path], bool]) -> bool:
    try:
        return bool(text.strip()) and kind(Path(text))
    except OSError:  # a script may be longer than a file's name can be
        return False


def fit_length(inputs: Inputs, steps: int, what: str) -> Inputs:
    """Exactly `steps` actions: the first ones, or rest where there are too few, which is said."""
    missing = steps - len(inputs.actions_SA)
    if missing <= 0:
        return Inputs(inputs.actions_SA[:steps], inputs.notes)
    note = f"{what} ends after {len(inputs.actions_SA)} steps; the last {missing} of {steps} are at rest"
    rest_SA = np.tile(REST_VALUES, (missing, 1))
    return Inputs(np.concatenate([inputs.actions_SA, rest_SA]).astype(np.uint8), (*inputs.notes, note))
