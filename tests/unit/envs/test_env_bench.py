"""What `playloom bench --only env` says."""

import sys

import torch

from conftest import loud_model, tiny_config
from playloom.benchmarks.run import bench
from playloom.benchmarks.settings import BenchSettings
from playloom.models.checkpoint import save_model


def rows_of(folder):  # type: ignore[no-untyped-def]
    save_model(folder, loud_model(tiny_config()), dtype=torch.float32)
    report = bench(BenchSettings(model=str(folder), device="cpu", only=("env",), quick=True))
    return {row["name"]: row for row in report.to_json()["rows"]}


def test_the_case_measures_steps_and_resets(tmp_path):
    rows = rows_of(tmp_path / "model")
    assert [name.partition(" ")[0] for name in rows] == ["1", "4", "8", "16", "reset"]
    assert all(row["value"] > 0 for row in rows.values())
    assert all(row["times_floor"] > 1 for row in rows.values() if row["unit"] == "steps/s")


def test_without_gymnasium_its_row_says_so(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("playloom.envs")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    (row,) = rows_of(tmp_path / "model").values()
    assert row["value"] is None and "pip install 'playloom[rl]'" in row["note"]
