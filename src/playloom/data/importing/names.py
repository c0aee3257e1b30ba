"""Names of keys, mouse buttons and pad controls: one spelling for those of all recorders.

Keys are `a`, `1`, `space`, `left_shift`, `up`, `f1`; the mouse has `mouse_dx`, `mouse_dy` (counts, + right and down),
`mouse_left`, `mouse_right`, `mouse_middle`, `mouse_4`, `mouse_5`, `wheel_up` and `wheel_down`. Pad controls have the
names of the sixteen controls in lower case, and `pad_back`, `pad_start`, `pad_guide`, `pad_left_thumb` and
`pad_right_thumb`.

    >>> control_name("Key.shift_l"), control_name("KEY_W"), virtual_key(0x41)
    ('left_shift', 'w', 'a')
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache

_SAME = {
    "left_shift": "shift lshift shift_l shiftleft leftshift lshiftkey",
    "right_shift": "rshift shift_r shiftright rightshift rshiftkey",
    "left_control": "ctrl control lctrl lcontrol ctrl_l controlleft leftcontrol leftctrl left_ctrl lcontrolkey",
    "right_control": "rctrl rcontrol ctrl_r controlright rightcontrol rightctrl right_ctrl rcontrolkey",
    "left_alt": "alt lalt alt_l altleft leftalt lmenu",
    "right_alt": "ralt alt_r altright rightalt altgr alt_gr rmenu",
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
_PREFIX = re.compile(r"^(key_keyboard_|keyboard_|key_|vk_)(?=.)")
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


@lru_cache(maxsize=4096)
def control_name(text: str) -> str:
    """Return the one spelling of a control's name; an unknown name in lower case with underscores."""
    if text == " ":
        return "space"
    name = re.sub(r"[\s.:\-]+", "_", text.strip().strip("'\"").lower())
    name = _PREFIX.sub("", name)
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
