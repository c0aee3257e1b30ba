"""The controller: sixteen named fields, their wire schemas, and the codec to small integers. No torch here."""

from playloom.actions.codec import (
    ACTION_SLOTS,
    REST_VALUES,
    SLOT_SIZES,
    Schema,
    decode_values,
    detect_schema,
    encode_named,
    rows_to_values,
    values_to_rows,
)
from playloom.actions.controller import CONTROLS, Control, ControllerState

__all__ = [
    "ACTION_SLOTS",
    "CONTROLS",
    "REST_VALUES",
    "SLOT_SIZES",
    "Control",
    "ControllerState",
    "Schema",
    "decode_values",
    "detect_schema",
    "encode_named",
    "rows_to_values",
    "values_to_rows",
]
