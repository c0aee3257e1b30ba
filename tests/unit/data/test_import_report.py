"""The data card and the report say what is in the dataset."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from import_toys import video_at
from playloom.data.importing.build import import_recordings
from playloom.data.importing.recordings import ClipEncoder, ImportOptions
from playloom.errors import RecordingError

OPTIONS = ImportOptions(frame_size=(12, 16))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Two recordings of 2 s and a video without a log; pictures change every 0.2 s."""
    times = [index / 20 for index in range(40)]
    for name in ("a<b>|", "c"):
        path = video_at(tmp_path / "in" / f"{name}.mkv", times, [20 + 20 * int(time * 5 + 1e-6) for time in times])
        rows = ["time,w,d,space,f9,state_health,reward"]
        rows += [
            f"{k / 20},{int(k < 20)},{int(10 <= k < 14)},{int(k == 30)},1,{100 if k < 38 else 3},{int(k == 0)}"
            for k in range(40)
        ]
        path.with_suffix(".csv").write_text("\n".join(rows), encoding="utf-8")
    video_at(tmp_path / "in" / "nolog.mkv", times, [9] * 40)
    return tmp_path / "in"


def imported(folder: Path, options: ImportOptions = OPTIONS, encoder: ClipEncoder | None = None) -> tuple[str, str]:
    out = folder.parent / "out"
    import_recordings(folder, out, options, encoder=encoder, report=True, on_skip=lambda fault: None)
    return (out / "card.md").read_text(encoding="utf-8"), (out / "report.html").read_text(encoding="utf-8")


def row(card: str, name: str) -> list[str]:
    line = next(line for line in card.splitlines() if line.startswith(f"| {name} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[2:-1]]


def test_the_figures_are_those_of_the_data_set(folder):
    card, report = imported(folder)
    assert row(card, "kept") == ["4.0 s: 40 steps of 0.1 s in 2 clips"]
    assert row(card, "recordings") == ["2, of 4.0 s"]
    assert row(card, "train") == ["2.0 s", "1"] and row(card, "validation") == ["2.0 s", "1"]
    assert row(card, "left\\_stick\\_y up") == ["2.0", "50.0%"] and row(card, "left\\_stick\\_x right") == [
        "0.4",
        "10.0%",
    ]
    assert row(card, "button\\_A") == ["0.2", "5.0%"]
    assert row(card, "idle")[0].startswith("45.0%")
    assert row(card, "duplicated frames") == ["20 of 38 neighbouring pairs (52.6%)"]
    unused = row(card, "unused controls")[0].replace("\\", "").split(", ")
    assert {"trigger_LT", "right_stick_x", "skill_2"} <= set(unused)
    assert not {"left_stick_x", "left_stick_y", "button_A"} & set(unused)
    assert row(card, "health = 3") == ["0.2", "5.0%"] and row(card, "health = 100") == ["3.8", "95.0%"]
    assert "f9" not in card and "nolog.mkv has no log" in card and "nolog.mkv has no log" in report
    assert str(folder.parent).replace("_", "\\_") not in card and str(folder.parent) not in report
    assert row(card, "mapping") == ["wasd-mouse + xinput (2)"]


def test_what_is_rare_is_recommended(folder):
    _, report = imported(folder)
    assert "is rare." in report
    rows = ["time,w,space"] + [f"{k / 20},1,{int(k == 30)}" for k in range(400)]
    video_at(folder.parent / "long" / "a.mp4", [k / 20 for k in range(400)], [k % 200 for k in range(400)])
    (folder.parent / "long" / "a.csv").write_text("\n".join(rows), encoding="utf-8")
    (folder.parent / "out").rename(folder.parent / "before")
    card, _ = imported(folder.parent / "long")
    assert "Record more of: button\\_A." in card


def test_names_are_text_and_the_report_needs_no_other_file(folder):
    card, report = imported(folder)
    assert "a<b>" not in card + report and "a&lt;b&gt;|.mkv" in report and "a&lt;b&gt;\\|.mkv" in card
    assert not re.search(r'<script|(src|href)="(?!data:)', report)
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', report)
    assert len(pictures) == 10
    assert Image.open(io.BytesIO(base64.b64decode(pictures[0]))).width > 600


def test_a_data_set_of_codes_has_a_report_without_pictures(folder):
    def load():
        return lambda frames_BHWC: frames_BHWC[:, ::6, ::8, 0].reshape(len(frames_BHWC), 4).astype(np.uint16) // 10

    encoder = ClipEncoder(load=load, slots=4, fingerprint="toy")
    card, report = imported(folder, encoder=encoder)
    assert row(card, "stored") == ["4 codes a frame, of the tokenizer toy"] and "<img" not in report
    assert row(card, "duplicated frames") == ["20 of 38 neighbouring pairs (52.6%)"]
    with pytest.raises(RecordingError, match="finished dataset of other takes or settings"):
        imported(folder, encoder=encoder._replace(fingerprint="another"))


def test_a_missing_report_is_written_by_the_same_command(folder):
    imported(folder, replace(OPTIONS, split="train"))
    (folder.parent / "out" / "report.html").unlink()
    card, report = imported(folder, replace(OPTIONS, split="train"))
    assert "40 steps" in card and "<svg" in report
