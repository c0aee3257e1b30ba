"""Input of keyboard, mouse and pad as it happens, and the focus of a window.

On X11 keyboard and mouse are read as raw events of XInput 2, which come while a game holds the pointer, too. Elsewhere
pynput gives keys and movement of the pointer. A pad is read by SDL, through pygame-ce. Only named controls are read.
"""

from __future__ import annotations

import os
import select
import struct
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from typing import Any

from playloom.data.importing.mapping import control_name, wheel
from playloom.data.importing.resample import MOUSE, InputChange
from playloom.errors import BadInputError, MissingExtraError, did_you_mean

Emit = Callable[[InputChange], object]
"""Receives every change, with its time on the clock `time.monotonic`; called from any thread."""
Rectangle = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the screen."""
_RAW_EVENT = struct.Struct("=HIIHHI4x")  # device, time, detail, source, words of the mask, flags
_RAW_KINDS = {13: ("key", 1.0), 14: ("key", 0.0), 15: ("button", 1.0), 16: ("button", 0.0), 17: ("motion", 0.0)}
_BUTTONS = {
    1: "mouse_left", 2: "mouse_middle", 3: "mouse_right", 4: "wheel_up", 5: "wheel_down", 8: "mouse_4", 9: "mouse_5"
}  # fmt: skip
_GATHER = 0.004  # seconds in which mouse movement is added up: a mouse may report 1,000 times a second
_LEVELS = 4  # columns of an X11 keyboard mapping that are read: plain and shifted, in two layouts
# Controls in the order of SDL's axes and buttons.
_PAD_AXES = ("left_stick_x", "left_stick_y", "right_stick_x", "right_stick_y", "trigger_lt", "trigger_rt")
_PAD_BUTTONS = (
    "button_a", "button_b", "button_x", "button_y", "pad_back", "pad_guide", "pad_start", "pad_left_thumb",
    "pad_right_thumb", "skill_1", "skill_2", "dpad_up", "dpad_down", "dpad_left", "dpad_right",
)  # fmt: skip
_PAD_FULL = 32767


def parse_raw_event(data: bytes) -> tuple[int, int, dict[int, float]]:
    """Parse a raw event of XInput 2 from its eleventh byte on (XI2 protocol, RawEvent); ValueError when cut short.

    Returns:
        Key code or button, number of the device, and the value of each axis without acceleration: 0 is x, 1 is y.
    """
    if len(data) < _RAW_EVENT.size:
        raise ValueError(f"raw event is cut short: got {len(data)} bytes, expected {_RAW_EVENT.size} or more")
    _, _, detail, device, words, _ = _RAW_EVENT.unpack_from(data)
    first = _RAW_EVENT.size + 4 * words
    mask = int.from_bytes(data[_RAW_EVENT.size : first], sys.byteorder)
    axes = [axis for axis in range(32 * words) if mask >> axis & 1]
    first += 8 * len(axes)  # accelerated values
    values = struct.iter_unpack("=iI", data[first : first + 8 * len(axes)])
    return detail, device, {axis: whole + part / 2**32 for axis, (whole, part) in zip(axes, values, strict=True)}


def open_display() -> Any:
    """Connect to the X11 server of DISPLAY; BadInputError when there is none, or when it is Xwayland."""
    try:
        from Xlib import display, error
    except ImportError as missing:
        raise MissingExtraError.of("python-xlib", "capture") from missing
    try:
        opened = display.Display()
    except (error.DisplayError, OSError) as fault:
        name = os.environ.get("DISPLAY") or "no DISPLAY"
        raise BadInputError(f"there is no X11 display: got {name}; run this in an X11 session") from fault
    if opened.query_extension("XWAYLAND"):
        opened.close()
        raise BadInputError("the display is Xwayland, which gives no pictures; log in to an X11 session (Xorg)")
    return opened


class X11Input:
    """Keyboard and mouse of the X11 server, read by a thread until `close`."""

    def __init__(self, controls: Collection[str], emit: Emit) -> None:
        self._display, self._controls, self._emit = open_display(), controls, emit
        from Xlib.ext import xinput

        opcode = self._display.display.get_extension_major(xinput.extname)
        # python-xlib itself asks for 2.0, where a game that grabs the pointer stops the events.
        xinput.XIQueryVersion(display=self._display.display, opcode=opcode, major_version=2, minor_version=2)
        mask = sum(1 << kind for kind in _RAW_KINDS)
        self._display.screen().root.xinput_select_events([(xinput.AllMasterDevices, mask)])
        devices = self._display.xinput_query_device(xinput.AllDevices).devices
        axes = [(device.deviceid, axis) for device in devices for axis in device.classes]
        self._absolute = {n for n, axis in axes if axis.type == xinput.ValuatorClass and axis.mode}
        self._places: dict[tuple[int, int], float] = {}
        self._keys = self._key_names()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._read, name="playloom-input", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread."""
        self._over.set()
        self._thread.join()
        self._display.close()

    def _key_names(self) -> dict[int, str]:
        from Xlib import XK

        symbols = {name[3:].replace("KP_", "numpad_"): value for name, value in vars(XK).items() if name[:3] == "XK_"}
        names = {value: control_name(name) for name, value in symbols.items()}
        first = self._display.display.info.min_keycode
        rows = self._display.get_keyboard_mapping(first, self._display.display.info.max_keycode - first + 1)
        found = (
            (code, [names[symbol] for symbol in row[:_LEVELS] if names.get(symbol) in self._controls])
            for code, row in enumerate(rows, first)
        )
        return {code: named[0] for code, named in found if named}

    def _read(self) -> None:
        from Xlib import X, error

        with suppress(error.ConnectionClosedError):
            while not self._over.is_set():
                select.select([self._display], [], [], 0.1)
                time.sleep(_GATHER)
                now, moved = time.monotonic(), dict.fromkeys(MOUSE, 0.0)
                for _ in range(self._display.pending_events()):
                    event = self._display.next_event()
                    if event.type == X.MappingNotify:
                        self._keys = self._key_names()
                    elif getattr(event, "evtype", None) in _RAW_KINDS:
                        self._take(now, event, moved)
                for name, counts in moved.items():
                    if counts and name in self._controls:
                        self._emit(InputChange(now, name, counts))

    def _take(self, now: float, event: Any, moved: dict[str, float]) -> None:
        kind, value = _RAW_KINDS[event.evtype]
        detail, device, values = parse_raw_event(event.data)
        if kind != "motion":
            name = (self._keys if kind == "key" else _BUTTONS).get(detail, "")
            if name in self._controls:
                self._emit(InputChange(now, name, value))
            return
        for axis, name in enumerate(MOUSE):
            counts = values.get(axis, 0.0)
            if device in self._absolute and axis in values:  # a tablet, or the mouse of a virtual machine
                before, self._places[device, axis] = self._places.get((device, axis), counts), counts
                counts -= before
            moved[name] += counts


class X11Window:
    """Window of an X11 display, found by its title or a unique part of it; BadInputError when there is none."""

    def __init__(self, display: Any, title: str) -> None:
        self._display, self._root = display, display.screen().root
        self.closed = False
        """True once the window is gone."""
        titled = [(window, name) for window in self._windows() if (name := self._title(window))]
        found = [window for window, name in titled if name == title]
        found = found or [window for window, name in titled if title.lower() in name.lower()]
        names = sorted({name for _, name in titled})
        if not found:
            choice = did_you_mean(title, names) if names else "no window is open"
            raise BadInputError(f"no window has the title {title!r}; {choice}")
        if len(found) > 1 and title not in names:
            raise BadInputError(f"{len(found)} windows have {title!r} in their title; give all of it")
        self._window = found[0]

    def look(self) -> Rectangle | None:
        """Return the place of the window while it has focus, else None."""
        from Xlib import error

        try:
            if not self._focused():
                self._window.get_geometry()  # an error once it is closed
                return None
            size, place = self._window.get_geometry(), self._root.translate_coords(self._window, 0, 0)
        except (error.BadWindow, error.BadDrawable, error.ConnectionClosedError):
            self.closed = True
            return None
        return place.x, place.y, size.width, size.height

    def _focused(self) -> bool:
        from Xlib import X, error

        window = self._display.get_input_focus().focus
        if window == X.PointerRoot:  # focus follows the pointer, without a window manager
            window = self._root.query_pointer().child
        with suppress(error.BadWindow):  # another window that was closed at this moment
            while not isinstance(window, int):
                if window == self._window:
                    return True
                window = window.query_tree().parent
        return False

    def _windows(self) -> Iterator[Any]:
        """Windows that a window manager lists, or all."""
        from Xlib import X

        listed = self._root.get_full_property(self._display.get_atom("_NET_CLIENT_LIST"), X.AnyPropertyType)
        if listed is not None:
            yield from (self._display.create_resource_object("window", number) for number in listed.value)
            return
        waiting = [self._root]
        while waiting:
            window = waiting.pop()
            yield window
            waiting += window.query_tree().children

    def _title(self, window: Any) -> str:
        atoms = (self._display.get_atom(name) for name in ("_NET_WM_NAME", "WM_NAME"))
        return next((text for atom in atoms if (text := window.get_full_text_property(atom))), "")


class PynputInput:
    """Keyboard and mouse by pynput, for Windows and macOS."""

    def __init__(self, controls: Collection[str], emit: Emit) -> None:
        try:
            from pynput import keyboard, mouse
        except ImportError as error:
            raise MissingExtraError.of("pynput", "capture") from error

        place: list[tuple[float, float]] = []

        def change(name: str, value: float) -> None:
            if name in controls and (value or name not in MOUSE):
                emit(InputChange(time.monotonic(), name, value))

        def key(key: Any, value: float) -> None:
            plain = key if isinstance(key, keyboard.Key) else self._keyboard.canonical(key)  # "1" of "!"
            change(control_name(str(plain)), value)

        def move(x: float, y: float) -> None:
            for name, old, new in zip(MOUSE, place[0] if place else (x, y), (x, y), strict=True):
                change(name, new - old)
            place[:] = [(x, y)]

        def scroll(x: float, y: float, dx: float, dy: float) -> None:
            for name, value in wheel(dy):
                change(name, value)

        self._keyboard: Any = keyboard.Listener(on_press=lambda k: key(k, 1.0), on_release=lambda k: key(k, 0.0))
        self._mouse = mouse.Listener(
            on_move=move,
            on_click=lambda x, y, button, down: change(control_name(f"mouse_{button.name}"), float(down)),
            on_scroll=scroll,
        )
        self._keyboard.start()
        self._mouse.start()

    def close(self) -> None:
        """Stop both listeners."""
        self._keyboard.stop()
        self._mouse.stop()


class Pad:
    """First gamepad, read at every `poll`; one that is plugged in later is found. Without pygame-ce there is none."""

    def __init__(self, controls: Collection[str], emit: Emit) -> None:
        self._controls, self._emit = controls, emit
        self._pad: Any = None
        self._sdl: Any = None
        self._values: dict[str, float] = {}
        if not set(controls) & {*_PAD_AXES, *_PAD_BUTTONS}:
            return
        # SDL opens no window here, so pads must be read without focus.
        os.environ.update(SDL_VIDEODRIVER="dummy", SDL_JOYSTICK_ALLOW_BACKGROUND_EVENTS="1")
        os.environ["PYGAME_HIDE_SUPPORT_PROMPT"] = "1"
        with suppress(ImportError):
            import pygame
            from pygame._sdl2 import controller

            pygame.display.init()
            controller.init()
            self._sdl = controller

    def poll(self) -> None:
        """Emit the controls that have changed; all are at rest once the pad is unplugged."""
        if self._sdl is None:
            return
        import pygame

        pygame.event.pump()
        if self._pad is None:
            self._pad = first_pad(self._sdl)
        if self._pad is None:
            return
        there, now = self._pad.attached(), time.monotonic()
        for name, value in pad_values(self._pad).items() if there else dict.fromkeys(self._values, 0.0).items():
            if name in self._controls and value != self._values.get(name, 0.0):
                self._values[name] = value
                self._emit(InputChange(now, name, value))
        if not there:
            self._pad = None

    def close(self) -> None:
        """Let go of SDL."""
        if self._sdl is not None:
            import pygame

            self._sdl.quit()
            pygame.display.quit()


def first_pad(sdl: Any) -> Any:
    """Open the first gamepad of SDL's module `controller`, which counts wheels and other joysticks too; None: none."""
    numbers = (number for number in range(sdl.get_count()) if sdl.is_controller(number))
    return next(map(sdl.Controller, numbers), None)


def pad_values(pad: Any) -> dict[str, float]:
    """Return the controls of an SDL controller, in the `named` schema: sticks -1 to 1 with + down, triggers 0 to 1."""
    axes = {name: round(max(-1.0, pad.get_axis(number) / _PAD_FULL), 3) for number, name in enumerate(_PAD_AXES)}
    return {**axes, **{name: float(pad.get_button(number)) for number, name in enumerate(_PAD_BUTTONS)}}
