"""Image metrics: PSNR, SSIM, sharpness.

Pictures are uint8 or float in [0, 255], [B, H, W, 3], as arrays or tensors; results are [B].
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

PSNR_CAP = 50.0  # limit, in dB, of reported means: equal pictures would make every mean infinite
_PEAK = 255.0
_RADIUS = 5  # pixels of the Gaussian window beside its middle
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)  # weights of red, green, blue in brightness (ITU-R BT.601)

Pictures = Tensor | NDArray[np.uint8]


def psnr(frames_BHWC: Pictures, truth_BHWC: Pictures, cap: float = float("inf")) -> Tensor:
    """Return the peak signal-to-noise ratio in dB, float32, at most `cap`."""
    frames_BHWC, truth_BHWC = _tensors(frames_BHWC, truth_BHWC)
    error_B = (frames_BHWC.float() - truth_BHWC.float()).square().mean((1, 2, 3))
    return (10 * torch.log10(_PEAK**2 / error_B)).clamp(max=cap)


def ssim(frames_BHWC: Pictures, truth_BHWC: Pictures) -> Tensor:
    """Return the structural similarity (Wang et al. 2004), at most 1; Gaussian window 11 x 11, sigma 1.5, unpadded.

    NaN for pictures smaller than the window.
    """
    x_BCHW, y_BCHW = (f.permute(0, 3, 1, 2).double() for f in _tensors(frames_BHWC, truth_BHWC))
    if min(x_BCHW.shape[2:]) <= 2 * _RADIUS:
        return torch.full((len(x_BCHW),), torch.nan)
    mean_x, mean_y = _blur(x_BCHW), _blur(y_BCHW)
    var_x = _blur(x_BCHW.square()) - mean_x.square()
    var_y = _blur(y_BCHW.square()) - mean_y.square()
    covariance = _blur(x_BCHW * y_BCHW) - mean_x * mean_y
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    likeness = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    likeness = likeness * (2 * covariance + c2) / (var_x + var_y + c2)
    return likeness.mean((1, 2, 3)).float()


def luma(frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the brightness, float32 [..., H, W] in [0, 255]."""
    return frames_BHWC.astype(np.float32) @ _LUMA_WEIGHTS


def sharpness(frames_BHWC: Pictures) -> NDArray[np.float64]:
    """Return the mean absolute Laplacian (four neighbours) of the brightness, in grey levels; 0 for one colour."""
    y = luma(np.asarray(frames_BHWC))
    inner = y[..., 1:-1, 1:-1]
    around = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]
    return np.abs(around - 4 * inner).mean((-2, -1)).astype(np.float64)


def _blur(x_BCHW: Tensor) -> Tensor:
    """Gaussian window, only where it lies inside the picture."""
    offsets = torch.arange(-_RADIUS, _RADIUS + 1, dtype=x_BCHW.dtype, device=x_BCHW.device)
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = window / window.sum()
    channels = x_BCHW.shape[1]
    rows = F.conv2d(x_BCHW, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _tensors(*pictures: Pictures) -> list[Tensor]:
    # Arrays are copied, since torch refuses views of read-only memory maps.
    a, b = (x if isinstance(x, Tensor) else torch.from_numpy(np.array(x)) for x in pictures)
    if a.shape != b.shape or a.ndim != 4:  # else they would broadcast, to wrong figures
        raise ValueError(f"both must be [B, H, W, 3] of one shape; got {list(a.shape)}, {list(b.shape)}")
    return [a, b]
