"""The inputs a dream is given: a CSV, a script of held inputs, or what was really done. Values only."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions import REST_VALUES, Schema
from playloom.actions.script import parse_script
from playloom.errors import ActionError
from playloom.media.tables import read_actions


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
    if Path(text).is_file():
        table = read_actions(text, schema)
        found = Inputs(table.values_TA, table.notes)
        return found if steps is None else fit_length(found, steps, "the table")
    if Path(text).suffix.lower() == ".csv" or _is_folder(text):
        raise ActionError(f"there is no file {text}; give a CSV of actions, or held inputs such as 'forward for 10'")
    script = parse_script(text, steps)
    return Inputs(script.values_SA, tuple(script.notes))


def _is_folder(text: str) -> bool:
    return bool(text.strip()) and Path(text).is_dir()


def fit_length(inputs: Inputs, steps: int, what: str) -> Inputs:
    """Exactly `steps` actions: the first ones, or rest where there are too few, which is said."""
    missing = steps - len(inputs.actions_SA)
    if missing <= 0:
        return Inputs(inputs.actions_SA[:steps], inputs.notes)
    note = f"{what} ends after {len(inputs.actions_SA)} steps; the last {missing} of {steps} are at rest"
    rest_SA = np.tile(REST_VALUES, (missing, 1))
    return Inputs(np.concatenate([inputs.actions_SA, rest_SA]).astype(np.uint8), (*inputs.notes, note))
