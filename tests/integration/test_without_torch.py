"""Programs in processes that cannot import torch: all but training, evaluation and export."""

import os
import re
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

from conftest import loud_model, tiny_config
from engine_toys import prompt_of
from import_toys import video_at
from playloom.actions.codec import REST_VALUES
from playloom.data.dataset import FrameDataset
from playloom.inference.backend import CPU_BACKEND
from playloom.media.clips import Clip, read_dream_clip, write_clip
from playloom.models.checkpoint import save_model
from playloom.models.onnx.export import export_onnx

HIDE = """
import sys

class Without:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        hidden = name.split(".")[0] in ("torch", "einops", "jaxtyping", "safetensors", "onnx")
        return None if hidden else self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
"""
PLAYLOOM = [sys.executable, "-c", "from playloom.cli.app import main; main()"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("hidden")
    (folder / "sitecustomize.py").write_text(HIDE, encoding="utf-8")
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder), *sys.path])}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "tiny"
    save_model(folder, loud_model(tiny_config()))
    export_onnx(folder)
    return folder


@pytest.fixture
def run(environment, tmp_path):
    def call(*words: object) -> subprocess.CompletedProcess[str]:
        command = [*PLAYLOOM, *map(str, words)]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, check=False)

    return call


def test_a_dream_names_its_backend(run, model, tmp_path):
    prompt, more = prompt_of(3), np.tile(REST_VALUES, (1, 1))
    write_clip(tmp_path / "clip.npz", Clip(prompt.frames_THWC, np.concatenate([prompt.actions_TA, more])))
    words = ("--model", model, "--prompt", "clip.npz", "--context", 3, "--steps", 2, "--actions", "forward")
    done = run("dream", *words, "--out", "dream")
    assert done.returncode == 0, done.stderr
    clip = read_dream_clip(tmp_path / "dream" / "dream.npz")
    assert len(clip.frames_THWC) == 5 and clip.manifest.backend == CPU_BACKEND


def test_recordings_are_imported_and_their_clock_is_estimated(run, tmp_path):
    times = np.arange(0, 16, 1 / 15)
    video_at(tmp_path / "play" / "a.mp4", times, (40 + 80 * (times % 2 < 1)).astype(int))
    (tmp_path / "play" / "a.csv").write_text(
        "time,key,down\n" + "".join(f"{t},w,{1 - t % 2}\n" for t in range(16)), encoding="utf-8"
    )
    done = run("import", "play", "--out", "data", "--preset", "tiny", "--offset", "auto")
    assert done.returncode == 0, done.stderr + done.stdout
    assert len(FrameDataset.open(tmp_path / "data")) > 100


def test_a_server_answers(environment, model, tmp_path):
    command = [*PLAYLOOM, "serve", "--port", "0", "--model", str(model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path, env=environment) as process:
        try:
            home = re.search(r"http://[\d.:]+", process.stdout.readline())[0]
            assert httpx.get(f"{home}/v1/health").json()["status"] == "ok"
            reply = httpx.post(f"{home}/v1/dream", json={"prompt": "plaza-explorer", "steps": 1}, timeout=60)
            assert reply.status_code == 200 and len(reply.json()["steps"]) == 1
        finally:
            process.terminate()


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        ("train --data data --out run", "train"),
        ("train world --data data --out run", "train"),
        ("dream --steps 1 --backend torch", "train"),
        ("dream --steps 1 --device cuda", "gpu"),
        ("evaluate --data .", "evaluate"),
        ("plan", "train"),
        ("export onnx arena-live", "train"),
    ],
)
def test_what_needs_torch_is_one_sentence(run, tmp_path, words, extra):
    done = run(*words.split())
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith(f"pip install 'playloom[{extra}]'")
    assert "Traceback" not in done.stderr and not (tmp_path / "run").exists()


def test_a_model_without_graphs_says_what_to_do(run, tmp_path):
    save_model(tmp_path / "tiny", loud_model(tiny_config()))
    done = run("dream", "--steps", 1, "--model", "tiny")
    assert done.returncode == 2 and "has no ONNX graphs, and torch is not installed" in done.stderr
    assert "export onnx" in done.stderr and "playloom[train]" in done.stderr
