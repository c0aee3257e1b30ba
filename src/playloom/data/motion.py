"""Motion between pictures without a model, for what compares pictures with input.

`motions` measures large ones by phase correlation (Kuglin & Hines 1975) in bands, and rotation. `small_motions`
measures small ones of the whole picture by its gradients (Bergen et al. 1992), also where there is little texture.
T frames, H W picture, B bands, P pixels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

BANDS = 3  # upper, middle and lower third of the picture
MOTIONS: tuple[str, ...] = (
    *(f"{way} motion of the {band} third" for band in ("upper", "middle", "lower") for way in ("sideways", "up-down")),
    "rotation",
)
_ANGLES, _RADII = 360, 32  # samples of the spectrum over half a turn, and outwards
_LARGEST_TURN = 40  # degrees


def motions(frames_THWC: NDArray[np.uint8], chunk: int = 64) -> Floats:
    """Measure the motion between uint8 RGB frames, float32 [T - 1, 2 BANDS + 1]: pixels, and degrees; see `MOTIONS`."""
    parts = []
    for first in range(0, len(frames_THWC) - 1, chunk):
        grey_THW = frames_THWC[first : first + chunk + 1].mean(-1, dtype=np.float32)
        scale = 2 if grey_THW.shape[-1] >= 128 else 1
        grey_THW = _halved(grey_THW) if scale == 2 else grey_THW
        rows = grey_THW.shape[1] // BANDS
        grey_TBhw = _faded(grey_THW[:, : rows * BANDS].reshape(len(grey_THW), BANDS, rows, -1))
        pixels_TC = _shifts(grey_TBhw[:-1], grey_TBhw[1:]).reshape(len(grey_THW) - 1, -1) * scale
        parts.append(np.concatenate([pixels_TC, _rotations(grey_THW)[:, None]], axis=1))
    return np.concatenate(parts).astype(np.float32)


def _halved(grey_THW: Floats) -> Floats:
    rows, columns = (size // 2 * 2 for size in grey_THW.shape[1:])
    even, odd = grey_THW[:, :rows:2, :columns], grey_THW[:, 1:rows:2, :columns]
    return (even[..., ::2] + even[..., 1::2] + odd[..., ::2] + odd[..., 1::2]) / 4


def _blurred(grey_THW: Floats) -> Floats:
    rows = grey_THW[:, 1:] + grey_THW[:, :-1]
    return (rows[..., 1:] + rows[..., :-1]) / 4


def _faded(grey: Floats) -> Floats:
    """Without the mean, and faded at the edges: their jumps would be in every spectrum."""
    rows, columns = grey.shape[-2:]
    window = np.outer(np.hanning(rows), np.hanning(columns)).astype(np.float32)
    return (grey - grey.mean((-1, -2), keepdims=True)) * window


def _rotations(grey_THW: Floats) -> Floats:
    """Rotation of each grey frame against the one before in degrees [T - 1], about any point.

    The magnitude of the spectrum turns with the picture and does not move (Reddy & Chatterji 1996).
    """
    height, width = grey_THW.shape[1:]
    size = min(height, width)
    top, left = (height - size) // 2, (width - size) // 2
    square = _faded(grey_THW[:, top : top + size, left : left + size])
    spectrum = np.fft.fftshift(np.abs(np.fft.fft2(square, s=(2 * size, 2 * size))), axes=(-2, -1))
    angle_A1 = np.arange(_ANGLES)[:, None] * (np.pi / _ANGLES)
    radius = np.linspace(0.05, 0.6, _RADII) * size
    polar_TAR = _sampled(np.log1p(spectrum), radius * np.sin(angle_A1) + size, radius * np.cos(angle_A1) + size)
    waves = np.fft.rfft(polar_TAR - polar_TAR.mean(1, keepdims=True), axis=1)
    match = np.fft.irfft((waves[1:] * waves[:-1].conj()).sum(-1), n=_ANGLES, axis=1)
    most = _LARGEST_TURN * _ANGLES // 180
    near = np.concatenate([match[:, -most:], match[:, : most + 1]], axis=1)
    return (near.argmax(1) - most) * (180 / _ANGLES)


def _sampled(spectrum: Floats, y: NDArray[np.float64], x: NDArray[np.float64]) -> Floats:
    """Values between pixels, linearly; `y` and `x` count from the outer edge of the first pixel."""
    top, left = np.floor(y - 0.5).astype(int), np.floor(x - 0.5).astype(int)
    down, across = y - 0.5 - top, x - 0.5 - left
    upper = spectrum[:, top, left] * (1 - across) + spectrum[:, top, left + 1] * across
    lower = spectrum[:, top + 1, left] * (1 - across) + spectrum[:, top + 1, left + 1] * across
    return upper * (1 - down) + lower * down


def _shifts(before_TBhw: Floats, after_TBhw: Floats) -> Floats:
    """Horizontal and vertical shift [T, BANDS, 2] of the second against the first, in cells, at sub-cell precision."""
    cross = np.fft.rfft2(after_TBhw) * np.fft.rfft2(before_TBhw).conj()
    surface = np.fft.irfft2(cross / (np.abs(cross) + 1e-6), s=before_TBhw.shape[-2:])
    rows, columns = surface.shape[-2:]
    y, x = np.divmod(surface.reshape(*surface.shape[:-2], -1).argmax(-1), columns)
    sideways = np.where(x > columns // 2, x - columns, x) + _fraction(surface, y, x, 0, 1)
    updown = np.where(y > rows // 2, y - rows, y) + _fraction(surface, y, x, 1, 0)
    return np.stack([sideways, updown], axis=-1)


def _fraction(surface: Floats, y: NDArray[np.int64], x: NDArray[np.int64], dy: int, dx: int) -> Floats:
    rows, columns = surface.shape[-2:]
    frame, band = np.indices(y.shape)
    low, top, high = (surface[frame, band, (y + s * dy) % rows, (x + s * dx) % columns] for s in (-1, 0, 1))
    bend = low - 2 * top + high
    return np.where(bend < -1e-9, 0.5 * (low - high) / np.minimum(bend, -1e-9), 0).clip(-0.5, 0.5)


def small_motions(frames_THWC: NDArray[np.uint8], chunk: int = 64) -> Floats:
    """Measure the motion between uint8 RGB frames, float32 [T - 1, 4]: sideways, up-down, zoom and turn.

    The unit is two pixels, at the upper edge for zoom and turn. Larger motions come out too small.
    """
    parts = []
    for first in range(0, len(frames_THWC) - 1, chunk):
        grey_THW = frames_THWC[first : first + chunk + 1].mean(-1, dtype=np.float32)
        smooth = _blurred(_blurred(_halved(grey_THW)))
        mean, change = (smooth[1:] + smooth[:-1]) / 2, smooth[:-1] - smooth[1:]
        down, across = np.gradient(mean, axis=(1, 2))
        rows, columns = mean.shape[1:]
        y = ((np.arange(rows)[:, None] - (rows - 1) / 2) * (2 / rows)).astype(np.float32)
        x = ((np.arange(columns) - (columns - 1) / 2) * (2 / rows)).astype(np.float32)
        parts_T4HW = np.stack([across, down, across * x + down * y, down * x - across * y], axis=1)
        parts.append(_robust_fit(parts_T4HW.reshape(*parts_T4HW.shape[:2], -1), change.reshape(len(change), -1)))
    return np.concatenate(parts)


def _robust_fit(x_T4P: Floats, y_TP: Floats) -> Floats:
    """Weights [T, 4] of a sum of parts: least squares, then once more with what does not fit weighing less."""
    ridge = np.float32(1e-3 * x_T4P.shape[-1]) * np.eye(x_T4P.shape[1], dtype=np.float32)
    trust_TP = np.ones_like(y_TP)
    for _ in range(2):
        weighted_T4P = x_T4P * trust_TP[:, None]
        weights_T41 = np.linalg.solve(weighted_T4P @ x_T4P.swapaxes(1, 2) + ridge, weighted_T4P @ y_TP[..., None])
        left_TP = y_TP - (x_T4P * weights_T41).sum(1)
        scale_T1 = 1.5 * np.median(np.abs(left_TP), axis=1, keepdims=True) + 1
        trust_TP = 1 / (1 + np.square(left_TP / scale_T1))
    return weights_T41[..., 0]
