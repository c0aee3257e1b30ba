"""State to sixteen small integers and back: what the transformer reads as action tokens.

Slot order is the `binned` one: twelve binary controls, then four stick axes of eleven bins. Bin edges and values
are those observed of the published model. Works on whole arrays; `N` is any number of leading dimensions.

    >>> decode_values(encode_named(np.zeros(16)))[0]
    0.0

The two ways sixteen numbers travel in files and requests: `named` and `binned`.

A schema is always named, never guessed, except by an explicit `auto`, which says what it chose and why.

    >>> rows_to_values([0.0] * 16, "named").tolist()[-4:]
    [5, 5, 5, 5]

Sixteen numbers of a request to action values, in any form that clients are known to send.

=========  ====================================================================================================
`named`    the guide's order: sticks -1 to 1 (left y -1 forward), triggers 0 to 1, buttons 0 or 1
`binned`   the data set's order: twelve 0 or 1, then four stick bins 0 to 10, 5 at rest, +y forward
`sticks`   the job server's: the data set's order, but sticks -1 to 1, +y forward
`auto`     decided for each vector alone, by the rule below; for formats that have no field to say it
=========  ====================================================================================================

`auto`: whole numbers that fit the bins, one of the last four above 1 → `binned`. Else a fraction or a minus sign among
the last four, and none among the first four → `sticks`. Else `named`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError, did_you_mean

BIN_EDGES = np.array([0.05, 0.25, 0.5, 0.75, 0.95], np.float32)
"""Edges between the stick bins right of rest; those left of it mirror them. The outer ones are -1.05 and 1.05."""
BIN_VALUES = np.array([-1, -0.85, -0.625, -0.375, -0.15, 0, 0.15, 0.375, 0.625, 0.85, 1], np.float32)
"""The stick position each bin stands for."""
REST_BIN = 5
"""The bin of a stick at rest."""

_NAMES = [control.name for control in CONTROLS]
_BINARY = [i for i, c in enumerate(CONTROLS) if c.kind != "axis"]
_AXES = [i for i, c in enumerate(CONTROLS) if c.kind == "axis"]

SLOT_NAMES: tuple[str, ...] = tuple(_NAMES[i] for i in _BINARY + _AXES)
"""The control each action slot carries."""
SLOT_SIZES: tuple[int, ...] = (2,) * len(_BINARY) + (len(BIN_VALUES),) * len(_AXES)
"""How many values each action slot can take."""
ACTION_SLOTS = len(SLOT_SIZES)
"""Action slots a step: A."""
REST_VALUES = np.array([0] * len(_BINARY) + [REST_BIN] * len(_AXES), np.uint8)
"""The sixteen values of a controller at rest."""


def encode_named(state_N16: ArrayLike) -> NDArray[np.uint8]:
    """Internal states to action values.

    Args:
        state_N16: float array [..., 16] in the order of `CONTROLS`, +y forward / up; sticks in [-1, 1], triggers
            in [0, 1], buttons 0 or 1. Triggers count as pressed from 0.5, sticks fall into their bin.

    Returns:
        uint8 array [..., 16] in slot order: twelve values 0 or 1, four bins 0 to 10.

    Raises:
        ActionError: when the last dimension is not 16 or a value is out of range; names the field and its range.
    """
    state = np.asarray(state_N16, np.float32)
    check_state(state)
    values = np.empty(state.shape, np.uint8)
    values[..., : len(_BINARY)] = state[..., _BINARY] >= 0.5
    sticks = state[..., _AXES]
    away = np.searchsorted(BIN_EDGES, np.abs(sticks), side="right")  # mirrored states get mirrored bins
    values[..., len(_BINARY) :] = REST_BIN + np.where(sticks < 0, -away, away)
    return values


def decode_values(values_NA: ArrayLike) -> NDArray[np.float32]:
    """Action values to internal states; the exact inverse of `encode_named` on bin values.

    Args:
        values_NA: integer array [..., 16] in slot order.

    Returns:
        float32 array [..., 16] in the order of `CONTROLS`, +y forward / up.

    Raises:
        ActionError: when a value is outside its slot's range.
    """
    values = check_values(values_NA)
    state = np.empty(values.shape, np.float32)
    state[..., _BINARY] = values[..., : len(_BINARY)]
    state[..., _AXES] = BIN_VALUES[values[..., len(_BINARY) :]]
    return state


def check_values(values_NA: ArrayLike) -> NDArray[np.uint8]:
    """The values as uint8, or an `ActionError` that names the first slot outside its range."""
    values = np.asarray(values_NA)
    if values.ndim == 0 or values.shape[-1] != ACTION_SLOTS:
        raise ActionError(f"an action has {ACTION_SLOTS} numbers; got an array of shape {values.shape}")
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64, copy=False)
    wrong = (whole != values) | (whole < 0) | (whole >= np.array(SLOT_SIZES))
    if wrong.any():
        slot = int(np.argwhere(wrong)[0][-1])
        value = values[wrong].flat[0]
        raise ActionError(f"{SLOT_NAMES[slot]} is {value}; expected a whole number 0 to {SLOT_SIZES[slot] - 1}")
    return whole.astype(np.uint8)


def mirror_values(values_NA: ArrayLike) -> NDArray[np.uint8]:
    """The action values that fit a left-right mirrored picture (both sticks' x negated, d-pad sides swapped)."""
    state = decode_values(values_NA)
    mirrored = np.empty_like(state)
    for index, control in enumerate(CONTROLS):
        sign = -1 if control.negate else 1
        mirrored[..., _NAMES.index(control.mirror)] = sign * state[..., index]
    return encode_named(mirrored)


def check_state(state_N16: NDArray[np.float32]) -> None:
    """An `ActionError` that names the first field outside its range, or the shape when that is wrong."""
    if state_N16.ndim == 0 or state_N16.shape[-1] != len(CONTROLS):
        raise ActionError(f"an action has {len(CONTROLS)} numbers; got an array of shape {state_N16.shape}")
    low = np.array([c.low for c in CONTROLS], np.float32)
    buttons = np.array([c.kind == "button" for c in CONTROLS])
    wrong = ~((state_N16 >= low) & (state_N16 <= 1)) | (buttons & (state_N16 != 0) & (state_N16 != 1))
    if wrong.any():
        index = int(np.argwhere(wrong)[0][-1])
        CONTROLS[index].check(float(state_N16[wrong].flat[0]))


Schema = Literal["named", "binned"]
"""`named`: the order of `CONTROLS` as floats, left y -1 = forward, right y -1 = up (the guide's CSV header).
`binned`: slot order, twelve 0/1 then four stick bins 0 to 10, +y = forward / up (the published data set)."""

_Y_AXES = [i for i, c in enumerate(CONTROLS) if c.name.endswith("stick_y")]


def rows_to_values(rows_N16: ArrayLike, schema: Schema) -> NDArray[np.uint8]:
    """Raw vectors in a named schema to action values, uint8 [..., 16] in slot order.

    Raises:
        ActionError: when the schema is unknown, the shape is wrong or a value is out of range (names the field).
    """
    _check_schema(schema)
    if schema == "binned":
        return check_values(rows_N16)
    rows = np.asarray(rows_N16, np.float32)
    check_state(rows)  # before the flip, so that an error shows the number that came
    return encode_named(_flip_y(rows))


def values_to_rows(values_NA: ArrayLike, schema: Schema) -> NDArray[np.float32]:
    """Action values to raw vectors, float32 [..., 16], in a named schema; inverse of `rows_to_values`."""
    _check_schema(schema)
    if schema == "binned":
        return check_values(values_NA).astype(np.float32)
    return _flip_y(decode_values(values_NA))


def detect_schema(rows_N16: ArrayLike) -> tuple[Schema, str]:
    """Which schema the vectors fit, and a sentence that says why.

    Raises:
        ActionError: when they fit neither.
    """
    rows = np.asarray(rows_N16, np.float64).reshape(-1, len(CONTROLS))
    whole = bool((rows == np.round(rows)).all())
    if whole and (rows >= 0).all() and (rows < np.array(SLOT_SIZES)).all() and (rows[:, 12:] > 1).any():
        return "binned", "whole numbers, the last four within 0 to 10 and beyond 1, as stick bins are"
    if (np.abs(rows) <= 1).all():
        return "named", "every number lies within -1 to 1, and the last four never show a stick bin above 1"
    raise ActionError("these action numbers fit neither schema; say --schema named or --schema binned")


def _flip_y(state: NDArray[np.float32]) -> NDArray[np.float32]:
    if state.ndim == 0 or state.shape[-1] != len(CONTROLS):
        raise ActionError(f"an action has {len(CONTROLS)} numbers; got an array of shape {state.shape}")
    flipped = state.copy()
    flipped[..., _Y_AXES] = 0 - state[..., _Y_AXES]  # 0 - x keeps a resting stick at +0.0
    return flipped


def _check_schema(schema: str) -> None:
    if schema not in get_args(Schema):
        raise ActionError(f"unknown action schema {schema!r}; {did_you_mean(schema, get_args(Schema))}")


Form = Literal["auto", "named", "binned", "sticks"]
_LARGEST = 10
"""The last bin of a stick; no form knows a larger number."""
_PLACE = [[c.name for c in CONTROLS].index(name) for name in SLOT_NAMES]
"""Where each slot's control stands in the order of `CONTROLS`."""


def read_vector(numbers: Sequence[float], form: Form, where: str) -> NDArray[np.uint8]:
    """Action values uint8 [16] of sixteen numbers.

    Args:
        numbers: what came.
        form: see the table above.
        where: what to call it in messages.

    Raises:
        ActionError: when these are not sixteen finite numbers in their ranges.
    """
    row = np.array(numbers, np.float64)
    if row.shape != (len(CONTROLS),):
        raise ActionError(f"{where} has {len(numbers)} numbers; expected {len(CONTROLS)}")
    if not (np.abs(row) <= _LARGEST).all():  # NaN included
        raise ActionError(f"{where} holds a number that no control has")
    known = _form_of(row) if form == "auto" else form
    try:
        return _sticks_to_values(row) if known == "sticks" else rows_to_values(row, known)
    except ActionError as error:
        raise ActionError(f"{where}: {error} (read as {known})") from None


def bins_of(values_A: NDArray[np.uint8]) -> list[int]:
    """As the hosted endpoint answers: sixteen whole numbers, bins."""
    return [int(value) for value in values_A]


def sticks_of(values_A: NDArray[np.uint8]) -> list[float]:
    """As the job server answers: twelve 0 or 1, then four sticks -1 to 1, +y forward."""
    state = decode_values(values_A)
    return [round(float(state[place]), 3) for place in _PLACE]


def _form_of(row: NDArray[np.float64]) -> Literal["named", "binned", "sticks"]:
    whole = bool((row == np.round(row)).all())
    if whole and (row >= 0).all() and (row < np.array(SLOT_SIZES)).all() and (row[12:] > 1).any():
        return "binned"
    return "sticks" if _moves(row[12:]) and not _moves(row[:4]) else "named"


def _moves(four: NDArray[np.float64]) -> bool:
    """Whether these can only be sticks."""
    return bool(((four < 0) | (four != np.round(four))).any())


def _sticks_to_values(row: NDArray[np.float64]) -> NDArray[np.uint8]:
    state = np.empty(len(CONTROLS), np.float32)
    state[_PLACE] = row
    return encode_named(state)
