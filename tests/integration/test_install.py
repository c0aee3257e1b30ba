"""The wheel in a bare virtual environment: it runs without extras, and a missing extra is one sentence."""

import os
import subprocess
import sys
import venv
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from PIL import Image

from conftest import loud_model, tiny_config
from playloom.envs import ENV_ID
from playloom.models.checkpoint import save_model
from training_toys import frame_dataset

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]


def name_of(line: str) -> str:
    return Requirement(line).name


def applies(line: str) -> bool:
    marker = Requirement(line).marker
    return marker is None or marker.evaluate({"extra": ""})


def base_packages() -> set[str]:
    """Names of the packages that a plain `pip install playloom` brings, as far as they are here."""
    found: set[str] = set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    waiting = [name_of(line) for line in project["dependencies"] if applies(line)]
    while waiting:
        try:
            needs = distribution(waiting[-1]).requires or []
        except PackageNotFoundError:  # of another platform
            needs = []
        found.add(waiting.pop())
        waiting += [name_of(line) for line in needs if applies(line)]
        waiting = [name for name in waiting if name not in found]
    return found


@pytest.fixture(scope="module")
def bare(tmp_path_factory) -> Path:
    """The programs of an environment that holds the built wheel and its base packages, nothing else."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    words = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(ROOT)]
    subprocess.run([*pip, *words], check=True)
    (wheel,) = place.glob("playloom-*.whl")
    venv.create(place / "venv", with_pip=False)
    python = place / "venv" / "bin" / "python"
    subprocess.run([*pip, "--python", str(python), "install", "--no-deps", "--no-index", str(wheel)], check=True)
    (site,) = (place / "venv").glob("lib/python*/site-packages")
    for name in base_packages():
        try:
            package = distribution(name)
        except PackageNotFoundError:
            continue
        for top in {file.parts[0] for file in package.files or []} - {"..", "__pycache__"}:
            if not (site / top).exists():
                (site / top).symlink_to(package.locate_file(top))
    return python.parent


def run(bare: Path, folder: Path, program: str, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "PLAYLOOM"))}
    command = [str(bare / program), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env=environment)


def test_the_wheel_dreams_without_extras(bare, tmp_path):
    code = "import playloom; print(playloom.__file__); import {}"
    for name in ("fastapi", "torch"):
        imported = run(bare, tmp_path, "python", "-c", code.format(name))
        assert imported.stdout.startswith(str(bare.parent)) and f"No module named '{name}'" in imported.stderr
    help_ = run(bare, tmp_path, "playloom", "--help")
    assert help_.returncode == 0 and "dream" in help_.stdout, help_.stderr
    dreamed = run(bare, tmp_path, "playloom", "dream", "--steps", "1", "--out", "out")
    assert dreamed.returncode == 0, dreamed.stderr
    assert len(list((tmp_path / "out" / "raw").glob("*.png"))) == 1


@pytest.mark.parametrize(
    ("words", "extra"),
    [
        (["playloom", "serve"], "serve"),
        (["playloom", "call", "--image", "me.png"], "call"),
        (["playloom", "record", "--hours", "0.01"], "game"),
        (["playloom", "capture", "--out", "play"], "capture"),
        (["playloom", "evaluate", "--data", "data"], "evaluate"),
        (
            ["playloom", "train", "tokenizer", "--data", "data", "--out", "run", "--preset", "tiny", "--steps", "1"],
            "train",
        ),
        (["python", "-c", "import playloom.envs"], "rl"),
    ],
    ids=lambda given: given if isinstance(given, str) else "",
)
def test_a_missing_extra_is_one_sentence(bare, tmp_path, words, extra):
    Image.new("RGB", (300, 180)).save(tmp_path / "me.png")
    frame_dataset(tmp_path / "data")
    done = run(bare, tmp_path, *words)
    assert done.returncode in {1, 2}
    assert done.stderr.splitlines()[-1].endswith(f"pip install 'playloom[{extra}]'"), done.stderr


def test_gymnasium_finds_the_environment_by_its_name(tmp_path):
    save_model(tmp_path / "tiny", loud_model(tiny_config()), dtype=None)
    code = (
        "import gymnasium, sys\n"
        f"env = gymnasium.make('playloom.envs:{ENV_ID}', model=sys.argv[1])\n"
        "assert env.reset(seed=1)[0].shape == (16, 24, 3)\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "tiny")], check=True)
