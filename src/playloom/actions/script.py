"""Action scripts: a small language of inputs and durations.

    >>> parse_script("right_stick_x=1 for 10").values_SA.shape
    (10, 16)
    >>> to_script(parse_script("forward + turn_right=0.625 for 5; rest for 3; fire").values_SA)
    'left_stick_y=1 right_stick_x=0.625 for 5; rest for 3; trigger_RT for 1'

====================  ===================================================================================
part                  inputs, then their duration; parts are separated by `;`, `,`, `then` or a new line
inputs                one or more, joined by spaces or `+`; all others rest
`name=value`          any of the sixteen controls: sticks -1 to 1, triggers 0 to 1, buttons 0 or 1
`name`                a trigger or button, pressed
`for 10`, `for 2s`    ten steps (of 0.1 s), or two seconds; without it a part lasts one step, except that the
                      last part lasts until the end when the number of steps is given
`rest`                no input
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

Upper and lower case are equal. A stick value is rounded to the nearest of the model's eleven positions, with a note.
"""

from __future__ import annotations

import difflib
import itertools
import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from playloom.actions.codec import BIN_VALUES, REST_VALUES, Schema, decode_values, encode_named, rows_to_values
from playloom.actions.controller import CONTROLS, ControllerState
from playloom.errors import ActionError

MAX_STEPS = 100_000
"""Longest script: two hours and three quarters of play."""
STEPS_PER_SECOND = 10

_CONTROLS = {control.name: control for control in CONTROLS}
_ALIASES: dict[str, tuple[str, float]] = {
    "forward": ("left_stick_y", 1), "back": ("left_stick_y", -1),
    "left": ("left_stick_x", -1), "right": ("left_stick_x", 1),
    "turn_left": ("right_stick_x", -1), "turn_right": ("right_stick_x", 1),
    "look_up": ("right_stick_y", 1), "look_down": ("right_stick_y", -1),
    "fire": ("trigger_RT", 1), "jump": ("button_A", 1), "crouch": ("trigger_LT", 1), "use": ("button_X", 1),
    **{name.rpartition("_")[2]: (name, 1) for name in _CONTROLS if name.startswith(("trigger_", "button_"))},
    "LB": ("skill_1", 1), "RB": ("skill_2", 1),
    "lx": ("left_stick_x", 1), "ly": ("left_stick_y", 1), "rx": ("right_stick_x", 1), "ry": ("right_stick_y", 1),
}  # fmt: skip
_NEEDS_VALUE = {"lx", "ly", "rx", "ry"} | {c.name for c in CONTROLS if c.kind == "axis"}
_WORDS = {name.lower(): name for name in [*_CONTROLS, *_ALIASES, "rest"]}

_SUGGESTED = [name for name in _ALIASES if len(name) > 2] + ["rest"]  # the short codes are left out
_SEPARATOR = re.compile(r"[;,\n]|\bthen\b", re.IGNORECASE)
_DURATION = re.compile(r"\bfor\b(.*)$", re.IGNORECASE | re.DOTALL)
_LENGTH = re.compile(r"(\d+)\s*(?:steps?)?|(\d+(?:\.\d+)?)\s*(?:s|seconds?)", re.IGNORECASE)
# A `+` joins inputs, except right after `=`, where it is a sign.
_INPUT = re.compile(r"[\s+]*([a-z_]\w*)(?:\s*=\s*([+-]?[^\s+]*))?(?=[\s+]|$)", re.IGNORECASE)


class Script(NamedTuple):
    """Actions, one row per step."""

    values_SA: NDArray[np.uint8]
    """Action values [S, 16]."""
    notes: tuple[str, ...]
    """Sentences on values that were rounded and steps that were cut or added."""


_NAMED = (str, Mapping, ControllerState)
NamedAction: TypeAlias = str | Mapping[str, float] | ControllerState
"""Inputs by name: "forward + fire", {"right_stick_x": 1.0, "fire": True}, or a `ControllerState`."""
Action: TypeAlias = NamedAction | ArrayLike
"""Inputs of one step: by name, or as 16 numbers in a schema."""


def action_values(action: Action, schema: Schema | None = None) -> NDArray[np.uint8]:
    """Encode the inputs of one step as action values, uint8 [16].

    A uint8 array [16] holds action values already; any other 16 numbers need the schema.
    """
    if isinstance(action, _NAMED):
        held_SA = parse_script(_words(action)).values_SA
        if len(held_SA) != 1:
            raise ActionError(f"the action {action!r} is too long: got {len(held_SA)} steps, expected 1")
        return held_SA[0]
    try:
        row = np.asarray(action)
        if schema is None and row.dtype == np.uint8 and row.shape == (len(CONTROLS),):
            schema = "binned"
        if schema is None:
            raise ActionError(
                f"the encoding of raw numbers is unknown: got {row.dtype} {list(row.shape)}, expected a schema; give "
                "schema='named' or 'binned', or names such as {'left_stick_y': 1.0}"
            )
        values_A = rows_to_values(row, schema)
    except ActionError:
        raise
    except (TypeError, ValueError) as error:
        raise ActionError(f"an action is wrong: got {action!r:.60}, expected names or 16 numbers") from error
    if values_A.shape != (len(CONTROLS),):
        raise ActionError(f"an action is wrong: got an array {list(values_A.shape)}, expected [{len(CONTROLS)}]")
    return values_A


def as_script(actions: Action | Iterable[Action], schema: Schema | None = None) -> str:
    """Write as a script: a script; inputs by name, for one step or until the end; or one `Action` for each step."""
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
        if not action.strip():
            raise ActionError("an action is empty; write rest for no input")
        return action
    if isinstance(action, ControllerState):
        action = {c.name: value for c in CONTROLS if (value := getattr(action, c.name))}
    texts = {name: str(value) for name, value in action.items()}
    words = [name if text == "True" else f"{name}={text}" for name, text in texts.items() if text != "False"]
    return " ".join(words) or "rest"


def parse_script(text: str, steps: int | None = None) -> Script:
    """Parse a script; with `steps` a longer one is cut.

    A shorter one is continued with rest, or with its last part when that has no `for`.
    """
    notes: dict[str, None] = {}
    parts = [_parse_part(part.strip(), notes) for part in _SEPARATOR.split(text) if part.strip()]
    if not parts:
        raise ActionError("the action script is empty; write for example: right_stick_x=1 for 10")
    lengths = [length or 1 for _, length in parts]
    if steps is not None and parts[-1][1] is None:
        lengths[-1] = max(1, steps - sum(lengths[:-1]))
    if sum(lengths) > MAX_STEPS:
        raise ActionError(f"the action script lasts {sum(lengths)} steps; expected at most {MAX_STEPS}")
    script = Script(np.repeat(np.stack([values_A for values_A, _ in parts]), lengths, axis=0), tuple(notes))
    if steps is None:
        return script
    if sum(lengths) > steps:
        cut = f"the script lasts {sum(lengths)} steps; only the first {steps} are used"
        script = script._replace(notes=(*script.notes, cut))
    return fit_length(script, steps, "the script")


def fit_length(script: Script, steps: int, name: str) -> Script:
    """Return exactly `steps` actions: the first ones, or rest after the last one, with a note about `name`."""
    missing = steps - len(script.values_SA)
    if missing <= 0:
        return script._replace(values_SA=script.values_SA[:steps])
    note = f"{name} lasts {len(script.values_SA)} of {steps} steps; the remaining {missing} rest"
    return Script(np.concatenate([script.values_SA, np.tile(REST_VALUES, (missing, 1))]), (*script.notes, note))


def to_script(values_SA: NDArray[np.uint8]) -> str:
    """Return a script of the actions [S, 16]; the inverse of `parse_script`."""
    runs = [(words, len(list(equal))) for words, equal in itertools.groupby(map(describe, values_SA))]
    return "; ".join(f"{words} for {count}" for words, count in runs)


def describe(values_A: NDArray[np.uint8]) -> str:
    """Return the script of one action [16]: `right_stick_x=1 trigger_RT`, or `rest`."""
    state = zip(CONTROLS, decode_values(values_A).tolist(), strict=True)
    words = [c.name if c.kind != "axis" else f"{c.name}={value:g}" for c, value in state if value]
    return " ".join(words) or "rest"


def rounding(name: str, given: float, played: float) -> str | None:
    """Return the note for a value of a control that cannot be played exactly; None when it can."""
    if abs(played - given) <= 1e-6:
        return None
    axis = _CONTROLS[name].kind == "axis"
    reason = f"the sticks have {len(BIN_VALUES)} positions" if axis else "triggers are on or off"
    return f"{name}={given:g} is played as {played:g}: {reason}"


def _parse_part(part: str, notes: dict[str, None]) -> tuple[NDArray[np.uint8], int | None]:
    duration = _DURATION.search(part)
    state: dict[str, float] = {}
    for name, value in _split_inputs(part[: duration.start()] if duration else part, part):
        if name == "rest":
            if value is not None:
                raise ActionError(f"rest takes no value in {part!r}; write rest")
            continue
        control, number = _control_value(name, value, part)
        if control in state:
            raise ActionError(f"{control} is set twice in {part!r}; set it once, or separate parts with ;")
        state[control] = number
    values_A = encode_named([state.get(name, 0.0) for name in _CONTROLS])
    played = dict(zip(_CONTROLS, decode_values(values_A).tolist(), strict=True))
    notes |= {note: None for name, given in state.items() if (note := rounding(name, given, played[name]))}
    return values_A, _parse_length(duration.group(1), part) if duration else None


def _split_inputs(inputs: str, part: str) -> list[tuple[str, str | None]]:
    found: list[tuple[str, str | None]] = []
    position = 0
    text = inputs.strip().rstrip("+").rstrip()
    while position < len(text):
        match = _INPUT.match(text, position)
        if match is None:
            raise ActionError(f"cannot read {text[position:].strip()!r} in {part!r}; write name=value or name")
        word = match.group(1).lower()
        if word not in _WORDS:
            close = difflib.get_close_matches(word, [*_SUGGESTED, *_CONTROLS], n=1)
            known = f"{', '.join(_SUGGESTED)}, or a control such as button_B"
            hint = f"did you mean {close[0]}?" if close else f"expected {known}"
            raise ActionError(f"unknown input {match.group(1)!r} in {part!r}; {hint}")
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
        return control, _CONTROLS[control].check(float(text)) * factor
    except ActionError as error:
        raise ActionError(f"{error} (in {part!r})") from error
    except ValueError as error:
        raise ActionError(f"{name} is {text!r} in {part!r}; expected a number") from error


def _parse_length(text: str, part: str) -> int:
    match = _LENGTH.fullmatch(text.strip())
    if match is None:
        raise ActionError(f"cannot read the length {text.strip()!r} in {part!r}; write for 10, or for 1s")
    length = float(match.group(1) or float(match.group(2)) * STEPS_PER_SECOND)
    if length > MAX_STEPS:  # before it becomes a whole number, which infinity cannot
        raise ActionError(f"{part!r:.60} lasts {length:g} steps; expected at most {MAX_STEPS}")
    steps = round(length)
    if steps < 1:
        raise ActionError(f"{part!r} lasts {steps} steps; expected at least 1 (a step is 0.1 s)")
    return steps
