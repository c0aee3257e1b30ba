"""How far the camera turned between two pictures of the arena, without learning.

Owns the geometry of the arena's camera and the estimate: the upper rows (sky and hills) are resampled to
equal angles and compared by phase correlation (Kuglin and Hines, 1975). Knows nothing of actions or models.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

FOCAL_PIXELS = 120.0
"""Focal length: the engine's 90 degrees at 4:3 are 106 at 16:9, over 320 pixels, of which 300 are kept."""
SKY_ROWS = 60
"""Rows from the top that mostly show what is far away."""
_HALF_VIEW = 51.0
"""Degrees left and right that are compared; the picture's edges lie at 51.3."""
_COLUMNS = 300
_PAD = 2
"""Zero padding, so that a turn out of the left side is not taken for one into the right side."""
_ROW_SLACK = 10
"""Rows that the horizon may move up or down meanwhile."""
_DAMPING = 1e-2
_LARGEST = 80
"""Columns: turns beyond some 27 degrees between two pictures are not looked for."""


def yaw_steps(frames_THWC: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Turn between neighbouring frames in degrees, positive clockwise.

    Args:
        frames_THWC: uint8 RGB [T, 180, 300, 3] of the arena.

    Returns:
        float32 [T - 1].
    """
    spectra = [_spectrum(frame) for frame in frames_THWC]
    degrees = 2 * _HALF_VIEW / (_COLUMNS - 1)
    shifts = [_shift(a, b) for a, b in pairwise(spectra)]
    return np.array(shifts, np.float32) * np.float32(degrees)


def _spectrum(frame_HWC: NDArray[np.uint8]) -> NDArray[np.complex128]:
    """Spectrum of the sky rows at equal angles, each colour less its mean, faded out at the sides."""
    angles = np.radians(np.linspace(-_HALF_VIEW, _HALF_VIEW, _COLUMNS))
    middle = (frame_HWC.shape[1] - 1) / 2
    columns = np.clip(np.round(middle + FOCAL_PIXELS * np.tan(angles)), 0, frame_HWC.shape[1] - 1).astype(int)
    band = frame_HWC[:SKY_ROWS, columns].astype(np.float64)
    band = (band - band.mean((0, 1))) * np.hanning(_COLUMNS)[None, :, None]
    return np.fft.fft2(band, s=(SKY_ROWS, _PAD * _COLUMNS), axes=(0, 1))


def _shift(before: NDArray[np.complex128], after: NDArray[np.complex128]) -> float:
    """Columns by which the first must move to the right of the second, to a fraction of one."""
    cross = before * after.conj()
    cross /= np.abs(cross) + _DAMPING * np.abs(cross).max() + 1e-12
    surface = np.fft.ifft2(cross, axes=(0, 1)).real.sum(2)
    rows = np.arange(-_ROW_SLACK, _ROW_SLACK + 1)
    line = surface[rows].max(0)
    near = np.concatenate([line[-_LARGEST:], line[: _LARGEST + 1]])
    peak = int(near.argmax())
    fraction = 0.0
    if 0 < peak < len(near) - 1:
        low, top, high = near[peak - 1 : peak + 2]
        fraction = float((low - high) / (2 * (low - 2 * top + high) + 1e-12))
    return peak - _LARGEST + fraction
