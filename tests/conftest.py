"""Shape and type checks on every annotated tensor function, and tiny models shared by the tests."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import dataclasses
import multiprocessing.process
import subprocess
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

_CHECKED = [
    "models.transformer.transformer",
    "models.transformer.layers",
    "inference.torch_backend",
]
install_import_hook([f"playloom.{name}" for name in _CHECKED], "beartype.beartype")

from playloom.models.checkpoint import WorldModel, build_transformer  # noqa: E402
from playloom.models.config import ModelConfig  # noqa: E402
from playloom.models.presets import preset  # noqa: E402
from playloom.models.tokenizer.tokenizer import FrameTokenizer  # noqa: E402

pytest_plugins = ["page_browser"]
"""Modules of tests/support with fixtures. They are session-wide, so that there is one Chromium."""
torch.set_num_threads(1)
settings.register_profile("playloom", deadline=None, max_examples=25, derandomize=True)
settings.load_profile("playloom")


def tiny_config(positions: str = "rolling", rows: bool = True, **changes: object) -> ModelConfig:
    """The `tiny` preset with a context of 4 steps, in any of its forms."""
    base = preset("tiny")
    sizes = dataclasses.replace(
        base.transformer,
        **{"positions": positions, "context_steps": 4, "action_condition": rows, "kv_heads": 2, **changes},
    )
    return dataclasses.replace(base, rows=rows, transformer=sizes)


def loud_model(config: ModelConfig, seed: int = 0) -> WorldModel:
    """A model whose random weights are large enough that every input matters."""
    transformer = build_transformer(config, seed=seed)
    source = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in transformer.parameters():
            weight.normal_(std=0.3, generator=source)
    return WorldModel(config=config, tokenizer=FrameTokenizer(config.tokenizer).eval(), transformer=transformer.eval())


@pytest.fixture
def tiny_model() -> WorldModel:
    """A tiny random model, rolling positions, rows."""
    return loud_model(tiny_config())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is not in the fast lane's folders."""
    for item in items:
        if item.path.relative_to(Path(__file__).parent).parts[0] not in {"unit", "server", "docs"}:
            item.add_marker("slow")


@pytest.fixture(autouse=True)
def no_processes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the fast lane fast: a test that starts a process belongs in another folder."""
    if request.node.get_closest_marker("slow") is None:

        def refuse(*_: object, **__: object) -> None:
            pytest.fail("a fast test starts a process; mark it slow, or move it to integration or game")

        monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
        monkeypatch.setattr(multiprocessing.process.BaseProcess, "start", refuse)
