"""Sixteen numbers of a request to action values, in any form that clients are known to send.

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
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions import CONTROLS, SLOT_SIZES, decode_values, encode_named, rows_to_values
from playloom.actions.codec import SLOT_NAMES
from playloom.errors import ActionError

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
