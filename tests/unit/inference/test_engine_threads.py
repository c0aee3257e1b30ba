"""The number of threads is the user's, and never changes what is dreamed."""

import os

import numpy as np
import pytest
import torch

from conftest import loud_model, tiny_config
from playloom.actions.codec import REST_VALUES
from playloom.device import limit_spinning, set_threads, usable_cores
from playloom.errors import ConfigError
from playloom.inference.engine import Engine
from playloom.inference.session import Prompt


def test_dreams_do_not_depend_on_threads() -> None:
    model = loud_model(tiny_config())
    size = model.config.tokenizer
    frames = np.random.default_rng(0).integers(0, 255, (3, size.frame_height, size.frame_width, 3), dtype=np.uint8)
    prompt = Prompt(frames_THWC=frames, actions_TA=np.tile(REST_VALUES, (2, 1)))
    dreams = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        try:
            dreams.append([step.frame_HWC for step in Engine(model).dream(prompt, mode="full", steps=4)])
        finally:
            torch.set_num_threads(1)
    np.testing.assert_array_equal(*dreams)


def test_set_threads_is_what_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert set_threads() == 1
    monkeypatch.delenv("OMP_NUM_THREADS")
    try:
        torch.set_num_threads(1000)
        assert set_threads() == usable_cores()
        assert set_threads(2) == 2
    finally:
        torch.set_num_threads(1)
    for number in (0, 10**11):
        with pytest.raises(ConfigError, match="threads"):
            set_threads(number)


def test_spinning_is_limited_unless_the_user_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "environ", {"OMP_WAIT_POLICY": "active"})
    limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ
    monkeypatch.setattr(os, "environ", {})
    limit_spinning()
    assert int(os.environ["GOMP_SPINCOUNT"]) > 0
