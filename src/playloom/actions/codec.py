"""Encodings of an action: a controller state, sixteen small integers (the action tokens), and raw numbers in files.

Slot order is the `binned` one: twelve binary controls, then four stick axes of eleven bins. Bin edges and values are
those observed of the published model. Functions take whole arrays; `N` is any number of leading dimensions.

    >>> decode_values(encode_named(np.zeros(16)))[0]
    0.0

Raw numbers come in these forms:

=========  ====================================================================================================
`named`    order of `CONTROLS`: sticks -1 to 1 (left y -1 forward), triggers 0 to 1, buttons 0 or 1
`binned`   slot order: twelve 0 or 1, then four stick bins 0 to 10, 5 at rest, +y forward
`sticks`   slot order of the job server: as `binned`, but sticks -1 to 1, +y forward
`auto`     detected for each vector alone, for formats without a field for the schema
=========  ====================================================================================================

`auto`: whole numbers that fit the bins, one of the last four above 1 → `binned`. Else a fraction or a minus sign among
the last four, and none among the first four → `sticks`. Else `named`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError, did_you_mean

Schema = Literal["named", "binned"]
"""Encoding of raw numbers in files and requests: the first two of the table above."""
Form = Literal["auto", "named", "binned", "sticks"]
"""Encoding of the numbers of a request."""

BIN_EDGES = np.array([0.05, 0.25, 0.5, 0.75, 0.95], np.float32)
"""Edges between the stick bins right of rest; those left of it mirror them. The outer ones are -1.05 and 1.05."""
BIN_VALUES = np.array([-1, -0.85, -0.625, -0.375, -0.15, 0, 0.15, 0.375, 0.625, 0.85, 1], np.float32)
"""Stick position of each bin."""
REST_BIN = 5
"""Bin of a stick at rest."""

_NAMES = [control.name for control in CONTROLS]
_BINARY = [i for i, c in enumerate(CONTROLS) if c.kind != "axis"]
_AXES = [i for i, c in enumerate(CONTROLS) if c.kind == "axis"]
_SLOTS = _BINARY + _AXES
_Y_AXES = [i for i, c in enumerate(CONTROLS) if c.name.endswith("stick_y")]

SLOT_NAMES: tuple[str, ...] = tuple(_NAMES[i] for i in _SLOTS)
"""Control of each action slot."""
SLOT_SIZES: tuple[int, ...] = (2,) * len(_BINARY) + (len(BIN_VALUES),) * len(_AXES)
"""Number of values of each action slot."""
ACTION_SLOTS = len(SLOT_SIZES)
"""Action slots a step: A."""
REST_VALUES = np.array([0] * len(_BINARY) + [REST_BIN] * len(_AXES), np.uint8)
"""Action values of a controller at rest."""


def encode_named(state_N16: ArrayLike) -> NDArray[np.uint8]:
    """Encode controller states, float [..., 16] with +y forward and up, as action values, uint8 [..., 16].

    Triggers are pressed from 0.5.
    """
    state = np.asarray(state_N16, np.float32)
    _check_state(state)
    values = np.empty(state.shape, np.uint8)
    values[..., : len(_BINARY)] = state[..., _BINARY] >= 0.5
    sticks = state[..., _AXES]
    away = np.searchsorted(BIN_EDGES, np.abs(sticks), side="right")  # mirrored states get mirrored bins
    values[..., len(_BINARY) :] = REST_BIN + np.where(sticks < 0, -away, away)
    return values


def encode_vector(numbers_N16: ArrayLike) -> NDArray[np.uint8]:
    """Encode vectors [..., 16] of numbers in [-1, 1] as `encode_named`; buttons and triggers are pressed from 0.5."""
    state = np.array(numbers_N16, np.float32)
    _check_width(state)
    state[..., _BINARY] = state[..., _BINARY] >= 0.5
    return encode_named(state)


def decode_values(values_NA: ArrayLike) -> NDArray[np.float32]:
    """Decode action values [..., 16] as controller states, float32; the exact inverse of `encode_named` on bins."""
    values = check_values(values_NA)
    state = np.empty(values.shape, np.float32)
    state[..., _BINARY] = values[..., : len(_BINARY)]
    state[..., _AXES] = BIN_VALUES[values[..., len(_BINARY) :]]
    return state


def check_values(values_NA: ArrayLike) -> NDArray[np.uint8]:
    """Return action values [..., 16] as uint8."""
    values = np.asarray(values_NA)
    _check_width(values)
    with np.errstate(invalid="ignore"):
        whole = values.astype(np.int64, copy=False)
    wrong = (whole != values) | (whole < 0) | (whole >= np.array(SLOT_SIZES))
    if wrong.any():
        row, slot = _first(wrong)
        value, largest = values[wrong].flat[0], SLOT_SIZES[slot] - 1
        raise ActionError(f"{row}{SLOT_NAMES[slot]} is {value:g}; expected a whole number 0 to {largest}")
    return whole.astype(np.uint8)


def mirror_values(values_NA: ArrayLike) -> NDArray[np.uint8]:
    """Return the action values for a left-right mirrored picture: sticks' x negated, d-pad sides swapped."""
    mirrored = check_values(values_NA)
    left_x, right_x, *sides = map(SLOT_NAMES.index, ("left_stick_x", "right_stick_x", "dpad_left", "dpad_right"))
    mirrored[..., [left_x, right_x]] = 2 * REST_BIN - mirrored[..., [left_x, right_x]]
    mirrored[..., sides] = mirrored[..., sides[::-1]]
    return mirrored


def rows_to_values(rows_N16: ArrayLike, schema: Schema) -> NDArray[np.uint8]:
    """Encode raw numbers as action values, uint8 [..., 16]."""
    check_schema(schema, get_args(Schema))
    if schema == "binned":
        return check_values(rows_N16)
    rows = np.asarray(rows_N16, np.float32)
    _check_state(rows)  # before the flip, so that an error shows the number in the file
    return encode_named(_flip_y(rows))


def values_to_rows(values_NA: ArrayLike, schema: Schema) -> NDArray[np.float32]:
    """Return raw numbers, float32 [..., 16]; the inverse of `rows_to_values`."""
    check_schema(schema, get_args(Schema))
    if schema == "binned":
        return check_values(values_NA).astype(np.float32)
    return _flip_y(decode_values(values_NA))


def check_schema(schema: str, known: Sequence[str] = (*get_args(Schema), "auto")) -> None:
    """Raise an ActionError, naming the choices, unless the schema is one of them."""
    if schema not in known:
        raise ActionError(f"unknown action schema {schema!r}; {did_you_mean(schema, known)}")


def detect_schema(rows_N16: ArrayLike) -> tuple[Schema, str]:
    """Return the schema that the vectors fit, and a sentence with the reason; ActionError when they fit neither."""
    rows = np.asarray(rows_N16, np.float64).reshape(-1, len(CONTROLS))
    if _is_binned(rows):
        return "binned", "whole numbers, the last four within 0 to 10 and beyond 1, as stick bins are"
    if (np.abs(rows) <= 1).all():
        return "named", "every number lies within -1 to 1, and the last four never show a stick bin above 1"
    raise ActionError("these action numbers fit neither schema; say --schema named or --schema binned")


def read_vector(numbers: Sequence[float], form: Form, where: str) -> NDArray[np.uint8]:
    """Encode sixteen numbers of a request as action values, uint8 [16]; `where` is their name in errors."""
    row = np.array(numbers, np.float64)
    if row.shape != (len(CONTROLS),):
        raise ActionError(f"{where} has {len(numbers)} numbers; expected {len(CONTROLS)}")
    if not (np.abs(row) < len(BIN_VALUES)).all():  # NaN included
        raise ActionError(f"{where} holds a number that no control has")
    if form == "auto":
        only_stick = (row < 0) | (row != np.round(row))  # only a stick has such a number
        is_sticks = only_stick[len(_BINARY) :].any() and not only_stick[: len(_AXES)].any()
        form = "binned" if _is_binned(row) else "sticks" if is_sticks else "named"
    try:
        if form != "sticks":
            return rows_to_values(row, form)
        state = np.empty(len(CONTROLS), np.float32)
        state[_SLOTS] = row
        return encode_named(state)
    except ActionError as error:
        raise ActionError(f"{where}: {error} (read as {form})") from None


def sticks_of(values_A: NDArray[np.uint8]) -> list[float]:
    """Return action values as the job server answers: twelve 0 or 1, then four sticks -1 to 1, +y forward."""
    return [round(float(value), 3) for value in decode_values(values_A)[_SLOTS]]


def _check_width(array: NDArray[Any]) -> None:
    if array.ndim == 0 or array.shape[-1] != ACTION_SLOTS:
        raise ActionError(f"an action has {ACTION_SLOTS} numbers; got an array of shape {array.shape}")


def _check_state(state_N16: NDArray[np.float32]) -> None:
    _check_width(state_N16)
    low = np.array([c.low for c in CONTROLS], np.float32)
    buttons = np.array([c.kind == "button" for c in CONTROLS])
    wrong = ~((state_N16 >= low) & (state_N16 <= 1)) | (buttons & (state_N16 != 0) & (state_N16 != 1))
    if wrong.any():
        row, index = _first(wrong)
        raise ActionError(row + CONTROLS[index].error(float(state_N16[wrong].flat[0])))


def _first(wrong_N16: NDArray[np.bool_]) -> tuple[str, int]:
    """Prefix `row 3, ` and column of the first wrong number; no prefix for a single vector."""
    place = np.argwhere(wrong_N16)[0]
    return f"row {place[-2] + 1}, " if len(place) > 1 else "", int(place[-1])


def _flip_y(state: NDArray[np.float32]) -> NDArray[np.float32]:
    flipped = state.copy()
    flipped[..., _Y_AXES] = 0 - state[..., _Y_AXES]  # 0 - x keeps a resting stick at +0.0
    return flipped


def _is_binned(rows_K16: NDArray[np.float64]) -> bool:
    fits = (rows_K16 == np.round(rows_K16)) & (rows_K16 >= 0) & (rows_K16 < np.array(SLOT_SIZES))
    return bool(fits.all() and (rows_K16[..., len(_BINARY) :] > 1).any())
