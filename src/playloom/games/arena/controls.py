"""Controller state to engine buttons.

Turning has no inertia: a stick at x turns by 9 degrees * sign(x) * |x|^1.7 per step of three tics. Walking has: the
engine's friction lets speed build up over about four steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from playloom.actions.controller import CONTROLS

TICS_PER_STEP = 3
"""Engine tics (declared 1/30 s each) in one step of 0.1 s."""
TURN_PER_TIC = 3.0
"""Degrees a tic at full right stick x."""
LOOK_PER_TIC = 1.5
"""Degrees a tic at full right stick y."""
WALK, STRAFE, SPRINT = 34.0, 30.0, 50.0
"""Engine units of thrust at full left stick: forward, sideways, and forward with B held."""
STICK_CURVE = 1.7
"""Exponent of the right stick's response."""

BUTTONS: tuple[str, ...] = (
    "MOVE_FORWARD_BACKWARD_DELTA",
    "MOVE_LEFT_RIGHT_DELTA",
    "TURN_LEFT_RIGHT_DELTA",
    "LOOK_UP_DOWN_DELTA",
    "ATTACK",
    "ALTATTACK",
    "RELOAD",
    "JUMP",
    "CROUCH",
    "USE",
    "SELECT_NEXT_WEAPON",
    "SELECT_WEAPON2",
    "SELECT_WEAPON3",
    "SELECT_WEAPON4",
    "SELECT_WEAPON5",
)
"""The engine's buttons in the order `engine_buttons` fills them."""

CONTROL_EFFECTS: dict[str, str] = {
    "left_stick_x": "sidestep; +1 right",
    "left_stick_y": "walk; +1 forward",
    "right_stick_x": "turn; +1 clockwise at 90 degrees a second",
    "right_stick_y": "look; +1 up",
    "trigger_LT": "crouch: the body shrinks, the camera sinks",
    "trigger_RT": "fire the weapon in hand",
    "button_A": "jump",
    "button_B": "sprint: the left stick's forward thrust grows from 34 to 50",
    "button_X": "use: sinks a gate in front of the player; when dead, come back",
    "button_Y": "next weapon: another missile or flash",
    "dpad_up": "rocket launcher: one large, slow missile",
    "dpad_down": "shotgun: a ring of puffs",
    "dpad_left": "chaingun: quick flashes, puffs",
    "dpad_right": "plasma rifle: a stream of blue balls",
    "skill_1": "throw a slow ball of light",
    "skill_2": "set down a lamp that stands for four seconds",
}
"""Visible effect of each control."""

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

    def pressed(name: str) -> float:
        return float(value(name) >= 0.5)

    forward = SPRINT if pressed("button_B") else WALK
    return [
        value("left_stick_y") * forward,
        value("left_stick_x") * STRAFE,
        _curve(value("right_stick_x")) * TURN_PER_TIC,
        _curve(value("right_stick_y")) * LOOK_PER_TIC,
        pressed("trigger_RT"),
        pressed("skill_1"),
        pressed("skill_2"),
        pressed("button_A"),
        pressed("trigger_LT"),
        pressed("button_X"),
        pressed("button_Y"),
        pressed("dpad_down"),
        pressed("dpad_left"),
        pressed("dpad_up"),
        pressed("dpad_right"),
    ]


def _curve(stick: float) -> float:
    return math.copysign(abs(stick) ** STICK_CURVE, stick)
