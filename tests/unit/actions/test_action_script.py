"""The language of held inputs says exactly what it does, and where it was not understood."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playloom.actions.codec import REST_VALUES, SLOT_SIZES, decode_values
from playloom.actions.controller import CONTROLS
from playloom.actions.script import action_values, as_script, describe, parse_script, to_script
from playloom.errors import ActionError

NAMES = [control.name for control in CONTROLS]


def held(text: str, steps: int | None = None) -> list[dict[str, float]]:
    """Per step, what is not at rest."""
    rows = decode_values(parse_script(text, steps).values_SA).tolist()
    return [{name: round(v, 3) for name, v in zip(NAMES, row, strict=True) if v} for row in rows]


def test_the_guides_experiment_is_one_line():
    assert held("right_stick_x=1 for 10") == [{"right_stick_x": 1}] * 10


def test_parts_controls_and_separators():
    expected = [{"left_stick_y": 1, "right_stick_x": -0.85}] * 2 + [{}] * 3 + [{"trigger_RT": 1}]
    for text in (
        "left_stick_y=1 right_stick_x=-0.9 for 2; rest for 3; trigger_RT",
        "forward + rx=-.9 for 2, rest for 3 then fire",
        "FORWARD+turn_left=0.9 for 0.2s\nREST for 3 steps\ntrigger_rt for 1;",
    ):
        assert held(text) == expected


def test_every_alias_of_the_table_does_what_it_says():
    meanings = {
        "forward": {"left_stick_y": 1},
        "back": {"left_stick_y": -1},
        "left": {"left_stick_x": -1},
        "right": {"left_stick_x": 1},
        "turn_left": {"right_stick_x": -1},
        "turn_right": {"right_stick_x": 1},
        "look_up": {"right_stick_y": 1},
        "look_down": {"right_stick_y": -1},
        "fire": {"trigger_RT": 1},
        "jump": {"button_A": 1},
        "crouch": {"trigger_LT": 1},
        "use": {"button_X": 1},
        "LT RT": {"trigger_LT": 1, "trigger_RT": 1},
        "A B X Y": {"button_A": 1, "button_B": 1, "button_X": 1, "button_Y": 1},
        "LB RB": {"skill_1": 1, "skill_2": 1},
        "lx=1 ly=1 rx=1 ry=1": {name: 1 for name in NAMES if "stick" in name},
        "rest": {},
    }
    for text, meaning in meanings.items():
        assert held(text) == [meaning], text


def test_the_last_part_without_for_is_held_to_the_end_else_rest_follows():
    assert held("forward for 2; fire", 5) == [{"left_stick_y": 1}] * 2 + [{"trigger_RT": 1}] * 3
    script = parse_script("forward for 2", 5)
    assert np.array_equal(script.values_SA[2:], np.tile(REST_VALUES, (3, 1)))
    assert script.notes == ("the script lasts 2 of 5 steps; the remaining 3 rest",)


def test_too_long_a_script_is_cut_and_said():
    script = parse_script("forward for 9; fire", 4)
    assert len(script.values_SA) == 4 and "only the first 4" in script.notes[0]


def test_rounding_to_a_stick_position_is_said_once():
    script = parse_script("rx=0.7 for 2; rx=0.7 for 2; trigger_LT=0.2")
    assert script.notes == (
        "right_stick_x=0.7 is played as 0.625: the sticks have 11 positions",
        "trigger_LT=0.2 is played as 0: triggers are on or off",
    )


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        (" ; ,", "empty"),
        ("turnleft for 3", "did you mean turn_left"),
        (
            "forward; right_stck_x=1 for 3",
            "'right_stck_x' in 'right_stck_x=1 for 3'; did you mean right_stick_x",
        ),
        ("right_stick_x=2", "right_stick_x is 2; expected -1 to 1"),
        ("rx=nan", "expected -1 to 1"),
        ("button_A=0.5", "expected 0 or 1"),
        ("trigger_RT=-1", "expected 0 to 1"),
        ("rx=fast", "'fast'"),
        ("rx=", "expected a number"),
        ("rx", "needs a value"),
        ("left right", "set twice"),
        ("rest=1", "rest takes no value"),
        ("for 5", "holds nothing"),
        ("forward for ten", "'ten'"),
        ("forward for", "cannot read the length"),
        ("forward for 0", "at least 1"),
        ("forward for -3", "'-3'"),
        ("forward for 3 fire", "'3 fire'"),
        ("forward & fire", "'& fire'"),
        ("5", "cannot read '5'"),
        ("forward for 999999999999", "at most 100000"),
        pytest.param(f"forward for {'9' * 5000}", "at most 100000", id="more digits than Python converts"),
        pytest.param(f"forward for {'9' * 400}s", "at most 100000", id="more seconds than a float holds"),
    ],
)
def test_what_is_not_understood_is_pointed_at(text, says):
    with pytest.raises(ActionError) as caught:
        parse_script(text)
    assert says in str(caught.value)


@given(
    st.lists(
        st.tuples(*(st.integers(0, size - 1) for size in SLOT_SIZES)).map(lambda v: np.array(v, np.uint8)),
        min_size=1,
        max_size=8,
    ).map(np.stack)
)
def test_any_actions_can_be_written_as_a_script_and_read_back(values_SA):
    script = parse_script(to_script(values_SA))
    assert np.array_equal(script.values_SA, values_SA) and script.notes == ()


@given(st.text(max_size=40))
def test_no_text_breaks_the_parser(text):
    try:
        script = parse_script(text, 3)
    except ActionError:
        return
    assert script.values_SA.shape == (3, 16) and script.values_SA.dtype == np.uint8


def test_description_of_rest():
    assert describe(REST_VALUES) == "rest"


@pytest.mark.parametrize(("yes", "no"), [(True, False), (np.True_, np.False_)])
def test_inputs_by_name_are_held_or_not(yes, no):
    action = {"forward": no, "back": yes, "right_stick_x": 1.0, "fire": yes, "button_A": no}
    expected = parse_script("back + right_stick_x=1 + fire").values_SA[0]
    assert np.array_equal(action_values(action), expected)
    with pytest.raises(ActionError, match="right_stick_x needs a value"):
        action_values({"right_stick_x": yes})


def test_an_empty_action_of_a_list_is_an_error_not_one_step_less():
    with pytest.raises(ActionError, match="empty"):
        as_script(["forward", "", "fire"])
    assert len(parse_script(as_script(["forward", {}, "fire"])).values_SA) == 3
