"""Action tables: exact round trips, and every mistake named by row, column and range."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from playloom.actions.codec import REST_VALUES, SLOT_NAMES, SLOT_SIZES
from playloom.actions.controller import CONTROLS
from playloom.errors import ActionError
from playloom.media.action_table import read_actions, read_inputs, write_actions

NAMES = [control.name for control in CONTROLS]
GUIDE_HEADER = (
    "step,left_stick_x,left_stick_y,right_stick_x,right_stick_y,trigger_LT,trigger_RT,button_A,button_B,"
    "button_X,button_Y,dpad_up,dpad_down,dpad_left,dpad_right,skill_1,skill_2"
)
VALUES = np.array([[0, 1] + [0] * 10 + [5, 10, 7, 5], [0] * 12 + [5] * 4, [1] * 12 + [0, 3, 8, 10]], np.uint8)

values_TA = st.lists(st.tuples(*(st.integers(0, size - 1) for size in SLOT_SIZES)), min_size=1, max_size=6).map(
    lambda rows: np.array(rows, np.uint8)
)


def csv_of(**columns: list[object]) -> str:
    """A CSV with the named schema's columns at rest, some of them replaced."""
    length = max(len(column) for column in columns.values())
    table = {"step": list(range(1, length + 1))} | {name: [0] * length for name in NAMES} | columns
    rows = [",".join(str(column[index]) for column in table.values()) for index in range(length)]
    return "\n".join([",".join(table), *rows])


@pytest.mark.parametrize("schema", ["named", "binned"])
@given(values=values_TA)
def test_round_trip_is_exact(tmp_path_factory, schema, values):
    path = tmp_path_factory.mktemp("table") / "a.csv"
    write_actions(path, values, schema)
    table = read_actions(path, schema)
    assert np.array_equal(table.values_SA, values) and table.notes == ()


def test_the_named_header_is_the_guides_and_minus_one_is_forward(tmp_path):
    write_actions(tmp_path / "a.csv", VALUES, "named", first_step=5)
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == GUIDE_HEADER
    assert lines[1] == "5,0,-1,0.375,0,0,1,0,0,0,0,0,0,0,0,0,0"


def test_the_binned_header_is_the_slots(tmp_path):
    write_actions(tmp_path / "a.csv", VALUES, "binned")
    lines = (tmp_path / "a.csv").read_text().splitlines()
    assert lines[0] == ",".join(["step", *SLOT_NAMES]) and lines[1] == "1,0,1,0,0,0,0,0,0,0,0,0,0,5,10,7,5"


def test_columns_are_found_by_name_whatever_their_order(tmp_path):
    text = csv_of(right_stick_x=[1, -1], left_stick_y=[-1, 0], time=["a", "b"])
    rows = [line.split(",")[::-1] for line in text.splitlines()]
    (tmp_path / "a.csv").write_text("\ufeff" + "\r\n".join(" , ".join(row) for row in rows) + "\r\n\r\n")
    table = read_actions(tmp_path / "a.csv", "named")
    assert table.values_SA[:, 12:].tolist() == [[5, 10, 10, 5], [5, 5, 0, 5]]
    assert len(table.notes) == 1 and "time" in table.notes[0]


def test_the_step_column_may_be_missing(tmp_path):
    lines = csv_of(right_stick_x=[1, 1]).splitlines()
    (tmp_path / "a.csv").write_text("\n".join(line.partition(",")[2] for line in lines))
    assert read_actions(tmp_path / "a.csv", "named").values_SA.shape == (2, 16)


@pytest.mark.parametrize("schema", ["named", "binned"])
def test_auto_finds_the_schema_and_says_why(tmp_path, schema):
    write_actions(tmp_path / "a.csv", VALUES, schema)
    table = read_actions(tmp_path / "a.csv", "auto")
    assert np.array_equal(table.values_SA, VALUES)
    assert f"read in the {schema} schema: " in table.notes[0]


@pytest.mark.parametrize(
    ("text", "schema", "says"),
    [
        (csv_of(right_stick_x=[0, 0, 2]), "named", "row 3, right_stick_x is 2; expected -1 to 1"),
        # Said with the sign the user wrote, although the named schema's y axes are turned over inside.
        (csv_of(left_stick_y=[-3]), "named", "row 1, left_stick_y is -3; expected -1 to 1"),
        (csv_of(button_A=[1, 0.5]), "named", "row 2, button_A is 0.5; expected 0 or 1"),
        (csv_of(button_A=[1, "yes"]), "named", "row 2, button_A: 'yes' is not a number"),
        (csv_of(button_A=[""]), "named", "row 1, button_A: '' is not a number"),
        (csv_of(button_A=["nan"]), "named", "row 1, button_A is nan; expected 0 or 1"),
        (
            csv_of(left_stick_x=[11]),
            "binned",
            "row 1, left_stick_x is 11",
        ),
        (csv_of(skill_2=[2]), "binned", "row 1, skill_2 is 2"),
        (csv_of(left_stick_x=[0.5]), "binned", "--schema named"),
        (csv_of(left_stick_x=[5]), "named", "--schema binned"),
        (csv_of(left_stick_x=[7], left_stick_y=[0.3]), "auto", "fit neither schema"),
        (csv_of(step=[1, 3], button_A=[0, 0]), "named", "row 2: step is '3'; expected 2"),
        (csv_of(step=["a"]), "named", "row 1: step is 'a'"),
        (
            csv_of(button_A=[0]).replace("button_A", "button_a"),
            "named",
            "no column button_A; expected the header",
        ),
        ("0,0,0\n1,1,1", "named", "has no column that names a control; expected the header step,left_stick_x"),
        (csv_of(button_A=[0]).replace("button_B", "button_A"), "named", "no column button_B"),
        (csv_of(button_A=[0], left=[0]).replace(",left\n", ",skill_1\n"), "named", "skill_1 more than once"),
        (csv_of(button_A=[0]) + ",7", "named", "row 1 has 18 cells; the header has 17"),
        (GUIDE_HEADER, "named", "holds no actions"),
        (csv_of(button_A=[0]) + '\n"' + "0," * 70_000, "named", "cannot be read as a CSV file (field larger"),
        ("", "named", "holds no actions"),
        (csv_of(button_A=[0]), "nmed", "unknown action schema 'nmed'; did you mean named"),
    ],
)
def test_every_mistake_is_named(tmp_path, text, schema, says):
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(ActionError) as caught:
        read_actions(tmp_path / "a.csv", schema)
    assert says in str(caught.value)


@pytest.mark.parametrize("mark", [";", "\t"])
def test_what_spreadsheets_of_other_countries_write_can_be_read(tmp_path, mark):
    """Excel in German writes semicolons, and a half as 0,5; a table copied from a sheet has tabs."""
    text = csv_of(right_stick_x=["0.625", "-1"]).replace(",", mark).replace(".", ",")
    (tmp_path / "a.csv").write_text(text, encoding="utf-8-sig")
    assert read_actions(tmp_path / "a.csv", "named").values_SA[:, 14].tolist() == [8, 0]


def test_no_file_and_no_text(tmp_path):
    with pytest.raises(ActionError, match="no file"):
        read_actions(tmp_path / "a.csv", "named")
    (tmp_path / "a.csv").write_bytes(b"\xff\xfe\x00\x01" * 9)
    with pytest.raises(ActionError, match="CSV"):
        read_actions(tmp_path / "a.csv", "named")


def test_nothing_is_written_for_wrong_values(tmp_path):
    wrong = REST_VALUES.copy()
    wrong[12] = 11
    with pytest.raises(ActionError, match="left_stick_x"):
        write_actions(tmp_path / "a.csv", wrong[None])
    assert list(tmp_path.iterdir()) == []


def test_a_script_may_be_longer_than_a_file_name():
    """It was looked for as a file, which raised an OSError."""
    assert len(read_inputs("; ".join(["turn_right=0.5 for 1"] * 99), "named", None).values_SA) == 99
