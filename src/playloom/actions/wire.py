"""The two ways sixteen numbers travel in files and requests: `named` and `binned`.

A schema is always named, never guessed, except by an explicit `auto`, which says what it chose and why.

    >>> rows_to_values([0.0] * 16, "named").tolist()[-4:]
    [5, 5, 5, 5]
"""

from __future__ import annotations

from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import SLOT_SIZES, check_state, check_values, decode_values, encode_named
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError, nearest

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
        raise ActionError(f"unknown action schema {schema!r}; {nearest(schema, get_args(Schema))}")
