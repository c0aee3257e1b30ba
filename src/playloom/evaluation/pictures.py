"""Figures of whole pictures in numpy form: PSNR, SSIM, sharpness. Pure.

Pictures are uint8 [B, H, W, 3]; results are float64 [B], one number a picture.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.tokenizer import quality

PSNR_CAP = 50.0
"""dB that a picture equal to the true one counts as; without it one still moment would make every mean infinite."""
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green, blue in brightness (ITU-R BT.601)."""


def psnr(frames_BHWC: NDArray[np.uint8], truth_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each picture in dB, at most `PSNR_CAP`."""
    value = quality.psnr(_tensor(frames_BHWC), _tensor(truth_BHWC))
    return value.clamp(max=PSNR_CAP).double().numpy()


def ssim(frames_BHWC: NDArray[np.uint8], truth_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity of each picture (Wang et al. 2004), at most 1."""
    return quality.ssim(_tensor(frames_BHWC), _tensor(truth_BHWC)).double().numpy()


def luma(frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Brightness, float32 [..., H, W] in [0, 255]."""
    return frames_BHWC.astype(np.float32) @ _LUMA


def sharpness(frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean absolute Laplacian (four neighbours) of the brightness of each picture, in grey levels; 0 for one colour."""
    y = luma(frames_BHWC)
    inner = y[..., 1:-1, 1:-1]
    around = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]
    return np.abs(around - 4 * inner).mean((-2, -1)).astype(np.float64)


def _tensor(frames_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.array(frames_BHWC))  # a copy, since torch refuses views of read-only memory maps
