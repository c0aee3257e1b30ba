"""Controller state of one step: sixteen named fields, and the table of controls.

Inside playloom `+y` is forward on the left stick and up on the right one, as XInput reports it.

    >>> ControllerState(right_stick_x=1.0).right_stick_x
    1.0
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from playloom.errors import ActionError


@dataclass(frozen=True)
class Control:
    """Name and range of a control."""

    name: str
    """Field name, as in the `named` schema."""

    @property
    def kind(self) -> Literal["axis", "trigger", "button"]:
        """`axis` in [-1, 1], `trigger` in [0, 1] or `button` 0 or 1."""
        return "axis" if "_stick_" in self.name else "trigger" if self.name.startswith("trigger") else "button"

    @property
    def low(self) -> float:
        """Smallest legal value."""
        return -1.0 if self.kind == "axis" else 0.0

    def check(self, value: float) -> float:
        """Return the value as a float."""
        number = float(value)
        if not self.low <= number <= 1.0 or (self.kind == "button" and number not in (0.0, 1.0)):
            raise ActionError(self.error(number))
        return number

    def error(self, value: float) -> str:
        """Return the sentence for a value that is out of range."""
        legal = "0 or 1" if self.kind == "button" else f"{self.low:g} to 1"
        return f"{self.name} is {value:g}; expected {legal}"


@dataclass(frozen=True, kw_only=True)
class ControllerState:
    """Controller during one step of 0.1 s. Every field rests at 0.

    Triggers are in [0, 1]. Face buttons, the directional pad, `skill_1` (left bumper, LB) and `skill_2` (right bumper,
    RB) are 0 or 1.

    Attributes:
        left_stick_x: strafe, [-1, 1], +1 right.
        left_stick_y: walk, [-1, 1], +1 forward.
        right_stick_x: turn, [-1, 1], +1 clockwise.
        right_stick_y: look, [-1, 1], +1 up.
    """

    left_stick_x: float = 0.0
    left_stick_y: float = 0.0
    right_stick_x: float = 0.0
    right_stick_y: float = 0.0
    trigger_LT: float = 0.0
    trigger_RT: float = 0.0
    button_A: float = 0.0
    button_B: float = 0.0
    button_X: float = 0.0
    button_Y: float = 0.0
    dpad_up: float = 0.0
    dpad_down: float = 0.0
    dpad_left: float = 0.0
    dpad_right: float = 0.0
    skill_1: float = 0.0
    skill_2: float = 0.0

    def __post_init__(self) -> None:
        for control in CONTROLS:
            object.__setattr__(self, control.name, control.check(getattr(self, control.name)))


CONTROLS = tuple(Control(field.name) for field in fields(ControllerState))
"""The sixteen controls in the order of the `named` schema (and of the CSV header)."""
