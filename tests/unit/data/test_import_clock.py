"""The offset and the drift of the input's clock are found in the motion of the pictures."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.importing.build import import_recordings
from playloom.data.importing.clock import estimate_clock
from playloom.data.importing.recorders import OwlControl
from playloom.data.importing.recordings import ImportOptions
from playloom.data.importing.resample import PAUSED, find_runs, resample

OPTIONS = ImportOptions(frame_size=(54, 96), split="train")
RATE, SIZE = 20, (54, 96)


def keys(seconds: float, seed: int = 0) -> list[tuple[float, str, int]]:
    """Presses and releases of a and d at random times."""
    rng, time, held, events = np.random.default_rng(seed), 0.0, None, []
    while (time := time + float(rng.uniform(0.1, 0.7))) < seconds:
        events += [(time, held, 0)] if held else []
        held = [None, "a", "d"][int(rng.integers(3))]
        events += [(time, held, 1)] if held else []
    return events


def record(folder: Path, seconds: float, offset: float, drift: float = 0.0, moves=True, zero=0.0, inertia=0.0):
    """A texture that scrolls while a key is held, and a log that is early by an offset and a drift."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, events = np.random.default_rng(1), keys(seconds)
    coarse = rng.integers(0, 256, (SIZE[0] // 3, 200)).repeat(3, 0).repeat(3, 1).astype(np.uint8)
    speed = np.zeros(round(seconds * 100))
    for time, key, down in events:
        speed[round(time * 100) :] = down * {"a": 60.0, "d": -60.0}[key]
    for index in range(1, len(speed)):
        speed[index] += (speed[index - 1] - speed[index]) * np.exp(-0.01 / inertia) if inertia else 0.0
    place = np.cumsum(speed) / 100 * moves
    with av.open(str(folder / "a.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=RATE, options={"threads": "1", "preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = *SIZE, "yuv420p"
        for index in range(round(seconds * RATE)):
            left = round(float(place[index * 100 // RATE]))
            grey = np.roll(coarse, left, axis=1)[:, : SIZE[1], None].repeat(3, 2)
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(grey), format="rgb24")
            frame.pts, frame.time_base = index, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    rows = (f"{zero + (time - offset) / (1 + drift):.4f},{key},{down}\n" for time, key, down in events)
    (folder / "a.csv").write_text("time,key,down\n" + "".join(rows), encoding="utf-8")
    return folder


def turns(dataset) -> np.ndarray:
    names = [control.name for control in CONTROLS]
    return decode_values(dataset.actions_FA)[:, names.index("left_stick_x")]


def said(notes) -> str:
    return next((note for note in notes if "the input is" in note or "offset of the input" in note), "")


def found(notes) -> float:
    return float(said(notes).split("early by ")[1].split(" s")[0])


def imported(folder: Path, name: str, estimate: bool | None = True):
    return import_recordings(folder, folder.parent / name, replace(OPTIONS, estimate_clock=estimate))


@pytest.mark.parametrize("offset", [-0.5, 0.23])
def test_an_offset_is_found_to_a_twentieth_of_a_second(tmp_path, offset):
    dataset, notes = imported(record(tmp_path / "in", 24, offset), "out")
    assert abs(found(notes) - offset) <= 0.05
    right, _ = imported(record(tmp_path / "true", 24, 0.0), "right", False)
    assert np.mean(np.abs(turns(dataset) - turns(right)) > 0.5) < 0.1


def test_inertia_does_not_move_the_offset(tmp_path):
    """The texture answers with a time constant of 0.3 s, as a car answers its wheel."""
    assert abs(found(imported(record(tmp_path / "in", 40, 0.23, inertia=0.3), "out")[1]) - 0.23) < 0.08


def test_the_offset_is_estimated_where_the_start_of_the_log_was_assumed(tmp_path):
    folder = record(tmp_path / "in", 24, 0.0, zero=98765.4)
    first = keys(24)[0][0]
    assert abs(found(imported(folder, "out", None)[1]) - first) <= 0.05
    assert not said(imported(record(tmp_path / "true", 24, 0.0), "right", None)[1])  # the log names time 0


def test_no_part_of_a_video_is_decoded_for_several_stretches(tmp_path):
    """OWL Control, VPT, OpenCS2 and Open-P2P were decoded from the start on for each of them."""

    class Counted(OwlControl):
        def pictures(self, wanted_F=None):
            for picture in super().pictures(wanted_F):
                decoded.append(picture[0])
                yield picture

    folder, decoded = record(tmp_path, 30, 0.0), list[float]()
    (folder / "a.mp4").rename(folder / "recording.mp4")
    keys_down = [f'{time},KEYBOARD,"[{ord(key.upper())}, {str(bool(down)).lower()}]"' for time, key, down in keys(30)]
    lines = ['0,VIDEO_START,"[]"', '0,START,"{}"', *keys_down, '30,END,"{}"']
    (folder / "inputs.csv").write_text("\n".join(lines), encoding="utf-8")
    recording, sources = Counted(folder, OPTIONS), ("a", "d", PAUSED)
    runs = find_runs(recording.times_F)
    input_TC = resample(recording.changes(sources), runs, sources)
    estimate = estimate_clock(recording, sources, runs, input_TC)
    assert estimate.sure and abs(estimate.clock.offset) <= 0.05
    assert len(decoded) < 40 * RATE  # both stretches once, and at most 12.5 s between a key frame and the second


def test_without_motion_nothing_is_changed(tmp_path):
    folder = record(tmp_path / "in", 24, 0.5, moves=False)
    dataset, notes = imported(folder, "out")
    assert "cannot be seen in the pictures' motion, so nothing was changed" in said(notes)
    assert (dataset.actions_FA == imported(folder, "plain", False)[0].actions_FA).all()


def test_an_offset_on_which_three_recordings_agree_is_used_where_it_is_not_found(tmp_path):
    for number in range(4):
        part = record(tmp_path / str(number), 24, 0.23, moves=number < 3)
        for path in part.iterdir():
            (tmp_path / "in").mkdir(exist_ok=True)
            path.rename(tmp_path / "in" / f"{number}{path.suffix}")
    dataset, notes = imported(tmp_path / "in", "out")
    assert sum("the offset of the others is used" in note for note in notes) == 1
    offsets = [span.meta["clock"][0] for span in dataset.spans]
    assert len(offsets) == 4 and offsets[3] == pytest.approx(np.median(offsets[:3]))


def test_a_drift_is_found_and_corrected(tmp_path):
    dataset, notes = imported(record(tmp_path / "in", 80, 0.2, drift=0.01), "out")
    assert abs(float(said(notes).split("drifts by ")[1].split(" ms")[0]) - 10) <= 2
    right, _ = imported(record(tmp_path / "true", 80, 0.0), "right", False)
    size = min(len(dataset), len(right))
    assert np.mean(np.abs(turns(dataset)[:size] - turns(right)[:size]) > 0.5) < 0.15
