"""Alignment check of actions and frames, before training and without a model.

The action of step t must explain the motion from frame t to t + 1. A ridge regression explains it from the action of
step t + s for shifts s; the best on held-out stretches should be 0. Motion is measured by phase correlation (Kuglin &
Hines 1975) in bands. T frames, H W picture; S shifts, M frame pairs, C motions, V action values.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from playloom.actions.codec import SLOT_SIZES
from playloom.errors import RecordingError

BANDS = 3  # upper, middle and lower third of the picture
MOTIONS: tuple[str, ...] = tuple(
    f"{way} motion of the {band} third" for band in ("upper", "middle", "lower") for way in ("sideways", "up-down")
)


def motions(frames_THWC: Tensor, chunk: int = 64) -> Tensor:
    """Measure each band's motion between uint8 RGB frames: pixels, float32 [T - 1, 2 BANDS], see `MOTIONS`."""
    parts = []
    for first in range(0, len(frames_THWC) - 1, chunk):
        grey_TBhw, scale = _bands(frames_THWC[first : first + chunk + 1])
        parts.append(_shifts(grey_TBhw[:-1], grey_TBhw[1:]).flatten(1) * scale)
    return torch.cat(parts)


def _bands(frames_THWC: Tensor) -> tuple[Tensor, int]:
    """Grey bands, float [T, BANDS, h, w], faded at their edges, and pixels per cell."""
    grey_T1HW = frames_THWC.float().mean(-1)[:, None]
    scale = 2 if grey_T1HW.shape[-1] >= 128 else 1
    grey_THW = F.avg_pool2d(grey_T1HW, scale)[:, 0]
    rows = grey_THW.shape[1] // BANDS
    bands = grey_THW[:, : rows * BANDS].reshape(len(grey_THW), BANDS, rows, -1)
    bands = bands - bands.mean((-1, -2), keepdim=True)
    window = torch.outer(torch.hann_window(rows, periodic=False), torch.hann_window(bands.shape[-1], periodic=False))
    return bands * window.to(bands.device), scale


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


SHIFTS = (-2, -1, 0, 1, 2)  # shifts tried; s pairs the motion after frame t with the action of step t + s
_FOLDS = 4
_BLOCK = 20
_RIDGE = 1e-2
_LEAST_SHARE = 0.05
_LEAST_SPREAD = 0.01
_SURE = 2.5


@dataclass(frozen=True, kw_only=True)
class AlignmentReport:
    """Result of the alignment check."""

    verdict: Literal["aligned", "shifted", "undecided"]
    """`shifted`: another shift than 0 explains the motion reliably better."""
    best_shift: int
    motion: str
    shares: Mapping[int, float]  # R squared of that motion on held-out stretches, by shift
    pairs: int

    def sentence(self) -> str:
        """Return the result and what to do, as one sentence."""
        table = ", ".join(f"{shift:+d}: {share:.2f}" for shift, share in self.shares.items())
        found = f"share of the {self.motion} explained by the action of step t+s, for s = {table}"
        if self.verdict == "aligned":
            return f"actions fit their frames ({found})"
        if self.verdict == "shifted":
            way = "later" if self.best_shift > 0 else "earlier"
            return (
                f"actions do not fit their frames: the action stored {abs(self.best_shift)} step(s) {way} explains the "
                f"motion best ({found}); shift the actions by {-self.best_shift:+d} step(s) and prepare the data again"
            )
        return f"alignment undecided: {self.pairs} frame pairs are too few, or their motion is too unclear ({found})"


def check_alignment(episodes: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]]) -> AlignmentReport:
    """Find the shift of actions that explains the motion of the pictures best.

    `episodes` are stretches of some hundred steps in all: frames uint8 [T, H, W, 3] and actions uint8 [T, 16].
    """
    motion_MC, actions_SMV = _pairs(episodes)
    if len(motion_MC) < 4 * _BLOCK:
        raise RecordingError(f"the alignment check needs at least {4 * _BLOCK} steps: got {len(motion_MC)}")
    errors_SMC = np.stack([_held_out_errors(actions_MV, motion_MC) for actions_MV in actions_SMV])
    spread_C = motion_MC.var(axis=0)
    moving_C = spread_C > _LEAST_SPREAD
    shares_SC = np.where(moving_C, 1 - errors_SMC.mean(axis=1) / np.where(moving_C, spread_C, 1), 0.0)
    best, column = np.unravel_index(int(shares_SC.argmax()), shares_SC.shape)
    return AlignmentReport(
        verdict=_verdict(errors_SMC[:, :, column], int(best), float(shares_SC[best, column])),
        best_shift=SHIFTS[best],
        motion=MOTIONS[column],
        shares=dict(zip(SHIFTS, shares_SC[:, column].tolist(), strict=True)),
        pairs=len(motion_MC),
    )


def _verdict(errors_SM: NDArray[np.float64], best: int, share: float) -> Literal["aligned", "shifted", "undecided"]:
    """Decide by the gap of squared errors to the nearest rival, in standard errors over blocks of steps."""
    if share < _LEAST_SHARE:
        return "undecided"
    aligned = SHIFTS.index(0)
    rivals = [aligned] if best != aligned else [index for index in range(len(SHIFTS)) if index != aligned]
    for rival in rivals:
        gap = errors_SM[rival] - errors_SM[best]
        blocks = gap[: len(gap) // _BLOCK * _BLOCK].reshape(-1, _BLOCK).mean(axis=1)
        if blocks.mean() < _SURE * blocks.std(ddof=1) / np.sqrt(len(blocks)):
            return "undecided"
    return "aligned" if best == aligned else "shifted"


def _pairs(
    episodes: Iterable[tuple[NDArray[np.uint8], NDArray[np.uint8]]],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Motions [M, C] of frame pairs, and their actions one-hot by shift [S, M, V]."""
    reach = max(SHIFTS)
    moved, acted = [np.zeros((0, len(MOTIONS)))], [np.zeros((len(SHIFTS), 0, sum(SLOT_SIZES)))]
    for frames_THWC, actions_TA in episodes:
        last = len(frames_THWC) - 1 - reach
        if last <= reach:
            continue
        moved.append(motions(torch.from_numpy(np.array(frames_THWC))).double().numpy()[reach:last])
        one_hot = np.concatenate([np.eye(size)[actions_TA[:, slot]] for slot, size in enumerate(SLOT_SIZES)], axis=1)
        acted.append(np.stack([one_hot[reach + shift : last + shift] for shift in SHIFTS]))
    motion = np.concatenate(moved)
    if len(motion):
        motion = motion.clip(*np.percentile(motion, [1, 99], axis=0))  # a failed match is a jump across the picture
    return motion, np.concatenate(acted, axis=1)


def _held_out_errors(x_MF: NDArray[np.float64], y_MC: NDArray[np.float64]) -> NDArray[np.float64]:
    """Squared errors [M, C] of ridge regressions on stretches they were not fitted to."""
    fold_M = np.arange(len(x_MF)) * _FOLDS // len(x_MF)
    errors = np.empty_like(y_MC)
    for fold in range(_FOLDS):
        seen = fold_M != fold
        mean_x, mean_y = x_MF[seen].mean(axis=0), y_MC[seen].mean(axis=0)
        x = x_MF[seen] - mean_x
        ridge = _RIDGE * len(x) * np.eye(x.shape[1])
        weights = np.linalg.solve(x.T @ x + ridge, x.T @ (y_MC[seen] - mean_y))
        errors[~seen] = (y_MC[~seen] - mean_y - (x_MF[~seen] - mean_x) @ weights) ** 2
    return errors
