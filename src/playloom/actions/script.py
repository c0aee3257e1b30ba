"""A small language of held inputs: what a player holds, and for how long.

Owns the language. Knows nothing of files, games or models.

    >>> parse_script("right_stick_x=1 for 10").values_SA.shape
    (10, 16)
    >>> to_script(parse_script("forward + turn_right=0.625 for 5; rest for 3; fire").values_SA)
    'left_stick_y=1 right_stick_x=0.625 for 5; rest for 3; trigger_RT for 1'

====================  ===================================================================================
part                  held inputs, then how long; parts are separated by `;`, `,`, `then` or a new line
inputs                one or more, joined by spaces or `+`; what is not named rests
`name=value`          any of the sixteen controls: sticks -1 to 1, triggers 0 to 1, buttons 0 or 1
`name`                a trigger or button, pressed
`for 10`, `for 2s`    ten steps (of 0.1 s), or two seconds; without it a part lasts one step, except that the
                      last part is held until the end when a number of steps is asked for
`rest`                nothing is held
forward, back         left_stick_y = 1, -1 (+y is forward and up here, as on a real controller)
left, right           left_stick_x = -1, 1 (sidestep)
turn_left, turn_right right_stick_x = -1, 1
look_up, look_down    right_stick_y = 1, -1
fire, jump, crouch    trigger_RT, button_A, trigger_LT
use                   button_X
LT RT A B X Y LB RB   trigger_LT, trigger_RT, button_A … button_Y, skill_1, skill_2
lx ly rx ry           left_stick_x, left_stick_y, right_stick_x, right_stick_y
`alias=value`         the alias, scaled: forward=0.5 is half forward, played as 0.625, the nearest position
====================  ===================================================================================

Capitals do not matter. A stick falls into the nearest of the eleven positions the model knows, which is said.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import (
    BIN_VALUES,
    REST_VALUES,
    Schema,
    check_values,
    decode_values,
    encode_named,
    rows_to_values,
)
from playloom.actions.controller import CONTROLS, ControllerState
from playloom.errors import ActionError

MAX_STEPS = 100_000
"""The longest script: two hours and three quarters of play."""
STEPS_PER_SECOND = 10

_ALIASES: dict[str, tuple[str, float]] = {
    "forward": ("left_stick_y", 1),
    "back": ("left_stick_y", -1),
    "left": ("left_stick_x", -1),
    "right": ("left_stick_x", 1),
    "turn_left": ("right_stick_x", -1),
    "turn_right": ("right_stick_x", 1),
    "look_up": ("right_stick_y", 1),
    "look_down": ("right_stick_y", -1),
    "fire": ("trigger_RT", 1),
    "jump": ("button_A", 1),
    "crouch": ("trigger_LT", 1),
    "use": ("button_X", 1),
    "LT": ("trigger_LT", 1),
    "RT": ("trigger_RT", 1),
    "A": ("button_A", 1),
    "B": ("button_B", 1),
    "X": ("button_X", 1),
    "Y": ("button_Y", 1),
    "LB": ("skill_1", 1),
    "RB": ("skill_2", 1),
    "lx": ("left_stick_x", 1),
    "ly": ("left_stick_y", 1),
    "rx": ("right_stick_x", 1),
    "ry": ("right_stick_y", 1),
}
_NEEDS_VALUE = {"lx", "ly", "rx", "ry"} | {c.name for c in CONTROLS if c.kind == "axis"}
_CONTROLS = {control.name: control for control in CONTROLS}
_WORDS = {name.lower(): name for name in [*_CONTROLS, *_ALIASES, "rest"]}

_MEANT = [name for name in _ALIASES if len(name) > 2] + ["rest"]
"""Words of the language that people say; the short codes are left out of suggestions."""

_SEPARATOR = re.compile(r"[;,\n]|\bthen\b", re.IGNORECASE)
_DURATION = re.compile(r"\bfor\b(.*)$", re.IGNORECASE | re.DOTALL)
_LENGTH = re.compile(r"(\d+)\s*(?:steps?)?|(\d+(?:\.\d+)?)\s*(?:s|seconds?)", re.IGNORECASE)
# A `+` joins inputs, except right after `=`, where it is a sign.
_INPUT = re.compile(r"[\s+]*([a-z_]\w*)(?:\s*=\s*([+-]?[^\s+]*))?(?=[\s+]|$)", re.IGNORECASE)


class Script(NamedTuple):
    """The actions a script stands for."""

    values_SA: NDArray[np.uint8]
    """Action values [S, 16] in slot order, one row a step."""
    notes: tuple[str, ...]
    """What was rounded, cut or filled up, as sentences."""


_NAMED = (str, Mapping, ControllerState)
NamedAction: TypeAlias = str | Mapping[str, float] | ControllerState
"""Held inputs by name: "forward + fire", {"right_stick_x": 1.0}, or a `ControllerState`."""
Action: TypeAlias = NamedAction | ArrayLike
"""Held inputs of one step: by name, or as 16 numbers in a schema."""


def action_values(action: Action, schema: Schema | None = None) -> NDArray[np.uint8]:
    """Encode the held inputs of one step.

    Args:
        action: see `Action`; a uint8 array [16] holds action values, as `StepResult.action_A` does.
        schema: encoding of any other 16 numbers: `named` or `binned`.

    Returns:
        Action values, uint8 [16].

    Raises:
        ActionError: when a name is unknown, a value is out of range, the words last longer than a step, or the
            encoding of raw numbers is not given.
    """
    if isinstance(action, _NAMED):
        held_SA = parse_script(_words(action)).values_SA
        if len(held_SA) != 1:
            raise ActionError(f"the action {action!r} is too long: got {len(held_SA)} steps, expected 1")
        return held_SA[0]
    try:
        row = np.asarray(action)
        if schema is None and row.dtype == np.uint8 and row.shape == (len(CONTROLS),):
            return check_values(row)
        if schema is None:
            raise ActionError(
                f"the encoding of raw numbers is unknown: got {row.dtype} {list(row.shape)}, expected a schema; give "
                "schema='named' or 'binned', or names such as {'left_stick_y': 1.0}"
            )
        values_A = rows_to_values(row, schema)
    except (TypeError, ValueError) as error:
        if isinstance(error, ActionError):
            raise
        raise ActionError(f"an action is wrong: got {action!r:.60}, expected names or 16 numbers") from error
    if values_A.shape != (len(CONTROLS),):
        raise ActionError(f"an action is wrong: got an array {list(values_A.shape)}, expected [{len(CONTROLS)}]")
    return values_A


def as_script(actions: Action | Iterable[Action], schema: Schema | None = None) -> str:
    """Write held inputs of any form as a script.

    Args:
        actions: a script; held inputs by name, for one step or until the end; or one `Action` for each step.
        schema: encoding of raw numbers; see `action_values`.

    Raises:
        ActionError: see `action_values`.
    """
    if isinstance(actions, _NAMED):
        return _words(actions)
    if not isinstance(actions, Iterable):
        raise ActionError(f"actions are wrong: got {actions!r:.60}, expected names or rows of 16 numbers")
    rows = list(actions)
    named = [_words(row) for row in rows if isinstance(row, _NAMED)]
    if len(named) == len(rows):
        return "; ".join(named)
    return to_script(np.stack([action_values(row, schema) for row in rows]))


def _words(action: NamedAction) -> str:
    if isinstance(action, str):
        return action
    if isinstance(action, ControllerState):
        action = {c.name: value for c in CONTROLS if (value := getattr(action, c.name))}
    return " ".join(f"{name}={value}" for name, value in action.items() if value is not False) or "rest"


class _Part(NamedTuple):
    values_A: NDArray[np.uint8]
    steps: int | None


def parse_script(text: str, steps: int | None = None) -> Script:
    """The actions of a script.

    Args:
        text: the script; see the table above.
        steps: how many steps are wanted. A longer script is cut, a shorter one is filled up with rest, or
            with its last part when that has no `for`. None means as long as the script is.

    Returns:
        `Script(values_SA uint8 [S, 16], notes)`.

    Raises:
        ActionError: when a part is not understood (names the part and the nearest word), a value is out of
            range, a control is set twice in one part, or the script is empty.
    """
    notes: dict[str, None] = {}
    parts = [_parse_part(part.strip(), notes) for part in _SEPARATOR.split(text) if part.strip()]
    if not parts:
        raise ActionError("the action script is empty; write for example: right_stick_x=1 for 10")
    lengths = [1 if part.steps is None else part.steps for part in parts]
    if steps is not None and parts[-1].steps is None:
        lengths[-1] = max(1, steps - sum(lengths[:-1]))
    if sum(lengths) > MAX_STEPS:
        raise ActionError(f"the action script lasts {sum(lengths)} steps; expected at most {MAX_STEPS}")
    values_SA = np.repeat(np.stack([part.values_A for part in parts]), lengths, axis=0)
    if steps is not None:
        values_SA = _fit_length(values_SA, steps, notes)
    return Script(values_SA, tuple(notes))


def to_script(values_SA: NDArray[np.uint8]) -> str:
    """The script that stands for the actions [S, 16]; `parse_script` gives exactly these back."""
    runs: list[tuple[str, int]] = []
    for values_A in values_SA:
        held = describe(values_A)
        runs.append((held, runs.pop()[1] + 1) if runs and runs[-1][0] == held else (held, 1))
    return "; ".join(f"{held} for {count}" for held, count in runs)


def describe(values_A: NDArray[np.uint8]) -> str:
    """What one action [16] holds, in the script's words: `right_stick_x=1 trigger_RT`, or `rest`."""
    state = decode_values(values_A)
    held = [
        control.name if control.kind != "axis" else f"{control.name}={value:g}"
        for control, value in zip(CONTROLS, state.tolist(), strict=True)
        if value
    ]
    return " ".join(held) or "rest"


def _parse_part(part: str, notes: dict[str, None]) -> _Part:
    duration = _DURATION.search(part)
    inputs = part[: duration.start()] if duration else part
    state: dict[str, float] = {}
    for name, value in _split_inputs(inputs, part):
        if name == "rest":
            _check_bare_rest(value, part)
            continue
        control, number = _control_value(name, value, part)
        if control in state:
            raise ActionError(f"{control} is set twice in {part!r}; set it once, or separate parts with ;")
        state[control] = number
    row = np.array([state.get(control.name, 0.0) for control in CONTROLS], np.float32)
    values_A = encode_named(row)
    _note_rounding(state, values_A, notes)
    return _Part(values_A, _parse_length(duration.group(1), part) if duration else None)


def _split_inputs(inputs: str, part: str) -> list[tuple[str, str | None]]:
    """The (word, value text) pairs of a part, each word known."""
    found: list[tuple[str, str | None]] = []
    position = 0
    text = inputs.strip().rstrip("+").rstrip()
    while position < len(text):
        match = _INPUT.match(text, position)
        if match is None:
            raise ActionError(f"cannot read {text[position:].strip()!r} in {part!r}; write name=value or name")
        word = match.group(1).lower()
        if word not in _WORDS:
            known = difflib.get_close_matches(word, [*_MEANT, *_CONTROLS], n=1)
            close = f"did you mean {known[0]}?" if known else f"say {', '.join(_MEANT)}, or a control such as button_B"
            raise ActionError(f"unknown input {match.group(1)!r} in {part!r}; {close}")
        found.append((_WORDS[word], match.group(2)))
        position = match.end()
    if not found:
        raise ActionError(f"{part!r} holds nothing; write rest for no input")
    return found


def _control_value(name: str, text: str | None, part: str) -> tuple[str, float]:
    control, factor = _ALIASES.get(name, (name, 1.0))
    if text is None:
        if name in _NEEDS_VALUE:
            raise ActionError(f"{name} needs a value in {part!r}; write for example {name}=1")
        return control, factor
    try:
        number = float(text)
    except ValueError as error:
        raise ActionError(f"{name} is {text!r} in {part!r}; expected a number") from error
    try:
        return control, _CONTROLS[control].check(number) * factor
    except ActionError as error:
        raise ActionError(f"{error} (in {part!r})") from error


def _check_bare_rest(value: str | None, part: str) -> None:
    if value is not None:
        raise ActionError(f"rest takes no value in {part!r}; write rest")


def _parse_length(text: str, part: str) -> int:
    match = _LENGTH.fullmatch(text.strip())
    if match is None:
        raise ActionError(f"cannot read the length {text.strip()!r} in {part!r}; write for 10, or for 1s")
    steps = int(match.group(1)) if match.group(1) else round(float(match.group(2)) * STEPS_PER_SECOND)
    if steps < 1:
        raise ActionError(f"{part!r} lasts {steps} steps; expected at least 1 (a step is 0.1 s)")
    return steps


def _note_rounding(state: dict[str, float], values_A: NDArray[np.uint8], notes: dict[str, None]) -> None:
    played = dict(zip(_CONTROLS, decode_values(values_A).tolist(), strict=True))
    for name, asked in state.items():
        if is_rounded(asked, played[name]):
            notes[rounding(name, asked, played[name])] = None


def is_rounded(asked: float, played: float) -> bool:
    """Whether another value is played than was asked for."""
    return abs(played - asked) > 1e-6


def rounding(name: str, asked: float, played: float) -> str:
    """The sentence for a value of a control that cannot be played exactly."""
    kind = _CONTROLS[name].kind
    why = f"the sticks have {len(BIN_VALUES)} positions" if kind == "axis" else "triggers are on or off"
    return f"{name}={asked:g} is played as {played:g}: {why}"


def _fit_length(values_SA: NDArray[np.uint8], steps: int, notes: dict[str, None]) -> NDArray[np.uint8]:
    scripted = len(values_SA)
    if scripted > steps:
        notes[f"the script lasts {scripted} steps; only the first {steps} are used"] = None
    elif scripted < steps:
        notes[f"the script lasts {scripted} of {steps} steps; the remaining {steps - scripted} rest"] = None
        filling = np.tile(REST_VALUES, (steps - scripted, 1))
        return np.concatenate([values_SA, filling])
    return values_SA[:steps]
