"""The controller's three forms (state, action values, wire rows) are one thing."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from playloom.actions.codec import (
    ACTION_SLOTS,
    BIN_VALUES,
    REST_VALUES,
    SLOT_NAMES,
    SLOT_SIZES,
    decode_values,
    detect_schema,
    encode_named,
    mirror_values,
    rows_to_values,
    values_to_rows,
)
from playloom.actions.controller import CONTROLS, ControllerState
from playloom.errors import ActionError

NAMES = [control.name for control in CONTROLS]

action_values = st.tuples(*(st.integers(0, size - 1) for size in SLOT_SIZES)).map(
    lambda values: np.array(values, np.uint8)
)
clips_of_values = st.lists(action_values, min_size=1, max_size=5).map(np.stack)
states = st.fixed_dictionaries(
    {c.name: st.sampled_from([0.0, 1.0]) if c.kind == "button" else st.floats(c.low, 1.0, width=32) for c in CONTROLS}
).map(lambda fields: ControllerState(**fields))


def as_row(state: ControllerState) -> np.ndarray:
    return np.array([getattr(state, name) for name in NAMES], np.float32)


@given(clips_of_values)
def test_values_to_state_and_back_is_exact(values_TA):
    assert np.array_equal(encode_named(decode_values(values_TA)), values_TA)


@pytest.mark.parametrize("schema", ["named", "binned"])
@given(values_TA=clips_of_values)
def test_values_to_either_schema_and_back_is_exact(schema, values_TA):
    rows = values_to_rows(values_TA, schema)
    assert rows.dtype == np.float32 and rows.shape == values_TA.shape
    assert np.array_equal(rows_to_values(rows, schema), values_TA)
    assert np.array_equal(rows_to_values(rows.tolist(), schema), values_TA)


@given(states)
def test_any_legal_state_becomes_legal_values_and_keeps_its_signs(state):
    values = encode_named(as_row(state))
    assert values.shape == (ACTION_SLOTS,) and (values < np.array(SLOT_SIZES)).all()
    again = dict(zip(NAMES, decode_values(values).tolist(), strict=True))
    for control in CONTROLS:
        before, after = getattr(state, control.name), again[control.name]
        if control.kind == "axis":
            assert abs(before - after) <= 0.15 and before * after >= 0
        else:
            assert after == (before >= 0.5)


@given(clips_of_values)
def test_mirror_twice_changes_nothing_and_once_swaps_left_and_right(values_TA):
    mirrored = mirror_values(values_TA)
    assert np.array_equal(mirror_values(mirrored), values_TA)
    before, after = decode_values(values_TA), decode_values(mirrored)
    for negated in ("left_stick_x", "right_stick_x"):
        assert np.array_equal(after[:, NAMES.index(negated)], -before[:, NAMES.index(negated)])
    assert np.array_equal(after[:, NAMES.index("dpad_left")], before[:, NAMES.index("dpad_right")])
    kept = [name for name in NAMES if name not in ("left_stick_x", "right_stick_x", "dpad_left", "dpad_right")]
    columns = [NAMES.index(name) for name in kept]
    assert np.array_equal(after[:, columns], before[:, columns])


def test_rest_is_the_middle_bin_and_zero_in_both_schemas():
    assert np.array_equal(encode_named(as_row(ControllerState())), REST_VALUES)
    assert (values_to_rows(REST_VALUES, "named") == 0).all()
    assert values_to_rows(REST_VALUES, "binned").tolist() == [0] * 12 + [5] * 4


def test_forward_is_minus_one_in_the_named_schema_and_the_top_bin_in_the_binned_one():
    forward = encode_named(as_row(ControllerState(left_stick_y=1)))
    assert values_to_rows(forward, "named")[NAMES.index("left_stick_y")] == -1
    assert values_to_rows(forward, "binned")[SLOT_NAMES.index("left_stick_y")] == 10


@pytest.mark.parametrize("name", NAMES)
def test_a_value_out_of_range_names_its_control_and_range(name):
    control = CONTROLS[NAMES.index(name)]
    legal = "0 or 1" if control.kind == "button" else f"{control.low:g} to 1"
    row = np.zeros(16, np.float32)
    row[NAMES.index(name)] = 1.5
    for call in (lambda: encode_named(row), lambda: ControllerState(**{name: 1.5})):
        with pytest.raises(ActionError, match=rf"^{name} is 1.5; expected {legal}$"):
            call()
    for nonsense in (np.nan, np.inf):
        row[NAMES.index(name)] = nonsense
        with pytest.raises(ActionError, match=name):
            rows_to_values(row, "named")


@pytest.mark.parametrize("slot", range(ACTION_SLOTS))
def test_a_bin_out_of_range_names_its_slot_and_range(slot):
    for wrong in (SLOT_SIZES[slot], -1, 0.5, np.nan):
        row = REST_VALUES.astype(np.float64)
        row[slot] = wrong
        with pytest.raises(ActionError, match=rf"^{SLOT_NAMES[slot]} is .*; .* 0 to {SLOT_SIZES[slot] - 1}$"):
            rows_to_values(row, "binned")


@pytest.mark.parametrize("shape", [(), (15,), (3, 17), (0,)])
def test_other_than_sixteen_numbers_is_said(shape):
    for schema in ("named", "binned"):
        with pytest.raises(ActionError, match="16 numbers"):
            rows_to_values(np.zeros(shape), schema)


def test_an_unknown_schema_names_the_nearest():
    with pytest.raises(ActionError, match="named"):
        rows_to_values(np.zeros(16), "name")


@given(clips_of_values)
def test_auto_finds_the_binned_schema_wherever_a_stick_bin_shows(values_TA):
    rows = values_to_rows(values_TA, "binned")
    if (rows[:, 12:] > 1).any():
        schema, why = detect_schema(rows)
        assert schema == "binned" and "bins" in why


@given(clips_of_values)
def test_auto_finds_the_named_schema(values_TA):
    schema, why = detect_schema(values_to_rows(values_TA, "named"))
    assert schema == "named" and "-1 to 1" in why


def test_auto_says_when_neither_fits():
    row = np.zeros(16)
    row[0] = 7
    with pytest.raises(ActionError, match="--schema"):
        detect_schema(row)


@given(arrays(np.float64, 16, elements=st.floats(-1, 1)))
def test_auto_takes_the_random_fallback_of_existing_clients_as_named(row):
    assert detect_schema(row)[0] == "named"


def test_bin_values_lie_in_their_own_bins():
    states_K16 = np.zeros((len(BIN_VALUES), 16), np.float32)
    states_K16[:, 0] = BIN_VALUES
    assert encode_named(states_K16)[:, SLOT_NAMES.index("left_stick_x")].tolist() == list(range(11))
