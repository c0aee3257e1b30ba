"""Controller state to engine buttons.

Turning has no inertia, walking has: the engine's friction lets speed build up over about four steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from playloom.actions.controller import CONTROLS

TICS_PER_STEP = 3  # engine tics (declared 1/30 s each) in one step of 0.1 s
TURN_PER_TIC = 3.0  # degrees a tic at full right stick x
LOOK_PER_TIC = 1.5  # degrees a tic at full right stick y
WALK, STRAFE, SPRINT = 34.0, 30.0, 50.0
"""Engine units of thrust at full left stick: forward, sideways, and forward with B held."""
STICK_CURVE = 1.7

_HELD = {
    "ATTACK": "trigger_RT",
    "ALTATTACK": "skill_1",
    "RELOAD": "skill_2",
    "JUMP": "button_A",
    "CROUCH": "trigger_LT",
    "USE": "button_X",
    "SELECT_NEXT_WEAPON": "button_Y",
    "SELECT_WEAPON2": "dpad_down",
    "SELECT_WEAPON3": "dpad_left",
    "SELECT_WEAPON4": "dpad_up",
    "SELECT_WEAPON5": "dpad_right",
}
BUTTONS: tuple[str, ...] = (
    "MOVE_FORWARD_BACKWARD_DELTA",
    "MOVE_LEFT_RIGHT_DELTA",
    "TURN_LEFT_RIGHT_DELTA",
    "LOOK_UP_DOWN_DELTA",
    *_HELD,
)
"""The engine's buttons in the order `engine_buttons` fills them."""
_INDEX = {control.name: index for index, control in enumerate(CONTROLS)}


def turn_per_step(stick: float) -> float:
    """Return degrees of clockwise turn per step for a right stick x in [-1, 1]."""
    return TICS_PER_STEP * TURN_PER_TIC * _curve(stick)


def look_per_step(stick: float) -> float:
    """Return degrees of upward look per step for a right stick y in [-1, 1]."""
    return TICS_PER_STEP * LOOK_PER_TIC * _curve(stick)


def engine_buttons(state_A: Sequence[float]) -> list[float]:
    """Convert a controller state (16 floats, order of `CONTROLS`, +y forward / up) to values for `BUTTONS`."""

    def value(name: str) -> float:
        return float(state_A[_INDEX[name]])

    return [
        value("left_stick_y") * (SPRINT if value("button_B") >= 0.5 else WALK),
        value("left_stick_x") * STRAFE,
        _curve(value("right_stick_x")) * TURN_PER_TIC,
        _curve(value("right_stick_y")) * LOOK_PER_TIC,
        *(float(value(name) >= 0.5) for name in _HELD.values()),
    ]


def _curve(stick: float) -> float:
    return math.copysign(abs(stick) ** STICK_CURVE, stick)
