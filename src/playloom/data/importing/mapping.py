"""Mappings of keys, mouse and pad to the sixteen controls, as TOML files; docs/own_game.md has an example.

Each entry of `controls` is a control (+y is forward and up) and its sources with their weights, or names of sources of
weight 1. The values of sources times weights are added and clipped to the control's range.

Keys are `a`, `1`, `space`, `left_shift`, `up`, `f1`; the mouse has `mouse_dx`, `mouse_dy` (counts, + right and down),
`mouse_left`, `mouse_right`, `mouse_middle`, `mouse_4`, `mouse_5`, `wheel_up` and `wheel_down`. Pad controls have the
names of the sixteen controls in lower case, and `pad_back`, `pad_start`, `pad_guide`, `pad_left_thumb` and
`pad_right_thumb`.

    >>> control_name("Key.shift_l"), control_name("KEY_W"), virtual_key(0x41)
    ('left_shift', 'w', 'a')
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import encode_named
from playloom.actions.controller import CONTROLS
from playloom.data.importing.resample import MOUSE, PAUSED
from playloom.errors import ConfigError, did_you_mean
from playloom.json_io import from_mapping

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

READY = ("controller", "opencs2", "vpt", "wasd-mouse", "xinput")
"""Names of the mappings that come with playloom."""
_FOLDER = Path(__file__).parent / "mappings"
_NAMES = [control.name for control in CONTROLS]
_PERCENTILE = 99
_SAME = {
    "left_shift": "shift lshift shift_l shiftleft leftshift lshiftkey",
    "right_shift": "rshift shift_r shiftright rightshift rshiftkey",
    "left_control": "ctrl control lctrl lcontrol ctrl_l control_l controlleft leftcontrol leftctrl left_ctrl "
    "lcontrolkey",
    "right_control": "rctrl rcontrol ctrl_r control_r controlright rightcontrol rightctrl right_ctrl rcontrolkey",
    "left_alt": "alt lalt alt_l altleft leftalt lmenu",
    "right_alt": "ralt alt_r altright rightalt altgr alt_gr iso_level3_shift rmenu",
    "space": "spacebar space_bar",
    "enter": "return",
    "escape": "esc",
    "up": "uparrow arrowup arrow_up up_arrow",
    "down": "downarrow arrowdown arrow_down down_arrow",
    "left": "leftarrow arrowleft arrow_left left_arrow",
    "right": "rightarrow arrowright arrow_right right_arrow",
    "mouse_left": "lmb mouse1 mouse_1 button_left left_click mouseleft",
    "mouse_right": "rmb mouse2 mouse_2 button_right right_click mouseright",
    "mouse_middle": "mmb mouse3 mouse_3 button_middle middle_click mousemiddle",
    "mouse_4": "mouse4 button_x1 mouse_x1",
    "mouse_5": "mouse5 button_x2 mouse_x2",
    "mouse_dx": "dx mousedx delta_x",
    "mouse_dy": "dy mousedy delta_y",
}
_ALIASES = {alias: name for name, aliases in _SAME.items() for alias in aliases.split()}
_PREFIX = re.compile(r"^(key_keyboard_|keyboard_|key_|vk_(?!\d\d))(?=.)")  # `vk_33` is a name, see `virtual_key`
_CODE = re.compile(r"^(?:key|digit)([a-z0-9])$")  # the browser's KeyW and Digit1

_VIRTUAL_KEYS = {
    0x01: "mouse_left", 0x02: "mouse_right", 0x04: "mouse_middle", 0x05: "mouse_4", 0x06: "mouse_5",
    0x08: "backspace", 0x09: "tab", 0x0D: "enter", 0x10: "left_shift", 0x11: "left_control", 0x12: "left_alt",
    0x14: "caps_lock", 0x1B: "escape", 0x20: "space", 0x25: "left", 0x26: "up", 0x27: "right", 0x28: "down",
    0x2E: "delete", 0xA0: "left_shift", 0xA1: "right_shift", 0xA2: "left_control", 0xA3: "right_control",
    0xA4: "left_alt", 0xA5: "right_alt",
    **{code: chr(code).lower() for code in (*range(0x30, 0x3A), *range(0x41, 0x5B))},
    **{0x60 + number: f"numpad_{number}" for number in range(10)},
    **{0x70 + number: f"f{number + 1}" for number in range(12)},
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ControlMapping:
    """Sources of every control, see the module."""

    weights: Mapping[str, Mapping[str, float]]
    """Weight of each source, by control and source."""
    dead_zone: float = 0.0
    """Stick positions below it are 0, [0, 1)."""
    counts_for_full: float | None = None
    """Mouse counts in 0.1 s that are full stick, more than 0; None: to be fitted."""

    def __post_init__(self) -> None:
        for key, low, high in (("dead_zone", 0.0, 0.99), ("counts_for_full", 1e-6, 1e9)):
            value = getattr(self, key)
            if value is not None and not low <= value <= high:
                raise ConfigError(f"{key} is wrong: got {value:g}, expected {low:g} to {high:g}")
        object.__setattr__(self, "weights", {name: _weights(name, given) for name, given in self.weights.items()})

    @cached_property
    def sources(self) -> tuple[str, ...]:
        """Names of all sources and `PAUSED`, in the order of the columns of `apply`."""
        return (*sorted({source for weights in self.weights.values() for source in weights}), PAUSED)

    def mouse_counts(self, input_TC: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return those columns of the input of steps that are mouse counts, [T, M], M 0 to 2; without paused steps."""
        columns = [column for column, name in enumerate(self.sources) if name in MOUSE]
        return input_TC[input_TC[:, -1] == 0][:, columns]

    def fit(self, counts_TM: NDArray[np.float32]) -> ControlMapping:
        """Return the mapping with `counts_for_full` fitted to the mouse counts of all steps, [T, M].

        It is the 99th percentile of |dx|, of |dy| where the mouse never moves to the side. A given value stays.
        """
        if self.counts_for_full is not None:
            return self
        for counts_T in np.abs(counts_TM.T):
            if counts_T.any():
                full = float(np.percentile(counts_T, _PERCENTILE)) or float(counts_T.max())
                return replace(self, counts_for_full=full)
        return replace(self, counts_for_full=1.0)

    def apply(self, input_TC: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Turn the input of steps, float32 [T, C], into action values uint8 [T, 16]."""
        weights_CK = np.zeros((len(self.sources), len(_NAMES)), np.float32)
        for name, weights in self.weights.items():
            for source, weight in weights.items():
                scale = (self.counts_for_full or 1.0) if source in MOUSE else 1.0
                weights_CK[self.sources.index(source), _NAMES.index(name)] = weight / scale
        low = np.array([control.low for control in CONTROLS], np.float32)
        state_TK = (input_TC @ weights_CK).clip(low, 1)
        buttons = np.array([control.kind == "button" for control in CONTROLS])
        return encode_named(np.where(buttons, state_TK >= 0.5, state_TK))


def read_mapping(names: Sequence[str]) -> ControlMapping:
    """Read and combine mappings: names of `READY`, or paths of TOML files; ConfigError when one is wrong."""
    controls: dict[str, dict[str, float]] = {}
    dead_zone, counts = 0.0, None
    for name in names:
        path = _FOLDER / f"{name}.toml" if name in READY else Path(name)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
            if not content.get("controls"):
                raise ConfigError("it has no table [controls]; see docs/own_game.md")
            content["weights"] = content.pop("controls")
            one = from_mapping(ControlMapping, content, "it")
        except FileNotFoundError as error:
            hint = did_you_mean(name, READY)
            raise ConfigError(f"there is no mapping {name}; give a TOML file, or {hint}") from error
        except ConfigError as error:
            raise ConfigError(f"mapping {name}: {error}") from error
        except (OSError, ValueError) as error:
            raise ConfigError(f"mapping {name} cannot be read ({error}); expected a TOML file") from error
        for control, weights in one.weights.items():
            controls.setdefault(control, {}).update(weights)
        dead_zone = max(dead_zone, one.dead_zone)
        counts = one.counts_for_full or counts
    return ControlMapping(weights=controls, dead_zone=dead_zone, counts_for_full=counts)


def _weights(control: str, given: Any) -> dict[str, float]:
    if control not in _NAMES:
        raise ConfigError(f"unknown control {control!r}; {did_you_mean(control, _NAMES)}")
    if isinstance(given, str):
        given = [given]
    weights = dict.fromkeys(given, 1.0) if isinstance(given, list) and all(isinstance(x, str) for x in given) else given
    numbers = weights.values() if isinstance(weights, dict) else [math.nan]
    if not all(isinstance(number, int | float) and math.isfinite(number) for number in numbers):
        raise ConfigError(f"{control} is wrong: got {given!r:.60}, expected a source, a list of sources, or weights")
    return {control_name(source): float(weight) for source, weight in weights.items()}


@lru_cache(maxsize=4096)
def control_name(text: str) -> str:
    """Return the one spelling of a control's name; an unknown name in lower case with underscores."""
    if text == " ":
        return "space"
    name = text.strip().strip("'\"").lower()
    name = _PREFIX.sub("", re.sub(r"[\s.:\-]+", "_", name)) if len(name) > 1 else name
    code = _CODE.match(name)
    return code[1] if code else _ALIASES.get(name, name)


def virtual_key(code: int) -> str:
    """Return the name of a Windows virtual key; `vk_` and the number for others."""
    return _VIRTUAL_KEYS.get(code, f"vk_{code}")


def wheel(amount: float) -> Iterator[tuple[str, float]]:
    """Give the press and the release that stand for a turn of the wheel, + up."""
    if amount:
        name = "wheel_up" if amount > 0 else "wheel_down"
        yield from ((name, 1.0), (name, 0.0))
