"""Steps of 0.1 s from input at any rate, and mappings to the sixteen controls: known answers."""

import numpy as np
import pytest

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.importing.mapping import READY, control_name, read_mapping, virtual_key
from playloom.data.importing.resample import (
    PAUSED,
    InputChange,
    Run,
    cut_runs,
    find_runs,
    resample,
    step_times,
)
from playloom.errors import ConfigError, RecordingError

NAMES = [control.name for control in CONTROLS]


def steps(changes, controls, count=4, **options):
    return resample([InputChange(*change) for change in changes], [Run(0.0, count)], controls, **options).tolist()


def test_a_key_counts_in_every_step_that_it_touches():
    tap = [(0.05, "w", 1), (0.06, "w", 0)]
    assert steps(tap, ["w"]) == [[1], [0], [0], [0]]
    held = [(0.05, "w", 1), (0.25, "w", 0)]
    assert steps(held, ["w"]) == [[1], [1], [1], [0]]


def test_a_change_at_the_tick_belongs_to_the_step_that_begins_there():
    exact = [(0.1, "w", 1), (0.1 + 0.2, "w", 0)]  # 0.30000000000000004
    assert steps(exact, ["w"]) == [[0], [1], [1], [0]]
    pulse = [(0.1, "wheel_up", 1), (0.1, "wheel_up", 0)]
    assert steps(pulse, ["wheel_up"]) == [[0], [1], [0], [0]]


def test_auto_repeat_changes_nothing_and_one_release_ends_it():
    repeats = [(0.01 * k, "w", 1) for k in range(1, 12)] + [(0.15, "w", 0)]
    assert steps(repeats, ["w"]) == [[1], [1], [0], [0]]


def test_what_was_held_before_the_first_picture_is_held_then():
    assert steps([(-3, "w", 1), (0.15, "w", 0), (-0.0 + 0.2, "x", 1)], ["w"]) == [[1], [1], [0], [0]]


def test_mouse_counts_are_added_and_those_before_the_first_step_are_not():
    moves = [(-0.1, "mouse_dx", 100), (0.0, "mouse_dx", 3), (0.09, "mouse_dx", -5), (0.31, "mouse_dx", 7)]
    assert steps(moves, ["mouse_dx"]) == [[-2], [0], [0], [7]]


def test_a_stick_is_the_mean_over_time_and_a_trigger_the_maximum():
    pad = [(0, "left_stick_x", 0.5), (0.0, "trigger_rt", 0.2), (0.05, "left_stick_x", 1), (0.06, "trigger_rt", 0.9)]
    pad += [(0.07, "trigger_rt", 0.1), (0.175, "left_stick_x", -1)]
    found = np.array(steps(pad, ["left_stick_x", "trigger_rt"]))
    assert found[:, 0] == pytest.approx([0.75, 0.5, -1, -1])
    assert found[:, 1] == pytest.approx([0.9, 0.1, 0.1, 0.1])


def test_a_number_that_is_no_stick_is_the_one_farthest_from_rest():
    turns = [(0, "action_0", -1), (0.03, "action_0", 0), (0.1, "action_0", 0.3), (0.15, "action_0", -0.6)]
    assert steps(turns, ["action_0"]) == [[-1], [pytest.approx(-0.6)], [pytest.approx(-0.6)], [pytest.approx(-0.6)]]


def test_states_are_sums_maxima_or_the_last_value_when_the_picture_is_shown():
    nan = float("nan")
    columns = ["state:reward", "state:terminated", "state:ammo"]
    changes = [
        *[(-0.1, name, 5) for name in columns],
        *[(0, "state:reward", 1), (0.05, "state:reward", -2), (0.25, "state:reward", 4)],
        *[(0.06, "state:terminated", 1), (0.08, "state:terminated", 0), (0.2, "state:terminated", 0)],
        *[(0.1, "state:ammo", 7), (0.15, "state:ammo", 8), (0.19, "state:ammo", 9), (0.35, "state:ammo", 2)],
    ]
    found = np.array(steps(sorted(changes), columns))
    assert found[:, 0] == pytest.approx([-1, nan, 4, nan], nan_ok=True)
    assert found[:, 1] == pytest.approx([1, nan, 0, nan], nan_ok=True)
    assert found[:, 2].tolist() == [5, 7, 9, 9]
    assert np.isnan(steps([(0.01, "state:ammo", 3)], ["state:ammo"])[0]).all()


def test_the_dead_zone_is_taken_from_positions_and_the_rest_is_stretched():
    found = np.array(
        steps([(0, "right_stick_y", 0.2), (0.2, "right_stick_y", -0.62)], ["right_stick_y"], dead_zone=0.24)
    )
    assert found[:, 0] == pytest.approx([0, 0, -0.5, -0.5])


def test_times_that_go_backwards_are_an_error_but_not_by_a_few_milliseconds():
    assert steps([(0.15, "w", 1), (0.13, "w", 0)], ["w"]) == [[0], [1], [0], [0]]
    with pytest.raises(RecordingError, match="backwards"):
        steps([(0.3, "w", 1), (0.2, "w", 0)], ["w"])


def test_gaps_of_the_pictures_cut_and_each_run_begins_at_its_first_picture():
    times = np.array([0, 0.25, 0.5, 1.2, 1.3])
    assert find_runs(times) == [Run(0.0, 6), Run(1.2, 2)]
    assert step_times(find_runs(times)) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5, 1.2, 1.3])
    assert find_runs(np.zeros(0)) == []


def test_sixty_pictures_a_second_with_rounded_times_give_ten_steps_a_second():
    times = np.round(np.arange(600) / 60, 3)  # Matroska
    (run,) = find_runs(times)
    assert run == Run(0.0, 100)
    assert step_times([run]) == pytest.approx(times[::6], abs=1e-3)


def test_unusable_steps_cut_and_short_pieces_go():
    usable = np.array([1, 1, 0, 1, 1, 1, 0, 1, 1, 1], bool)
    assert cut_runs([Run(0.0, 8), Run(5.0, 2)], usable) == [Run(0.0, 2), Run(pytest.approx(0.3), 3), Run(5.0, 2)]


def test_keyboard_and_mouse_become_sticks_and_buttons():
    mapping = read_mapping(["wasd-mouse"])
    given = np.zeros((3, len(mapping.sources)), np.float32)
    for step, control, value in [(0, "w", 1), (0, "mouse_dx", 40), (0, "space", 1), (1, "w", 1), (1, "s", 1)]:
        given[step, mapping.sources.index(control)] = value
    given[2, mapping.sources.index("mouse_dy")] = -200
    fitted = mapping.fit(mapping.mouse_counts(given[[0] * 10]))
    assert fitted.counts_for_full == 40 and mapping.sources[-1] == PAUSED
    state = decode_values(fitted.apply(given))
    assert state[0, NAMES.index("left_stick_y")] == 1 and state[0, NAMES.index("right_stick_x")] == 1
    assert state[0, NAMES.index("button_A")] == 1 and state[1].tolist() == [0.0] * 16
    assert state[2, NAMES.index("right_stick_y")] == 1


def test_the_fit_is_the_99th_percentile_to_the_side_else_of_what_moved():
    mapping = read_mapping(["wasd-mouse"])
    counts = np.zeros((1001, 2), np.float32)
    counts[:, 0] = np.arange(1001)
    assert mapping.fit(-counts).counts_for_full == 990
    assert mapping.fit(counts[:, ::-1]).counts_for_full == 990
    rare = np.zeros((1000, 2), np.float32)
    rare[3, 0] = 5
    assert mapping.fit(rare).counts_for_full == 5
    assert mapping.fit(np.zeros((5, 2), np.float32)).counts_for_full == 1


@pytest.mark.parametrize("name", READY)
def test_every_ready_mapping_can_be_read(name):
    assert len(read_mapping([name]).weights) >= 12


def test_mappings_combine_and_own_files_are_read(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('counts_for_full = 60\n[controls]\nbutton_A = ["LMB", "Key.shift"]\n', encoding="utf-8")
    both = read_mapping(["xinput", str(own)])
    assert both.weights["button_A"] == {"button_a": 1, "mouse_left": 1, "left_shift": 1}
    assert (both.dead_zone, both.counts_for_full) == (0.24, 60)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "no table"),
        ("[controls]\nbutton_Q = 'w'", "unknown control 'button_Q'"),
        ("[controls]\nbutton_A = 3", "button_A is wrong: got 3"),
        ("[controls]\nbutton_A = {w = 'x'}", "button_A is wrong"),
        ("dead_zone = 2\n[controls]\nbutton_A = 'w'", "dead_zone is wrong: got 2"),
        ("speed = 2\n[controls]\nbutton_A = 'w'", "unknown key 'speed'"),
        ("[controls", "cannot be read"),
    ],
)
def test_a_wrong_mapping_is_named(tmp_path, text, fault):
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=fault):
        read_mapping([str(tmp_path / "own.toml")])
    with pytest.raises(ConfigError, match="no mapping wasd"):
        read_mapping(["wasd"])


def test_names_of_recorders_become_one():
    names = [
        " ",
        "Key.shift",
        "KeyW",
        "key.keyboard.w",
        "KEY_W",
        "Digit1",
        "LMB",
        "w",
        "Trigger_RT",
        "'a'",
        "LeftShift",
    ]
    wanted = ["space", "left_shift", "w", "w", "w", "1", "mouse_left", "w", "trigger_rt", "a", "left_shift"]
    assert [control_name(name) for name in names] == wanted
    assert [virtual_key(code) for code in (0x57, 0x31, 0xA0, 0x70, 0xFF)] == ["w", "1", "left_shift", "f1", "vk_255"]


def test_two_keys_never_have_one_name_and_both_sides_of_modifiers_are_known():
    """X11 says Control_L, so a held left control was never stored; a mapping's vk_33 never matched that of a log."""
    assert [control_name(name) for name in ("Control_L", "Control_R", "Shift_L", "ISO_Level3_Shift")] == [
        "left_control",
        "right_control",
        "left_shift",
        "right_alt",
    ]
    assert all(control_name(virtual_key(code)) == virtual_key(code) for code in range(10, 256))
    assert len({control_name(key) for key in ("-", ".", ":", "'.'", ",", ";")}) == 5
