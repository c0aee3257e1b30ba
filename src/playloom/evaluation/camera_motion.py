"""Camera motion from pictures: yaw by phase correlation of the sky, walking by the growth of the scene.

Pictures are uint8 [B, H, W, 3]. Angles are degrees, positive clockwise, so that the scene moves left. `control`
measures the error of both estimators on recorded play.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from playloom.models.tokenizer.metrics import luma

# Geometry of the arena's camera, in shares of the picture so that it holds at any size.
FOCAL = 0.4
"""Focal length over picture width: 106 degrees at 16:9, cropped to 300 columns at the same scale."""
SKY = 1 / 3
"""Share of rows, from the top, used for yaw: distant scenery only."""
LARGEST_TURN = 18.0
"""Largest yaw considered, degrees per step: twice the turn of a full stick."""
LARGEST_TILT = 0.1
"""Largest vertical shift considered, over the sky's height."""
HORIZON = 0.42
"""Row of the vanishing point when walking straight, over picture height."""
BODY = (0.36, 0.64)
"""Columns covered by the player's body, over picture width."""
ZOOMS = 1.025 ** np.arange(-9, 20)
"""Zoom factors tried by `expansion_between`: 0.8 to 1.6 in steps of 2.5 %, with 1 among them."""
_SMOOTH = 2.0
"""Standard deviation of the correlation peak's smoothing, in columns: generated frames lack high frequencies."""


def _unroll(frames_BHWC: NDArray[np.uint8]) -> tuple[NDArray[np.float32], float]:
    """Project the sky onto a cylinder, where turning is a plain shift.

    A plane picture has x = f tan(angle), so a turn moves its edges faster than its middle. Columns are resampled to
    equal angles (linear interpolation). Returns float32 [B, sky rows, W, 3], and degrees a column.
    """
    height, width = frames_BHWC.shape[1:3]
    focal, middle = FOCAL * width, (width - 1) / 2
    edge = np.arctan(middle / focal)
    angles = np.linspace(-edge, edge, width)
    source = np.clip(focal * np.tan(angles) + middle, 0, width - 1)
    left = np.minimum(source.astype(np.int64), width - 2)
    share = (source - left).astype(np.float32)[:, None]
    sky = frames_BHWC[:, : max(2, round(SKY * height))].astype(np.float32)
    return sky[:, :, left] * (1 - share) + sky[:, :, left + 1] * share, float(np.degrees(angles[1] - angles[0]))


def yaw_between(before_BHWC: NDArray[np.uint8], after_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the turn between two pictures, degrees [B], positive clockwise.

    Phase correlation (Kuglin and Hines 1975) of the unrolled sky under a Hann window, summed over the three channels,
    with the peak refined by a parabola. Where the sky shows nothing (a wall fills it) the answer is arbitrary.
    """
    before, degrees = _unroll(before_BHWC)
    after, _ = _unroll(after_BHWC)
    reach = round(LARGEST_TURN / degrees)
    tilt = max(1, round(LARGEST_TILT * before.shape[1]))
    return -degrees * horizontal_shift(before, after, reach=reach, tilt=tilt)


def horizontal_shift(
    before_BHWC: NDArray[np.float32], after_BHWC: NDArray[np.float32], *, reach: int, tilt: int
) -> NDArray[np.float64]:
    """Estimate the shift of the second picture to the right, in columns [B], within `reach` columns and `tilt` rows."""
    surface = phase_correlation(before_BHWC, after_BHWC)
    batch, height, width = surface.shape
    reach, tilt = min(reach, (width - 1) // 2), min(tilt, (height - 1) // 2)
    middle, centre = height // 2, width // 2
    near = surface[:, middle - tilt : middle + tilt + 1, centre - reach : centre + reach + 1]
    rows, columns = np.unravel_index(near.reshape(batch, -1).argmax(1), near.shape[1:])
    peaks = [_refined(near[n, rows[n]], int(columns[n])) for n in range(batch)]
    return np.array(peaks, np.float64) - reach


def phase_correlation(before_BHWC: NDArray[np.float32], after_BHWC: NDArray[np.float32]) -> NDArray[np.float64]:
    """Correlation surface [B, H, W] with zero shift in its middle; see `yaw_between`."""
    height, width = before_BHWC.shape[1:3]
    before, after = (np.fft.rfft2(_windowed(x), axes=(1, 2)) for x in (before_BHWC, after_BHWC))
    cross = (after * before.conj()).sum(-1)
    size = np.abs(cross)
    # Frequencies that hold next to nothing are noise; dividing by their size would make them as loud as the rest.
    cross /= size + 1e-6 * size.max((1, 2), keepdims=True) + 1e-12
    frequency2 = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    cross *= np.exp(-2 * (np.pi * _SMOOTH) ** 2 * frequency2)
    return np.fft.fftshift(np.fft.irfft2(cross, s=(height, width), axes=(1, 2)), axes=(1, 2))


def expansion_between(before_BHWC: NDArray[np.uint8], after_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the zoom [B], in [0.8, 1.6], that maps the first picture onto the second.

    The first picture is enlarged about the vanishing point by each factor of a fixed list; the factor of the largest
    normalised correlation of brightness wins, over the places below the horizon, outside the player's body, that all
    factors have. Walking forward grows near things more than far ones, so this is a mean size, not a distance.
    """
    before, after = luma(before_BHWC), luma(after_BHWC)
    mask = _ground(before.shape[1:])
    scores = np.stack([_likeness(_zoomed(before, s), after, mask) for s in ZOOMS], axis=1)
    return ZOOMS[scores.argmax(1)]


def _windowed(picture_BHWC: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = picture_BHWC.shape[1:3]
    window = np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1]
    centred = picture_BHWC - picture_BHWC.mean((1, 2), keepdims=True)
    return (centred * window[None, :, :, None].astype(np.float32)).astype(np.float32)


def _refined(line: NDArray[np.float64], peak: int) -> float:
    if not 0 < peak < len(line) - 1:
        return float(peak)
    left, top, right = line[peak - 1 : peak + 2]
    bend = left - 2 * top + right
    return peak + (0.5 * (left - right) / bend if bend < 0 else 0.0)


def _ground(shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Pixels [H, W] used for expansion, without those that leave the picture at the smallest zoom."""
    height, width = shape
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    margin = 0.5 * ZOOMS[0]
    down = (rows > HORIZON * 0.8) & (rows < HORIZON + (1 - HORIZON) * ZOOMS[0])
    across = (np.abs(columns - 0.5) < margin) & ((columns < BODY[0]) | (columns > BODY[1]))
    return down[:, None] & across[None, :]


def _zoomed(picture_BHW: NDArray[np.float32], zoom: float) -> NDArray[np.float32]:
    height, width = picture_BHW.shape[1:]
    rows = _source(height, HORIZON * height, zoom)
    columns = _source(width, width / 2, zoom)
    return _blurred(picture_BHW)[:, rows[:, None], columns[None, :]]


def _source(length: int, centre: float, zoom: float) -> NDArray[np.int64]:
    place = (np.arange(length) + 0.5 - centre) / zoom + centre
    return np.clip(np.floor(place), 0, length - 1).astype(np.int64)


def _blurred(picture_BHW: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(picture_BHW, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9


def _likeness(
    a_BHW: NDArray[np.float32], b_BHW: NDArray[np.float32], mask_HW: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Normalised correlation [B] over the masked pixels; 0 where a picture is flat there."""
    a, b = (x[:, mask_HW].astype(np.float64) for x in (a_BHW, _blurred(b_BHW)))
    a, b = a - a.mean(1, keepdims=True), b - b.mean(1, keepdims=True)
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.asarray(np.divide((a * b).sum(1), size, out=np.zeros(len(a)), where=size > 0))
