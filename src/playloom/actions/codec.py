"""State to sixteen small integers and back: what the transformer reads as action tokens.

Slot order is the `binned` one: twelve binary controls, then four stick axes of eleven bins. Bin edges and values
are those observed of the published model. Works on whole arrays; `N` is any number of leading dimensions.

    >>> decode_values(encode_named(np.zeros(16)))[0]
    0.0
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError

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
