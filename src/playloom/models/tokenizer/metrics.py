"""How close a picture is to the true one (PSNR, SSIM), and how sharp it is. Pure functions of pictures.

Pictures are uint8 or float of range [0, 255], [B, H, W, 3]; results are float32 [B], one number a picture.

Figures of whole pictures in numpy form: PSNR, SSIM, sharpness. Pure.

Pictures are uint8 [B, H, W, 3]; results are float64 [B], one number a picture.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

PSNR_CAP = 50.0
"""dB that a picture equal to the true one counts as; without it one still moment would make every mean infinite."""
_LUMA_WEIGHTS = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green, blue in brightness (ITU-R BT.601)."""


def frame_psnr(frames_BHWC: NDArray[np.uint8], truth_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Peak signal-to-noise ratio of each picture in dB, at most `PSNR_CAP`."""
    value = psnr(_tensor(frames_BHWC), _tensor(truth_BHWC))
    return value.clamp(max=PSNR_CAP).double().numpy()


def frame_ssim(frames_BHWC: NDArray[np.uint8], truth_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Structural similarity of each picture (Wang et al. 2004), at most 1."""
    return ssim(_tensor(frames_BHWC), _tensor(truth_BHWC)).double().numpy()


def luma(frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Brightness, float32 [..., H, W] in [0, 255]."""
    return frames_BHWC.astype(np.float32) @ _LUMA_WEIGHTS


def frame_sharpness(frames_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Mean absolute Laplacian (four neighbours) of the brightness of each picture, in grey levels; 0 for one colour."""
    y = luma(frames_BHWC)
    inner = y[..., 1:-1, 1:-1]
    around = y[..., :-2, 1:-1] + y[..., 2:, 1:-1] + y[..., 1:-1, :-2] + y[..., 1:-1, 2:]
    return np.abs(around - 4 * inner).mean((-2, -1)).astype(np.float64)


def _tensor(frames_BHWC: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(np.array(frames_BHWC))  # a copy, since torch refuses views of read-only memory maps


_PEAK = 255.0
_LUMA = (0.299, 0.587, 0.114)


def psnr(frames_BHWC: Tensor, truth_BHWC: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each picture, in dB; infinite for equal pictures."""
    _check_same(frames_BHWC, truth_BHWC)
    error_B = (frames_BHWC.float() - truth_BHWC.float()).square().mean((1, 2, 3))
    return 10 * torch.log10(_PEAK**2 / error_B)


def contrast_gain(frames_BHWC: Tensor, truth_BHWC: Tensor) -> Tensor:
    """How far each picture is closer to the true one than the true one's mean colour is, in dB.

    0 means that nothing but the mean colour was kept; a flat true picture gives minus infinity.
    """
    flat_BHWC = truth_BHWC.float().mean((1, 2), keepdim=True).expand(truth_BHWC.shape)
    return psnr(frames_BHWC, truth_BHWC) - psnr(flat_BHWC, truth_BHWC)


def ssim(frames_BHWC: Tensor, truth_BHWC: Tensor) -> Tensor:
    """Structural similarity of each picture (Wang et al. 2004), at most 1; 11 x 11 Gaussian window, sigma
    1.5.

    The mean over the positions whose window lies inside the picture and over the three channels.
    """
    _check_same(frames_BHWC, truth_BHWC)
    x_BCHW, y_BCHW = (f.permute(0, 3, 1, 2).double() for f in (frames_BHWC, truth_BHWC))
    mean_x, mean_y = _blur(x_BCHW), _blur(y_BCHW)
    var_x = _blur(x_BCHW.square()) - mean_x.square()
    var_y = _blur(y_BCHW.square()) - mean_y.square()
    covariance = _blur(x_BCHW * y_BCHW) - mean_x * mean_y
    c1, c2 = (0.01 * _PEAK) ** 2, (0.03 * _PEAK) ** 2
    likeness = (2 * mean_x * mean_y + c1) / (mean_x.square() + mean_y.square() + c1)
    likeness = likeness * (2 * covariance + c2) / (var_x + var_y + c2)
    return likeness.mean((1, 2, 3)).float()


def sharpness(frames_BHWC: Tensor) -> Tensor:
    """Mean absolute Laplacian (four neighbours) of the brightness of each picture, in grey levels; 0 for one colour."""
    y_BHW = frames_BHWC.float() @ torch.tensor(_LUMA, device=frames_BHWC.device)
    around_BHW = y_BHW[:, :-2, 1:-1] + y_BHW[:, 2:, 1:-1] + y_BHW[:, 1:-1, :-2] + y_BHW[:, 1:-1, 2:]
    return (around_BHW - 4 * y_BHW[:, 1:-1, 1:-1]).abs().mean((1, 2))


def _blur(x_BCHW: Tensor) -> Tensor:
    """Gaussian window, only where it lies inside the picture."""
    radius = 5
    offsets = torch.arange(-radius, radius + 1, dtype=x_BCHW.dtype, device=x_BCHW.device)
    window = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = window / window.sum()
    channels = x_BCHW.shape[1]
    rows = F.conv2d(x_BCHW, window.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)
    return F.conv2d(rows, window.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)


def _check_same(a_BHWC: Tensor, b_BHWC: Tensor) -> None:
    """Only pictures of one shape can be compared."""
    if a_BHWC.shape != b_BHWC.shape or a_BHWC.ndim != 4:
        raise ValueError(f"both must be [B, H, W, 3] of one shape; got {list(a_BHWC.shape)}, {list(b_BHWC.shape)}")
