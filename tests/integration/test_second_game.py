"""The walk-through of docs/own_game.md at small scale: CarRacing, recorded by a script without playloom."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from playloom.actions.codec import decode_values
from playloom.actions.controller import CONTROLS
from playloom.cli.app import app
from playloom.data.dataset import FrameDataset
from playloom.media.clips import read_dream_clip

pytest.importorskip("Box2D", reason="needs gymnasium[box2d]")
import record_carracing

SECONDS = 20


def playloom(*words):
    result = CliRunner().invoke(app, list(map(str, words)))
    assert result.exit_code == 0, result.output
    return result.output


def held(log: Path, control: str, offset: float) -> np.ndarray:
    """A control at every step of 0.1 s, for times of the log that are early by an offset."""
    rows = [line.split(",") for line in log.read_text(encoding="utf-8").splitlines()[1:]]
    start = next(float(time) for time, name, _ in rows if name == "video_start")
    events = [(float(time) - start + offset, float(value)) for time, name, value in rows if name == control]
    times, values = np.array(events).T
    return np.append(0.0, values)[np.searchsorted(times, 0.1 * np.arange(10 * SECONDS) + 0.05)]


def test_the_recorder_is_independent():
    tree = ast.parse(Path(record_carracing.__file__).read_text(encoding="utf-8"))
    names = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert names - set(sys.stdlib_module_names) == {"av", "gymnasium", "numpy"}


@pytest.mark.slow
def test_recordings_to_a_dream(tmp_path):
    (tmp_path / "car").mkdir()
    record_carracing.record(tmp_path / "car", 0, SECONDS)
    said = playloom(
        "import", tmp_path / "car", "--out", tmp_path / "data", "--mapping", "controller", "--offset", "auto",
        "--preset", "tiny", "--no-report",
    )  # fmt: skip
    found = float(said.split("early by ")[1].split(" s")[0])
    assert abs(found - record_carracing.LATE) < 0.1
    dataset = FrameDataset.open(tmp_path / "data")
    assert len(dataset) == 10 * SECONDS
    stick = decode_values(dataset.actions_FA)[:, [control.name for control in CONTROLS].index("left_stick_x")]
    likeness = [
        np.corrcoef(stick, held(tmp_path / "car" / "session-00.csv", "left_stick_x", offset))[0, 1]
        for offset in (0.0, record_carracing.LATE)
    ]
    assert likeness[1] > 0.9 > likeness[0]
    run, dream = tmp_path / "run", tmp_path / "dream"
    playloom(
        "train", "--data", tmp_path / "data", "--out", run, "--preset", "tiny", "--minutes", "0.03", "--threads", "1"
    )
    assert list((run / "model" / "prompts").glob("*"))
    playloom("dream", "--model", run / "model", "--steps", "3", "--threads", "1", "--out", dream)
    assert len(read_dream_clip(dream / "dream.npz").frames_THWC) > 3
