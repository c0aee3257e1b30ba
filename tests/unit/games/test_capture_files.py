"""The files of a capture: nothing of what another window gets, and an error when the disk is full."""

import json
import time
from pathlib import Path

import numpy as np
import pytest

from playloom.data.importing.resample import InputChange
from playloom.errors import BadInputError, ConfigError, StorageError
from playloom.games.capture import CaptureOptions, _Recorder, _VideoWriter
from video_toys import read_frames

PICTURE = np.zeros((64, 80, 4), np.uint8)


def test_keys_are_stored_in_focus_only_and_what_is_held_is_released(tmp_path):
    recorder = _Recorder(tmp_path, 30)
    start = time.monotonic()
    recorder.add(start, None, [InputChange(start, "w", 1), InputChange(start, "mouse_dx", 5)])
    recorder.add(start + 0.1, PICTURE, [InputChange(start + 0.05, "d", 1)])
    recorder.add(start + 0.2, PICTURE, [InputChange(start + 0.15, name, 1) for name in ("d", "wheel_up", "wheel_up")])
    recorder.add(start + 0.3, None, [InputChange(start + 0.25, "e", 1), InputChange(start + 0.25, "w", 0)])
    recorder.close()
    result = recorder.result()
    rows = [json.loads(line) for line in result.video.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
    found = [(row["control"], row["value"]) for row in rows]
    assert found[:5] == [("focus", 1), ("w", 1), ("d", 1), ("wheel_up", 1), ("wheel_up", 1)]
    assert sorted(found[5:7]) == [("d", 0), ("w", 0)] and found[7:] == [("focus", 0)]
    assert [row["time_s"] for row in rows[:5]] == [0, 0, 0, 0.05, 0.05]  # not before the first picture
    assert (result.pictures, result.dropped, result.events, result.waiting) == (2, 0, 6, True)
    assert result.seconds == pytest.approx(0.1) and len(read_frames(result.video)) == 2
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".jsonl", ".mkv"]


def test_a_capture_of_the_same_second_keeps_the_one_before(tmp_path, monkeypatch):
    """A log of the second before was replaced, and one that still ran was a traceback."""
    monkeypatch.setattr(time, "strftime", lambda form: "2026-01-01-120000")
    first, later = _Recorder(tmp_path, 30), []
    first.add(1.0, PICTURE, [InputChange(1.0, "w", 1)])
    later.append(_Recorder(tmp_path, 30))
    later[0].add(2.0, PICTURE, [])
    first.close()
    later[0].close()
    later.append(_Recorder(tmp_path, 30))
    names = [recorder.result().video.stem for recorder in (first, *later)]
    assert names == [f"2026-01-01-120000{number}" for number in ("", "-2", "-3")]
    assert '"w"' in first.result().video.with_suffix(".jsonl").read_text(encoding="utf-8")


def test_a_full_disk_is_an_error():
    writer = _VideoWriter(Path("/dev/full"), 30, PICTURE.shape)
    noise = np.random.default_rng(0).integers(0, 256, PICTURE.shape, dtype=np.uint8)
    with pytest.raises(StorageError, match=r"cannot write /dev/full.*No space left"):
        for number in range(500):
            writer.put(number, noise)
            time.sleep(0.002)
    writer.close()


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"fps": 0}, ConfigError), ({"minutes": 0}, ConfigError), ({"region": (0, 0, 9, 9)}, BadInputError)],
)
def test_wrong_options_are_named(changes, error):
    with pytest.raises(error):
        CaptureOptions(**{"out": Path("play"), "window": "game", **changes})
