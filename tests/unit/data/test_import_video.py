"""A video with a log of the input beside it becomes steps with the right picture and the right input."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from import_toys import levels_of, video_at
from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.dataset import FrameDataset
from playloom.data.importing.build import find_recordings, import_recordings
from playloom.data.importing.files import video_pictures, video_times
from playloom.data.importing.recordings import ImportOptions
from playloom.errors import ActionError, BadInputError, RecordingError, StorageError

NAMES = [control.name for control in CONTROLS]
OPTIONS = ImportOptions(frame_size=(12, 16), split="train")


def seconds(count: float, rate: float = 60) -> list[float]:
    return [index / rate for index in range(round(count * rate))]


def shades(times: list[float]) -> list[int]:
    """A level for every step of 0.1 s: 20, 24, ..."""
    return [20 + 4 * int(time * 10 + 1e-6) for time in times]


def at(folder: Path, log: str, kind: str = ".csv") -> Path:
    video_at(folder / "a.mp4", seconds(2), shades(seconds(2)))
    (folder / f"a{kind}").write_text(log, encoding="utf-8")
    return folder


def imported(folder: Path, **changes):
    return import_recordings(folder, folder.parent / "out", replace(OPTIONS, **changes))


def column(dataset, name: str) -> list[float]:
    return decode_values(dataset.actions_FA)[:, NAMES.index(name)].tolist()


def near(found: list[int], wanted: list[int]) -> bool:
    return len(found) == len(wanted) and all(abs(a - b) <= 2 for a, b in zip(found, wanted, strict=True))


EVENTS = [(0.05, "space", 1), (0.15, "space", 0), (0.5, "w", 1), (1.0, "w", 0), (1.9, "space", 1)]


@pytest.mark.parametrize(
    ("ending", "codec"),
    [
        (".mp4", "libx264"),
        (".mp4", "libx265"),
        (".mkv", "libsvtav1"),
        (".webm", "libvpx-vp9"),
        (".mov", "libx264"),
    ],
)
def test_each_kind_of_video_gives_its_pictures_and_input(tmp_path, ending, codec):
    times = seconds(2)
    # As root, SVT-AV1's encoder gives the thread that calls it a real-time priority, which starves the whole machine.
    with ThreadPoolExecutor(1) as encoder:
        path = encoder.submit(video_at, tmp_path / "in" / f"a{ending}", times, shades(times), (64, 96), codec).result()
    assert not hasattr(os, "sched_getscheduler") or os.sched_getscheduler(0) == os.SCHED_OTHER  # Linux only
    rows = "".join(f"{t},{k},{v}\n" for t, k, v in EVENTS)
    path.with_suffix(".csv").write_text(f"time,key,down\n{rows}", encoding="utf-8")
    dataset, notes = imported(tmp_path / "in", frame_size=(16, 24))
    assert near(levels_of(dataset.frames_FHWC), [20 + 4 * step for step in range(20)])
    assert column(dataset, "button_A") == [1, 1] + [0] * 17 + [1]
    assert column(dataset, "left_stick_y") == [0] * 5 + [1] * 5 + [0] * 10
    assert notes == ("found: video (1)", "pictures: resized from 96 x 64 to 24 x 16")


@pytest.mark.parametrize(
    ("ending", "log"),
    [(".CSV", "time_s,key,down\n0.05,space,1\n"), (".JSONL", '{"time_s": 0.05, "key": "space", "down": 1}')],
)
def test_endings_may_be_in_upper_case(tmp_path, ending, log):
    at(tmp_path / "in", log, ending)
    (tmp_path / "in" / "a.mp4").rename(tmp_path / "in" / "a.MP4")
    assert column(imported(tmp_path / "in")[0], "button_A") == [1] * 20


@pytest.mark.parametrize("codec", ["libx264", "libx265", "libvpx-vp9"])
def test_wanted_pictures_are_the_same_when_others_are_not_decoded(tmp_path, codec):
    times = seconds(2)
    path = video_at(tmp_path / "a.mkv", times, shades(times), codec=codec)
    times_F = video_times(path)
    every = {time: load() for time, load in video_pictures(path)}
    some = {time: load() for time, load in video_pictures(path, wanted_F=times_F[3::6])}
    assert {*times_F[3::6].round(6)} <= {round(time, 6) for time in some}
    assert all((picture == every[time]).all() for time, picture in some.items())
    assert len(some) < len(every) == len(times) or codec == "libvpx-vp9"


@pytest.mark.parametrize(("ending", "start"), [(".mp4", None), (".mkv", None), (".mkv", 0.2), (".mov", 5.0)])
def test_pictures_long_before_the_first_wanted_one_are_not_decoded(tmp_path, ending, start):
    times = [0.2 + time for time in seconds(60, 10)]
    path = video_at(tmp_path / f"a{ending}", times, [index % 250 for index in range(600)])
    every = {round(time, 3): load() for time, load in video_pictures(path, start=start)}
    times_F = video_times(path, start=start)[520:530]
    some = {round(time, 3): load() for time, load in video_pictures(path, start=start, wanted_F=times_F)}
    assert {*times_F.round(3)} <= {*some} and min(some) > 20
    assert all((picture == every[time]).all() for time, picture in some.items())


def test_a_variable_frame_rate_and_gaps(tmp_path):
    times = [0, 0.03, 0.21, 0.48, 0.5, 1.2, 1.25, 1.4]  # nothing from 0.5 s to 1.2 s
    video_at(tmp_path / "in" / "a.mkv", times, [20, 40, 60, 80, 100, 120, 140, 160])
    (tmp_path / "in" / "a.csv").write_text("time,key,down\n0.3,w,1\n1.35,w,0\n", encoding="utf-8")
    dataset, notes = imported(tmp_path / "in")
    assert near(levels_of(dataset.frames_FHWC), [20, 40, 40, 60, 60, 100, 120, 140, 160])
    assert [(span.start, span.length, span.meta["first"]) for span in dataset.spans] == [(0, 6, 0), (6, 3, 12)]
    assert column(dataset, "left_stick_y") == [0, 0, 0, 1, 1, 1, 1, 1, 0]
    assert "kept 0.9 s of 1.4 s" in notes[1]


@pytest.mark.parametrize("unit", [1, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("zero", [0, 1_700_000_000])
def test_units_of_time_are_found_from_the_length_of_the_video(tmp_path, unit, zero):
    start = [{"time": round(zero * unit) if unit > 1 else zero, "key": "video_start", "event": "down"}]
    rows = [{"time": (zero + t) * unit, "key": key, "event": "down" if v else "up"} for t, key, v in EVENTS]
    lines = "\n".join(json.dumps(row) for row in start + rows)
    dataset, _ = imported(at(tmp_path / "in", lines, kind=".jsonl"))
    assert column(dataset, "button_A") == [1, 1] + [0] * 17 + [1]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_of_a_spreadsheet_may_have_decimal_commas_and_empty_rows(tmp_path, separator):
    rows = "time,key,down\n0.05,space,1\n0.15,space,0\n,,\n  \n"
    log = rows if separator == "," else rows.replace(",", separator).replace(".", ",")
    dataset, _ = imported(at(tmp_path / "in", log))
    assert column(dataset, "button_A")[:3] == [1, 1, 0]


def test_the_column_ts_names_no_unit(tmp_path):
    """Its `s` is no unit: these are milliseconds."""
    dataset, _ = imported(at(tmp_path / "in", "ts,key,down\n50,space,1\n150,space,0\n1900,x,1\n"))
    assert column(dataset, "button_A")[:3] == [1, 1, 0]


def test_a_clock_without_a_known_start_is_said(tmp_path):
    """Seconds since the machine was started, for example."""
    at(tmp_path / "in", "time,key,down\n" + "".join(f"{98765.4 + t},{k},{v}\n" for t, k, v in EVENTS))
    dataset, notes = imported(tmp_path / "in")
    assert column(dataset, "button_A") == [1] + [0] * 17 + [1, 1]  # all is 0.05 s early
    assert "its first row was taken for the start of the video" in notes[1]


def test_the_unit_in_the_name_counts_and_a_log_that_does_not_fit_is_refused(tmp_path):
    rows = "50,space,1\n150,space,0\n"
    dataset, _ = imported(at(tmp_path / "ms" / "in", "time_ms,key,down\n" + rows))
    assert column(dataset, "button_A")[:3] == [1, 1, 0]
    with pytest.raises(RecordingError, match=r"does not fit its video: .*time_ms"):
        imported(at(tmp_path / "x" / "in", "time,key,down\n0,space,1\n500000000000000,space,0\n"))


def test_the_offset_moves_the_input(tmp_path):
    at(tmp_path / "in", "time,key,down\n0.05,space,1\n0.1,space,0\n1.5,x,1\n")
    dataset, _ = imported(tmp_path / "in", offset=0.3)
    assert column(dataset, "button_A")[:5] == [0, 0, 0, 1, 0]


def test_a_log_without_a_control_of_the_mapping_is_said(tmp_path):
    """Its dataset was all rest, without a word."""
    dataset, notes = imported(at(tmp_path / "in", "time,key,down\n0.1,z,1\n1.5,z,0\n"))
    assert "a.mp4: no control of the mapping is used; is a --mapping missing?" in notes[1]
    assert not decode_values(dataset.actions_FA).any()


def test_mouse_movement_is_fitted_and_what_is_clipped_is_said(tmp_path):
    rows = [{"t": 0.01 + k / 100, "dx": 10 if k < 10 else 1, "dy": 0} for k in range(200)]
    rows.insert(3, {"t": 0.04, "button": "left", "event": "down"})
    rows.insert(6, {"t": 0.06, "button": "left", "event": "up"})
    at(tmp_path / "in", "\n".join(map(json.dumps, rows)), kind=".jsonl")
    dataset, notes = imported(tmp_path / "in")
    turn = column(dataset, "right_stick_x")
    assert turn[0] == 1 and turn[1] == pytest.approx(0.15) and column(dataset, "trigger_RT")[:2] == [1, 0]
    full = float(notes[1].split()[1])
    assert 70 < full < 91 and "5.0% of the steps are clipped" in notes[1]


def test_rows_of_the_sixteen_controls_at_sixty_a_second(tmp_path):
    header = ["time", *NAMES]
    lines = [",".join(header)]
    for index in range(120):
        row = dict.fromkeys(NAMES, 0.0)
        row["left_stick_y"] = -1.0  # forward, in the named schema
        row["right_stick_x"] = 0.625 if index < 60 else -0.15
        row["button_B"] = float(index == 33)
        lines.append(",".join(str(v) for v in [index / 60, *row.values()]))
    dataset, _ = imported(at(tmp_path / "in", "\n".join(lines)))
    assert column(dataset, "left_stick_y") == [1] * 20
    assert column(dataset, "right_stick_x") == pytest.approx([0.625] * 10 + [-0.15] * 10)
    assert column(dataset, "button_B") == [float(step == 5) for step in range(20)]
    (tmp_path / "out").rename(tmp_path / "before")
    again, notes = imported(tmp_path / "in", schema="auto")
    assert (again.actions_FA == dataset.actions_FA).all() and "is read in the named schema: " in " ".join(notes)


def test_rows_in_parquet_with_rewards_and_a_state(tmp_path):
    times = seconds(2, 20)
    video_at(tmp_path / "in" / "a.mp4", times, shades(times))
    table = [
        {"t_us": 50_000 * k, "w": k >= 20, "reward": 0.5, "terminated": k == 39, "state_health": 100.0 - k}
        for k in range(40)
    ]
    parquet.write_table(pa.Table.from_pylist(table), tmp_path / "in" / "a.parquet")
    dataset, _ = imported(tmp_path / "in")
    assert column(dataset, "left_stick_y") == [0] * 10 + [1] * 10
    assert dataset.state_columns == ("health", "reward", "terminated")
    assert dataset.column("reward").tolist() == [1] * 20 and dataset.column("terminated").tolist() == [0] * 19 + [1]
    assert dataset.column("health").tolist() == [100 - 2 * k for k in range(20)]


def test_recordings_have_the_same_columns_and_nan_where_one_lacks_them(tmp_path):
    at(tmp_path / "in", "time,w,reward\n" + "".join(f"{k / 10},1,{k}\n" for k in range(20)))
    video_at(tmp_path / "in" / "b.mp4", seconds(2), [50] * 120)
    (tmp_path / "in" / "b.csv").write_text("time,key,down\n0.5,space,1\n1.5,space,0\n", encoding="utf-8")
    dataset, _ = imported(tmp_path / "in")
    assert dataset.state_columns == ("reward",) and dataset.column("reward")[:20].tolist() == list(range(20))
    assert np.isnan(dataset.column("reward")[20:]).all()


def test_raw_xinput_has_a_dead_zone_and_bits(tmp_path):
    lines = ["timestamp_ms,wButtons,sThumbLX,sThumbRY,bRightTrigger"]
    lines += [
        f"{k * 20},{0x1000 if k >= 50 else 0x200},{-32768 if k < 50 else 5000},32767,{255 * (k < 50)}"
        for k in range(100)
    ]
    dataset, _ = imported(at(tmp_path / "in", "\n".join(lines)))
    assert column(dataset, "left_stick_x") == [-1] * 10 + [0] * 10 and column(dataset, "right_stick_y") == [1] * 20
    assert column(dataset, "button_A") == [0] * 10 + [1] * 10 and column(dataset, "skill_2") == [1] * 10 + [0] * 10
    assert column(dataset, "trigger_RT") == [1] * 10 + [0] * 10


def test_lost_focus_and_gaps_of_rows_are_cuts(tmp_path):
    at(tmp_path / "a" / "in", "time,key,down\n0.55,focus,0\n1.0,focus,1\n1.95,w,1\n")
    dataset, _ = imported(tmp_path / "a" / "in")
    assert [(span.meta["first"], span.length) for span in dataset.spans] == [(0, 5), (10, 10)]
    rows = [k / 60 for k in range(120) if not 30 <= k < 72]
    at(tmp_path / "b" / "in", "time,w\n" + "".join(f"{t},1\n" for t in rows))
    dataset, _ = imported(tmp_path / "b" / "in")
    assert [(span.meta["first"], span.length) for span in dataset.spans] == [(0, 5), (12, 8)]
    assert column(dataset, "left_stick_y") == [1] * 13


def test_masks_are_black_and_pictures_are_area_averages(tmp_path):
    times = seconds(0.5, 10)
    video_at(tmp_path / "in" / "a.mp4", times, [200] * 5, size=(48, 64))
    (tmp_path / "in" / "a.csv").write_text("time,key,down\n0.1,w,1\n0.4,w,0\n", encoding="utf-8")
    dataset, _ = imported(tmp_path / "in", masks=((0, 0, 32, 24), (2, 40, 8, 8)))
    frame = dataset.frames_FHWC[0].astype(int)
    assert (frame[:6, :8] == 0).all() and (frame[:6, 8:] > 195).all()
    assert (frame[10:, 0] // 10 == 9).all() or (frame[10:, 0] // 10 == 10).all()  # half of it is masked


@pytest.mark.parametrize("width", [108, 102])  # the middle of the second begins in the middle of a mean
def test_pictures_are_means_of_areas_reduced_while_they_are_converted_or_later(tmp_path, width):
    across, down = np.meshgrid(np.linspace(0, 255, width), np.linspace(255, 0, 72))
    colours = np.stack([across, down, np.full_like(down, 90)], axis=-1).astype(np.uint8)
    video_at(tmp_path / "a.mkv", [0], [colours], (72, width))
    _, load = next(video_pictures(tmp_path / "a.mkv"))
    assert load(OPTIONS.frame_size).shape == ((12, 16, 3) if width == 108 else (72, 102, 3))
    left = (width - 96) // 2
    wanted = colours[:, left : left + 96].reshape(12, 6, 16, 6, 3).mean((1, 3))
    for found in (OPTIONS.reduce(load, ()), OPTIONS.reduce(lambda: load(), ())):
        assert found.shape == (12, 16, 3) and np.abs(found - wanted).mean() < 2


@pytest.mark.parametrize("mask", [(64, 0, 9, 9), (0, 48, 9, 9)])
def test_a_mask_that_hides_nothing_is_refused(tmp_path, mask):
    """The pictures were stored with what it was to hide, without a word."""
    folder = at(tmp_path / "in", "time,key,down\n0.1,w,1\n1.5,w,0\n")
    with pytest.raises(RecordingError, match=r"not under the mask: got one at .*, expected it in 64 x 48 pixels"):
        imported(folder, masks=(mask,))
    assert not (tmp_path / "out").exists()


def test_what_is_wrong_is_named(tmp_path):
    for name, log, error, fault in [
        ("text", "time,key,down\n0.1,w,1\nsoon,w,0\n", RecordingError, "a.csv row 2, time: got 'soon'"),
        ("value", "time,key,down\n0.1,w,maybe\n1.5,w,0\n", RecordingError, "row 1, down: got 'maybe'"),
        ("back", "time,key,down\n1.5,w,1\n0.1,w,0\n", RecordingError, "backwards"),
        ("empty", "", RecordingError, "no row"),
        ("head", "time,key,down\n", RecordingError, "no row"),
        ("clock", "when,key,down\n1,w,1\n", RecordingError, "no time column: got when"),
        ("other", "time,speed\n0.1,3\n1.5,4\n", RecordingError, "no control that the mapping uses: got time, speed"),
        ("range", "time,left_stick_x\n0.1,3\n1.5,0\n", ActionError, "row 1: left_stick_x is 3"),
        ("binary", "time,key,down\n0.1,\udcff,1", RecordingError, "utf-8"),
    ]:
        folder = tmp_path / name / "in"
        video_at(folder / "a.mp4", seconds(2, 10), shades(seconds(2, 10)))
        (folder / "a.csv").write_bytes(log.encode("utf-8", "surrogateescape"))
        with pytest.raises(error, match=fault):
            imported(folder)
        assert not (tmp_path / name / "out").exists()
    with pytest.raises(BadInputError, match="unknown format 'vidoe'"):
        find_recordings(folder, replace(OPTIONS, format="vidoe"))


def test_the_rest_goes_on_without_the_unusable(tmp_path):
    folder = tmp_path / "in"
    good = at(folder, "time,key,down\n0.05,space,1\n1.5,space,0\n") / "a.mp4"
    video_at(folder / "b.mp4", seconds(1, 10), [9] * 10)  # no log
    video_at(folder / "c.mp4", seconds(1, 10), [9] * 10)  # two
    for ending in (".csv", ".jsonl"):
        (folder / f"c{ending}").write_text("time,key,down\n0.5,w,1\n", encoding="utf-8")
    (folder / "d.mp4").write_bytes(good.read_bytes()[:700])  # cut short
    (folder / "d.csv").write_text("time,key,down\n0.5,w,1\n", encoding="utf-8")
    skipped: list[str] = []
    dataset, _ = import_recordings(folder, tmp_path / "out", OPTIONS, on_skip=skipped.append)
    assert len(dataset) == 20 and len(skipped) == 3
    assert "no log" in skipped[0] and "two logs" in skipped[1] and "d.mp4 cannot be read" in skipped[2]


def test_a_damaged_picture_ends_its_recording_only(tmp_path):
    for name in ("a", "b"):
        times = seconds(4)
        path = video_at(tmp_path / "in" / f"{name}.mkv", times, [int(index % 200) for index in range(len(times))])
        path.with_suffix(".csv").write_text("time,key,down\n0.05,space,1\n3.5,space,0\n", encoding="utf-8")
    path = tmp_path / "in" / "a.mkv"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    skipped: list[str] = []
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, on_skip=skipped.append)
    lengths = {span.meta["take"]: span.length for span in dataset.spans}
    assert lengths["b.mkv"] == 40 and 5 < lengths["a.mkv"] < 40  # what can be decoded is kept


def test_an_import_that_was_stopped_between_two_clips_goes_on(tmp_path):
    times = [*seconds(1), *(2 + time for time in seconds(1))]
    for name in ("a", "b"):
        video_at(tmp_path / "in" / f"{name}.mp4", times, shades(times))
        (tmp_path / "in" / f"{name}.csv").write_text("time,key,down\n0.55,w,1\n2.55,w,0\n", encoding="utf-8")

    def stop(done: int, total: int) -> None:
        if done == 30:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, progress=stop)
    (killed := tmp_path / "out" / ".rows-killed").mkdir()
    (killed / "0.npy").touch()
    seen = []
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, progress=lambda *at: seen.append(at))
    assert seen == [(40, 40)] and not killed.exists()  # only the last clip was missing
    once, _ = import_recordings(tmp_path / "in", tmp_path / "once", OPTIONS)
    assert (dataset.frames_FHWC == once.frames_FHWC).all() and (dataset.actions_FA == once.actions_FA).all()
    assert column(dataset, "left_stick_y") == ([0] * 5 + [1] * 11 + [0] * 4) * 2
    assert near(levels_of(dataset.frames_FHWC)[20:], [20 + 4 * step for step in (*range(10), *range(20, 30))])


def test_a_log_that_was_corrected_is_not_passed_over(tmp_path):
    """The dataset of the earlier log was returned, without a word."""
    folder = at(tmp_path / "in", "time,key,down\n0.05,w,1\n1.5,w,0\n")
    imported(folder)
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    stat = (folder / "a.csv").stat()
    (folder / "a.csv").write_text("time,key,down\n0.05,s,1\n1.5,s,0\n", encoding="utf-8")
    with pytest.raises(RecordingError, match=r"a\.mp4 has changed since .*out was made of it; remove that folder"):
        imported(folder)
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
    assert stat.st_size == (folder / "a.csv").stat().st_size
    at(folder, "time,key,down\n0.05,w,1\n1.5,w,0\n")  # written again as it was
    imported(folder)


def test_a_clip_whose_log_was_corrected_is_imported_again_when_an_import_continues(tmp_path):
    """The clips of the earlier log were kept."""
    for name in "ab":
        video_at(tmp_path / "in" / f"{name}.mp4", seconds(2), shades(seconds(2)))
        (tmp_path / "in" / f"{name}.csv").write_text("time,key,down\n0.05,w,1\n1.5,w,0\n", encoding="utf-8")

    def stop(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, progress=stop)
    (tmp_path / "in" / "a.csv").write_text("time,key,down\n0.05,s,1\n1.5,s,0\n", encoding="utf-8")
    dataset, _ = imported(tmp_path / "in")
    assert column(dataset, "left_stick_y") == [-1.0] * 15 + [0.0] * 5 + [1.0] * 15 + [0.0] * 5


def test_an_unfinished_recording_of_an_environment_is_not_replaced(tmp_path):
    writer = FrameDataset.create(tmp_path / "out", 9, height=12, width=16, state_columns=())
    rows = np.zeros((2, 12, 16, 3), np.uint8), np.zeros((2, 16), np.uint8), np.zeros((2, 0), np.float32)
    writer.append_episode(*rows, {"game": "CarRacing-v3", "episode": 0})
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with pytest.raises(RecordingError, match="unfinished recording"):
        imported(at(tmp_path / "in", "time,key,down\n0.05,w,1\n1.5,w,0\n"))
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_no_fault_of_a_recording(tmp_path):
    for name in ("a", "b"):
        video_at(tmp_path / "in" / f"{name}.mp4", seconds(1, 10), shades(seconds(1, 10)))
        (tmp_path / "in" / f"{name}.csv").write_text("time,key,down\n0.05,w,1\n0.9,w,0\n", encoding="utf-8")
    frames = tmp_path / "out" / "part-frames.npy"

    def fill_disk(done: int, total: int) -> None:
        if not frames.is_symlink():
            frames.rename(tmp_path / "kept")
            frames.symlink_to("/dev/full")

    with pytest.raises(StorageError, match="make room"):
        import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, progress=fill_disk, on_skip=pytest.fail)
    frames.unlink()
    (tmp_path / "kept").rename(frames)
    seen = []
    dataset, _ = import_recordings(tmp_path / "in", tmp_path / "out", OPTIONS, progress=lambda *at: seen.append(at))
    assert seen == [(20, 20)] and near(levels_of(dataset.frames_FHWC), [20 + 4 * step for step in range(10)] * 2)


def test_formats_side_by_side_take_nothing_from_each_other(tmp_path):
    at(tmp_path / "in", "time,key,down\n0.05,space,1\n1.5,space,0\n")
    (tmp_path / "in" / "actions.csv").write_text("", encoding="utf-8")
    video_at(tmp_path / "in" / "owl" / "recording.mp4", seconds(1, 10), [9] * 10)
    (tmp_path / "in" / "owl" / "inputs.csv").write_text("", encoding="utf-8")
    (tmp_path / "in" / "b.npz").write_bytes(b"")
    found = [(r.format, r.path.name) for r in find_recordings(tmp_path / "in", OPTIONS)]
    assert sorted(found) == [("npz", "b.npz"), ("owlcontrol", "owl"), ("pictures", "in"), ("video", "a.mp4")]


def test_the_format_can_be_forced(tmp_path):
    at(tmp_path / "in", "time,key,down\n0.05,space,1\n1.5,space,0\n")
    assert [r.format for r in find_recordings(tmp_path / "in", OPTIONS)] == ["video"]
    with pytest.raises(RecordingError, match="no recording of the format npz"):
        find_recordings(tmp_path / "in", replace(OPTIONS, format="npz"))


def test_memory_does_not_hold_the_pictures_of_a_clip(tmp_path):
    """Rows are taken one at a time from the decoder."""
    import tracemalloc

    times = seconds(6, 10)
    video_at(tmp_path / "in" / "a.mp4", times, [50] * 60, size=(480, 640))
    (tmp_path / "in" / "a.csv").write_text("time,key,down\n0.05,space,1\n5.5,space,0\n", encoding="utf-8")
    tracemalloc.start()
    dataset, _ = imported(tmp_path / "in", frame_size=(240, 320))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset) == 60 and peak < dataset.frames_FHWC.nbytes / 3
    assert np.ptp(dataset.frames_FHWC) <= 3
