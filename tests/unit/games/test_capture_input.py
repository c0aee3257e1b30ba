"""Raw input events of X11 are parsed as the protocol has them, and those of a pad become controls."""

import struct

import pytest

from playloom.games.capture_input import first_pad, pad_values, parse_raw_event


def raw_event(detail: int, source: int, mask: bytes, values: list[tuple[int, int]]) -> bytes:
    """Bytes of a raw event from the eleventh on; accelerated values are twice the raw ones."""
    head = struct.pack("=HIIHHI4x", 2, 123456, detail, source, len(mask) // 4, 0)
    doubled = [(2 * whole, part) for whole, part in values]
    return head + mask + b"".join(struct.pack("=iI", *value) for value in doubled + values)


def test_a_key_has_its_code_and_no_values():
    assert parse_raw_event(raw_event(25, 7, bytes(8), [])) == (25, 7, {})


def test_movement_has_raw_values_with_sign_and_fraction():
    event = parse_raw_event(raw_event(0, 6, b"\3\0\0\0", [(5, 0), (-3, 2**31)]))
    assert event[2] == {0: 5.0, 1: -2.5}


def test_values_belong_to_the_axes_of_the_mask():
    event = parse_raw_event(raw_event(0, 6, b"\2\0\0\0\1\0\0\0", [(-7, 0), (120, 0)]))
    assert event[2] == {1: -7.0, 32: 120.0}  # only dy, and an axis of the second word


@pytest.mark.parametrize("kept", [10, 30])
def test_a_short_event_is_an_error(kept):
    with pytest.raises(ValueError):
        parse_raw_event(raw_event(0, 6, b"\3\0\0\0", [(5, 0), (-3, 0)])[:kept])


class ControllerOfSdl:
    def __init__(self, axes: list[int], pressed: int) -> None:
        self.get_axis = axes.__getitem__
        self.get_button = lambda number: number == pressed


class JoysticksOfSdl:
    """Joysticks, of which only some are gamepads; SDL opens no other as a controller."""

    def __init__(self, *pads: bool) -> None:
        self.get_count, self.is_controller = lambda: len(pads), pads.__getitem__

    def Controller(self, number: int) -> int:
        assert self.is_controller(number)
        return number


def test_a_wheel_is_no_pad():
    """A wheel or flight stick that was plugged in first ended the capture."""
    assert [first_pad(JoysticksOfSdl(*pads)) for pads in ((), (False,), (False, True, True))] == [None, None, 1]


def test_a_pad_has_the_named_schema():
    values = pad_values(ControllerOfSdl([32767, -32768, 0, 16384, 32767, 0], 9))
    assert (values["left_stick_x"], values["left_stick_y"], values["right_stick_y"]) == (1.0, -1.0, 0.5)
    assert (values["trigger_lt"], values["trigger_rt"]) == (1.0, 0.0)
    assert [name for name, value in values.items() if value and "stick_" not in name] == ["trigger_lt", "skill_1"]
