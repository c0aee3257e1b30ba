"""Rounds of OpenCS2, written here by the fields of its dataset card."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from import_toys import check_a_change_is_noticed, levels_of, named_controls, video_at
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.recordings import ImportOptions
from playloom.data.sampler import step_labels
from playloom.errors import RecordingError

OPTIONS = ImportOptions(frame_size=(12, 16), split="train")


def round_at(folder: Path, ticks: list[dict], seconds: float) -> Path:
    times = [k / 32 for k in range(round(seconds * 32))]
    for name in ("video.mp4", "video.preview.mp4"):
        video_at(folder / name, times, [20 + 4 * int(time * 10 + 1e-6) for time in times])
    parquet.write_table(pa.Table.from_pylist(ticks), folder / "ticks.parquet")
    return folder


def ticks(seconds: float, text: bool = False, **columns) -> list[dict]:
    """64 ticks a second; `columns` are functions of the time."""
    rows = []
    for k in range(round(seconds * 64)):
        t = k / 64
        row = {"tick": 9000 + k, "t": t, "is_alive": True, "active": [], "delta_yaw": 0.0, "delta_pitch": 0.0}
        row |= {name: value(t) for name, value in columns.items()}
        rows.append({**row, "active": " ".join(row["active"])} if text else row)
    return rows


@pytest.mark.parametrize("text", [False, True])
def test_buttons_turns_and_death(tmp_path, text):
    table = ticks(
        2,
        text,
        active=lambda t: ["forward"] * (t < 0.5) + ["attack", "duck"] * (0.7 < t < 0.72),
        delta_yaw=lambda t: -1.0 if 1 <= t < 1.1 else 0.0,  # to the right
        delta_pitch=lambda t: 0.5 if 1 <= t < 1.1 else 0.0,  # down
        is_alive=lambda t: t < 1.45,
        health=lambda t: 100 if t < 0.35 else 40,
    )
    folder = round_at(tmp_path / "in" / "rounds" / "match_id=1" / "player=03", table, 2)
    assert [(recording.format, recording.path) for recording in find_recordings(tmp_path, OPTIONS)] == [
        ("opencs2", folder)
    ]
    dataset, notes = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS)
    assert [(span.meta["first"], span.length) for span in dataset.spans] == [(0, 16)]  # with the step after death
    held = named_controls(dataset)
    assert held["left_stick_y"] == [1] * 5 + [0] * 11
    assert held["trigger_RT"] == held["button_B"] == [float(step == 7) for step in range(16)]
    assert held["right_stick_x"] == [float(step == 10) for step in range(16)]
    assert held["right_stick_y"][10] < 0 and "mouse: " in notes[2]
    assert dataset.state_columns == ("health", "terminated")
    assert dataset.column("terminated") == pytest.approx([0] * 14 + [1, float("nan")], nan_ok=True)
    assert dataset.column("health").tolist() == [100] * 4 + [40] * 12
    shown = [round((level - 20) / 4) for level in levels_of(dataset.frames_FHWC)]
    assert np.abs(np.array(shown) - np.arange(16)).max() <= 1  # 32 pictures a second have none at most ticks
    check_a_change_is_noticed([folder / "ticks.parquet"], tmp_path / "in", tmp_path / "out", OPTIONS)


def test_kills_of_opponents_are_rewards(tmp_path):
    place = tmp_path / "rounds" / "match_id=7" / "map_name=de_dust2"
    for player in (3, 4):
        round_at(place / "round=02" / f"player={player:02}", ticks(1, health=lambda t: 100), 1)
    kill = {"match_id": 7, "map_name": "de_dust2", "round": 2, "attacker_player_slot": 3, "attacker_side": "ct"}
    kill |= {"victim_side": "t", "tick": 9000 + 16}
    others = [{"match_id": 8}, {"map_name": "de_nuke"}, {"round": 3}, {"attacker_player_slot": None}]
    others += [{"victim_side": "ct"}, {"tick": 9000 + 20}, {"tick": 9000 + 60}]
    (tmp_path / "events").mkdir()
    kills = pa.Table.from_pylist([kill, *({**kill, **other} for other in others)])
    parquet.write_table(kills, tmp_path / "events" / "kills.parquet")
    dataset, _ = import_recordings(place, tmp_path / "out", OPTIONS)
    assert dataset.state_columns == ("health", "reward", "terminated")
    rewards = [dataset.column("reward")[span.rows].tolist() for span in dataset.spans]
    assert rewards == [[0, 0, 1, 1, 0, 0, 0, 0, 0, 1], [0] * 10]
    labels = step_labels(dataset)["reward"][:10]
    assert labels == pytest.approx([0, 0, 1, 1, 0, 0, 0, 0, 0, float("nan")], nan_ok=True)


def test_a_table_of_kills_is_left_out_where_folders_do_not_name_the_round(tmp_path):
    (tmp_path / "events").mkdir()
    parquet.write_table(pa.Table.from_pylist([{"tick": 9000}]), tmp_path / "events" / "kills.parquet")
    dataset, _ = import_recordings(round_at(tmp_path / "in", ticks(1), 1), tmp_path / "out", OPTIONS)
    assert dataset.state_columns == ("terminated",)


def test_a_turn_that_is_no_number_is_named_and_the_rest_goes_on(tmp_path):
    """The scale of the mouse became NaN, which ended the import of all recordings."""
    for number, turn in enumerate((1.0, float("nan"))):
        round_at(tmp_path / "in" / str(number), ticks(1, delta_yaw=lambda t, turn=turn: turn), 1)
    skipped: list[str] = []
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, on_skip=skipped.append)
    assert len(skipped) == 1 and "mouse_dx is wrong at 0.000 s: got nan" in skipped[0]
    assert {span.meta["take"] for span in dataset.spans} == {"0"}


def test_a_missing_column_is_named(tmp_path):
    table = [{name: value for name, value in row.items() if name != "is_alive"} for row in ticks(1)]
    with pytest.raises(RecordingError, match=r"ticks\.parquet cannot be read .*is_alive"):
        import_recordings(round_at(tmp_path / "in", table, 1), tmp_path / "out", OPTIONS)
