"""How the picture moved from each frame to the next, without learning: phase correlation in horizontal bands.

Kuglin & Hines 1975. In a world seen by a turning camera the upper band is a compass: it holds what is far away. Knows
nothing of actions. T frames, H W picture.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

BANDS = 3
"""Upper, middle and lower third of the picture."""
MOTIONS: tuple[str, ...] = tuple(
    f"{way} motion of the {band} third" for band in ("upper", "middle", "lower") for way in ("sideways", "up-down")
)
"""Names of the columns of `motions`."""


def motions(frames_THWC: Tensor, chunk: int = 64) -> Tensor:
    """Motion of each band between neighbouring frames, in pixels.

    Args:
        frames_THWC: uint8 RGB in [0, 255].
        chunk: frames worked on at once.

    Returns:
        float32 [T - 1, 2 BANDS], columns as in `MOTIONS`; positive: the scene moves right, or down.
    """
    parts = []
    for first in range(0, len(frames_THWC) - 1, chunk):
        grey_TBhw, scale = _bands(frames_THWC[first : first + chunk + 1])
        parts.append(_shifts(grey_TBhw[:-1], grey_TBhw[1:]).flatten(1) * scale)
    return torch.cat(parts)


def _bands(frames_THWC: Tensor) -> tuple[Tensor, int]:
    """Grey bands float [T, BANDS, h, w] without their edges' weight, and pixels per cell of them."""
    grey_T1HW = frames_THWC.float().mean(-1)[:, None]
    scale = 2 if grey_T1HW.shape[-1] >= 128 else 1
    grey_THW = F.avg_pool2d(grey_T1HW, scale)[:, 0]
    rows = grey_THW.shape[1] // BANDS
    bands = grey_THW[:, : rows * BANDS].reshape(len(grey_THW), BANDS, rows, -1)
    bands = bands - bands.mean((-1, -2), keepdim=True)
    window = torch.outer(torch.hann_window(rows, periodic=False), torch.hann_window(bands.shape[-1], periodic=False))
    return bands * window.to(bands.device), scale


def _shifts(before_TBhw: Tensor, after_TBhw: Tensor) -> Tensor:
    """Sideways and up-down shift [T, BANDS, 2] of the second against the first, in cells, to a fraction of one."""
    cross = torch.fft.rfft2(after_TBhw) * torch.fft.rfft2(before_TBhw).conj()
    surface = torch.fft.irfft2(cross / (cross.abs() + 1e-6), s=before_TBhw.shape[-2:])
    rows, columns = surface.shape[-2:]
    peak = surface.flatten(-2).argmax(-1)
    y, x = peak // columns, peak % columns
    sideways = _wrap(x, columns) + _fraction(surface, y, x, 0, 1)
    updown = _wrap(y, rows) + _fraction(surface, y, x, 1, 0)
    return torch.stack([sideways, updown], dim=-1)


def _wrap(index: Tensor, size: int) -> Tensor:
    return torch.where(index > size // 2, index - size, index).float()


def _fraction(surface: Tensor, y: Tensor, x: Tensor, dy: int, dx: int) -> Tensor:
    """Where between the peak's neighbours the top of a parabola lies, in [-0.5, 0.5]."""
    rows, columns = surface.shape[-2:]
    flat = surface.flatten(-2)

    def at(step: int) -> Tensor:
        place = ((y + step * dy) % rows) * columns + (x + step * dx) % columns
        return flat.gather(-1, place[..., None])[..., 0]

    low, top, high = at(-1), at(0), at(1)
    bend = low - 2 * top + high
    return torch.where(bend < -1e-9, 0.5 * (low - high) / bend, torch.zeros_like(bend)).clamp(-0.5, 0.5)
