"""Motion between pictures without a model, for what compares pictures with input.

`motions` measures large ones by phase correlation (Kuglin & Hines 1975) in bands, and rotation. `small_motions`
measures small ones of the whole picture by its gradients (Bergen et al. 1992), also where there is little texture.
T frames, H W picture, B bands, P pixels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BANDS = 3  # upper, middle and lower third of the picture
MOTIONS: tuple[str, ...] = (
    *(f"{way} motion of the {band} third" for band in ("upper", "middle", "lower") for way in ("sideways", "up-down")),
    "rotation",
)
_ANGLES, _RADII = 360, 32  # samples of the spectrum over half a turn, and outwards
_LARGEST_TURN = 40  # degrees


def motions(frames_THWC: Tensor, chunk: int = 64) -> Tensor:
    """Measure the motion between uint8 RGB frames, float32 [T - 1, 2 BANDS + 1]: pixels, and degrees; see `MOTIONS`."""
    parts = []
    for first in range(0, len(frames_THWC) - 1, chunk):
        grey_T1HW = frames_THWC[first : first + chunk + 1].float().mean(-1)[:, None]
        scale = 2 if grey_T1HW.shape[-1] >= 128 else 1
        grey_THW = F.avg_pool2d(grey_T1HW, scale)[:, 0]
        grey_TBhw = _bands(grey_THW)
        pixels = _shifts(grey_TBhw[:-1], grey_TBhw[1:]).flatten(1) * scale
        parts.append(torch.cat([pixels, _rotations(grey_THW)[:, None]], dim=1))
    return torch.cat(parts)


def _bands(grey_THW: Tensor) -> Tensor:
    """Bands of grey frames, float [T, BANDS, h, w], faded at their edges."""
    rows = grey_THW.shape[1] // BANDS
    return _faded(grey_THW[:, : rows * BANDS].reshape(len(grey_THW), BANDS, rows, -1))


def _faded(grey: Tensor) -> Tensor:
    rows, columns = grey.shape[-2:]
    window = torch.outer(torch.hann_window(rows, periodic=False), torch.hann_window(columns, periodic=False))
    return (grey - grey.mean((-1, -2), keepdim=True)) * window.to(grey.device)


def _rotations(grey_THW: Tensor) -> Tensor:
    """Rotation of each grey frame against the one before in degrees [T - 1], about any point.

    The magnitude of the spectrum turns with the picture and does not move (Reddy & Chatterji 1996).
    """
    height, width = grey_THW.shape[1:]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    square = _faded(grey_THW[:, top : top + size, left : left + size])
    spectrum = torch.fft.fftshift(torch.fft.fft2(square, s=(2 * size, 2 * size)).abs(), dim=(-2, -1))
    angle = torch.arange(_ANGLES, device=square.device) * (torch.pi / _ANGLES)
    radius = torch.linspace(0.05, 0.6, _RADII, device=square.device)
    grid = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=-1)[:, None]
    polar = F.grid_sample(spectrum.log1p()[:, None], grid.expand(len(square), -1, -1, -1), align_corners=False)[:, 0]
    waves = torch.fft.rfft(polar - polar.mean(1, keepdim=True), dim=1)
    match = torch.fft.irfft((waves[1:] * waves[:-1].conj()).sum(-1), n=_ANGLES, dim=1)
    most = _LARGEST_TURN * _ANGLES // 180
    return (torch.cat([match[:, -most:], match[:, : most + 1]], dim=1).argmax(1) - most) * (180 / _ANGLES)


def _shifts(before_TBhw: Tensor, after_TBhw: Tensor) -> Tensor:
    """Horizontal and vertical shift [T, BANDS, 2] of the second against the first, in cells, at sub-cell precision."""
    cross = torch.fft.rfft2(after_TBhw) * torch.fft.rfft2(before_TBhw).conj()
    surface = torch.fft.irfft2(cross / (cross.abs() + 1e-6), s=before_TBhw.shape[-2:])
    rows, columns = surface.shape[-2:]
    peak = surface.flatten(-2).argmax(-1)
    y, x = peak // columns, peak % columns
    sideways = torch.where(x > columns // 2, x - columns, x).float() + _fraction(surface, y, x, 0, 1)
    updown = torch.where(y > rows // 2, y - rows, y).float() + _fraction(surface, y, x, 1, 0)
    return torch.stack([sideways, updown], dim=-1)


def _fraction(surface: Tensor, y: Tensor, x: Tensor, dy: int, dx: int) -> Tensor:
    rows, columns = surface.shape[-2:]
    flat = surface.flatten(-2)

    def at(step: int) -> Tensor:
        place = ((y + step * dy) % rows) * columns + (x + step * dx) % columns
        return flat.gather(-1, place[..., None])[..., 0]

    low, top, high = at(-1), at(0), at(1)
    bend = low - 2 * top + high
    return torch.where(bend < -1e-9, 0.5 * (low - high) / bend, torch.zeros_like(bend)).clamp(-0.5, 0.5)


def small_motions(frames_THWC: Tensor, chunk: int = 64) -> Tensor:
    """Measure the motion between uint8 RGB frames, float32 [T - 1, 4]: sideways, up-down, zoom and turn.

    The unit is two pixels, at the upper edge for zoom and turn. Larger motions come out too small.
    """
    parts = []
    for first in range(0, len(frames_THWC) - 1, chunk):
        grey_T1HW = frames_THWC[first : first + chunk + 1].float().mean(-1)[:, None]
        smooth = F.avg_pool2d(F.avg_pool2d(F.avg_pool2d(grey_T1HW, 2), 2, stride=1), 2, stride=1)[:, 0]
        mean, change = (smooth[1:] + smooth[:-1]) / 2, smooth[:-1] - smooth[1:]
        down, across = torch.gradient(mean, dim=(1, 2))
        rows, columns = mean.shape[1:]
        y = (torch.arange(rows, device=mean.device)[:, None] - (rows - 1) / 2) * (2 / rows)
        x = (torch.arange(columns, device=mean.device) - (columns - 1) / 2) * (2 / rows)
        parts_T4P = torch.stack([across, down, across * x + down * y, down * x - across * y], dim=1).flatten(2)
        parts.append(_robust_fit(parts_T4P, change.flatten(1)))
    return torch.cat(parts)


def _robust_fit(x_T4P: Tensor, y_TP: Tensor) -> Tensor:
    """Weights [T, 4] of a sum of parts: least squares, then once more with what does not fit weighing less."""
    ridge = 1e-3 * x_T4P.shape[-1] * torch.eye(x_T4P.shape[1], device=x_T4P.device)
    trust_TP = torch.ones_like(y_TP)
    for _ in range(2):
        weighted_T4P = x_T4P * trust_TP[:, None]
        weights_T41 = torch.linalg.solve(weighted_T4P @ x_T4P.mT + ridge, weighted_T4P @ y_TP[..., None])
        left_TP = y_TP - (x_T4P * weights_T41).sum(1)
        scale_T1 = 1.5 * left_TP.abs().median(dim=1, keepdim=True).values + 1
        trust_TP = 1 / (1 + (left_TP / scale_T1).square())
    return weights_T41[..., 0]
