"""Camera motion from pictures: turning and looking by phase correlation, walking and jumping by the ground.

Pictures are uint8 [B, H, W, 3]. Yaw is in degrees, positive clockwise, so that the scene moves left; pitch in degrees,
positive up, so that the scene moves down. `control` compares the estimates with the real game.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from playloom.models.tokenizer.metrics import luma

# Geometry of the arena's camera, in shares of the picture so that it holds at any size.
FOCAL = 0.4  # focal length over picture width: 106 degrees at 16:9, cropped to 300 columns at the same scale
_FOCAL_ROWS = 0.8  # focal length over picture height: the engine's pixels are 1.2 times as high as wide
_SKY = 1 / 3  # rows, from the top, used for yaw: distant scenery only
_LOOK_ROWS = 2 / 3  # rows, from the top, used for pitch: above the near ground
_LARGEST_LOOK = 9.0  # degrees of pitch per step: twice that of a full stick
LARGEST_TURN = 18.0  # largest yaw considered, degrees per step: twice the turn of a full stick
_LARGEST_TILT = 0.1  # vertical shift over the sky's height
HORIZON = 0.42  # row of the vanishing point when walking straight, over picture height
BODY = (0.36, 0.64)  # columns covered by the player's body, over picture width
ZOOMS = 1.025 ** np.arange(-9, 20)
"""Zoom factors tried by `expansion_between`: 0.8 to 1.6 in steps of 2.5 %, with 1 among them."""
_STRETCHES = 1.03 ** np.arange(-9, 17)
_SLIDES = np.arange(-12, 13) / 20  # columns per row below the horizon
_NEAR = (0.55, 0.98)  # rows of the near ground, over picture height
_SMOOTH = 2.0  # columns: standard deviation that smooths the peak, as generated frames lack high frequencies


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
    sky = frames_BHWC[:, : max(2, round(_SKY * height))].astype(np.float32)
    return sky[:, :, left] * (1 - share) + sky[:, :, left + 1] * share, float(np.degrees(angles[1] - angles[0]))


def yaw_between(before_BHWC: NDArray[np.uint8], after_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the turn between two pictures, degrees [B], positive clockwise.

    Phase correlation (Kuglin and Hines 1975) of the unrolled sky under a Hann window, summed over the three channels,
    with the peak refined by a parabola. Where the sky shows nothing (a wall fills it) the answer is arbitrary.
    """
    before, degrees = _unroll(before_BHWC)
    after, _ = _unroll(after_BHWC)
    reach = (max(1, round(_LARGEST_TILT * before.shape[1])), round(LARGEST_TURN / degrees))
    return np.asarray(-degrees * picture_shift(before, after, reach)[:, 1], np.float64)


def pitch_between(before_BHWC: NDArray[np.uint8], after_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the look up between two pictures, degrees [B], positive up.

    Phase correlation as in `yaw_between`, of all but the near ground; looking shifts every row of the arena alike.
    """
    height, width = before_BHWC.shape[1:3]
    focal, rows = _FOCAL_ROWS * height, slice(0, round(_LOOK_ROWS * height))
    before, after = (x[:, rows].astype(np.float32) for x in (before_BHWC, after_BHWC))
    reach = (round(focal * np.tan(np.radians(_LARGEST_LOOK))), max(1, round(0.02 * width)))
    return np.asarray(np.degrees(np.arctan(picture_shift(before, after, reach)[:, 0] / focal)), np.float64)


def picture_shift(
    before_BHWC: NDArray[np.float32], after_BHWC: NDArray[np.float32], reach: tuple[int, int]
) -> NDArray[np.float64]:
    """Estimate the shift of the second picture down and to the right, in pixels [B, 2], within `reach` of each."""
    batch, height, width = before_BHWC.shape[:3]
    window_HW1 = (np.hanning(height + 2)[1:-1, None] * np.hanning(width + 2)[None, 1:-1])[..., None].astype(np.float32)
    centred = (x - x.mean((1, 2), keepdims=True) for x in (before_BHWC, after_BHWC))
    before, after = (np.fft.rfft2((x * window_HW1).astype(np.float32), axes=(1, 2)) for x in centred)
    cross = (after * before.conj()).sum(-1)
    size = np.abs(cross)
    # Frequencies that hold next to nothing are noise; dividing by their size would make them as loud as the rest.
    cross /= size + 1e-6 * size.max((1, 2), keepdims=True) + 1e-12
    frequency2 = np.fft.fftfreq(height)[:, None] ** 2 + np.fft.rfftfreq(width)[None] ** 2
    cross *= np.exp(-2 * (np.pi * _SMOOTH) ** 2 * frequency2)
    surface = np.fft.fftshift(np.fft.irfft2(cross, s=(height, width), axes=(1, 2)), axes=(1, 2))
    tilt, reach_columns = (min(most, (length - 1) // 2) for most, length in zip(reach, (height, width), strict=True))
    middle, centre = height // 2, width // 2
    near = surface[:, middle - tilt : middle + tilt + 1, centre - reach_columns : centre + reach_columns + 1]
    rows, columns = np.unravel_index(near.reshape(batch, -1).argmax(1), near.shape[1:])
    peaks = [
        (_refined(one[:, column], int(row)) - tilt, _refined(one[row], int(column)) - reach_columns)
        for one, row, column in zip(near, rows, columns, strict=True)
    ]
    return np.array(peaks, np.float64)


def expansion_between(before_BHWC: NDArray[np.uint8], after_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the zoom [B], in [0.8, 1.6], that maps the first picture onto the second.

    The first picture is enlarged about the vanishing point by each factor of a fixed list; the factor of the largest
    normalised correlation of brightness wins, over the places below the horizon, outside the player's body, that all
    factors have. Walking forward grows near things more than far ones, so this is a mean size, not a distance.
    """
    height, width = before_BHWC.shape[1:3]
    grids = [(_source(height, HORIZON * height, zoom), _source(width, width / 2, zoom)[None]) for zoom in ZOOMS]
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    down = (rows > HORIZON * 0.8) & (rows < HORIZON + (1 - HORIZON) * ZOOMS[0])
    across = (np.abs(columns - 0.5) < 0.5 * ZOOMS[0]) & ((columns < BODY[0]) | (columns > BODY[1]))
    best_B = _best_warp(before_BHWC, after_BHWC, grids, down[:, None] & across[None, :])
    return np.asarray(ZOOMS[best_B], np.float64)


def rise_between(before_BHWC: NDArray[np.uint8], after_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the camera's height above the near ground, over that in the first picture [B], in [0.77, 1.6].

    A higher camera stretches the ground away from the horizon. Found as in `expansion_between`.
    """
    height, width = before_BHWC.shape[1:3]
    grids = [(_source(height, HORIZON * height, stretch), np.arange(width)[None]) for stretch in _STRETCHES]
    mask_HW = _near_ground(height, width, _STRETCHES[0])
    return np.asarray(_STRETCHES[_best_warp(before_BHWC, after_BHWC, grids, mask_HW)], np.float64)


def slide_between(before_BHWC: NDArray[np.uint8], after_BHWC: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Estimate the step to the right [B], in [-0.6, 0.6]: columns that the ground moves left per row below the horizon.

    The nearer the ground, the lower its row and the larger its shift; a turn shifts all rows. Found as in
    `expansion_between`. The figure is the step over the camera's height.
    """
    height, width = before_BHWC.shape[1:3]
    rows, columns = np.arange(height), np.arange(width)[None]
    below = np.maximum(0, rows - HORIZON * height)[:, None]
    grids = [(rows, np.clip(np.rint(columns + slide * below), 0, width - 1).astype(np.int64)) for slide in _SLIDES]
    return _SLIDES[_best_warp(before_BHWC, after_BHWC, grids, _near_ground(height, width, 1.0))]


def _best_warp(
    before_BHWC: NDArray[np.uint8],
    after_BHWC: NDArray[np.uint8],
    grids: Sequence[tuple[NDArray[np.int64], NDArray[np.int64]]],
    mask_HW: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Index [B] of the grid (source rows [H], source columns [1 or H, W]) that makes the first picture the second."""
    before, after = (_blurred(luma(x)) for x in (before_BHWC, after_BHWC))
    wanted = after[:, mask_HW]
    sources = [np.broadcast_to(rows[:, None] * mask_HW.shape[1] + columns, mask_HW.shape) for rows, columns in grids]
    flat = before.reshape(len(before), -1)
    return np.stack([_likeness(flat[:, source[mask_HW]], wanted) for source in sources], axis=1).argmax(1)


def _refined(line: NDArray[np.float64], peak: int) -> float:
    if not 0 < peak < len(line) - 1:
        return float(peak)
    left, top, right = line[peak - 1 : peak + 2]
    bend = left - 2 * top + right
    return peak + (0.5 * (left - right) / bend if bend < 0 else 0.0)


def _near_ground(height: int, width: int, shrink: float) -> NDArray[np.bool_]:
    """Pixels [H, W] of the near ground beside the player's body, without rows that leave the picture at `shrink`."""
    rows, columns = (np.arange(height) + 0.5) / height, (np.arange(width) + 0.5) / width
    down = (rows > _NEAR[0]) & (rows < min(_NEAR[1], HORIZON + (1 - HORIZON) * shrink))
    return down[:, None] & ((columns < BODY[0]) | (columns > BODY[1]))[None, :]


def _source(length: int, centre: float, zoom: float) -> NDArray[np.int64]:
    place = (np.arange(length) + 0.5 - centre) / zoom + centre
    return np.clip(np.floor(place), 0, length - 1).astype(np.int64)


def _blurred(picture_BHW: NDArray[np.float32]) -> NDArray[np.float32]:
    padded = np.pad(picture_BHW, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]) / 9


def _likeness(a_BP: NDArray[np.float32], b_BP: NDArray[np.float32]) -> NDArray[np.float64]:
    a, b = (x - x.mean(1, keepdims=True) for x in (a_BP.astype(np.float64), b_BP.astype(np.float64)))
    size = np.sqrt((a**2).sum(1) * (b**2).sum(1))
    return np.asarray(np.divide((a * b).sum(1), size, out=np.zeros(len(a)), where=size > 0))
