"""Offset and drift of the input's clock, estimated from the motion that the input explains.

For each lag, regressions on held-out pictures measure what the input of that lag adds to past motions and to all older
input (Granger 1969). Inertia makes older input add more, never later input: the offset is the earliest lag that adds
much. S stretches, L lags, M motions measured, C kinds of motion, F features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.recordings import Recording
from playloom.data.importing.resample import MOUSE, PAUSED, PICTURE_SLACK, STATE, STEP, InputChange, Run

LAGS = np.round(np.arange(-2, 2.01, 0.05), 2)
"""Lags tried in seconds; + if the motion comes after the input."""
STRETCHES, LENGTH = 12, 20.0
"""Parts of a recording that are looked at, and the length of each in seconds."""
_RATE = 30
_SIZE = (72, 120)  # of the pictures: height and width
_OLDER = 4  # windows of older input, 0.1 s each
_PAST = 2  # past motions
_FOLDS, _RIDGE = 4, 0.05
_BLOCK = 2.0  # seconds whose gains count as one measurement
_SURE, _LEAST_SHARE, _LEAST_MOTION = 4.0, 0.02, 0.02
_LEAST_SECONDS, _LEAST_CHANGES, _MOST_CONTROLS = 15.0, 10, 8
_COUNT_TIME = 0.01  # mouse counts were moved in the seconds before their time
_LEAST_DRIFT, _LONG = 0.1, 60.0  # seconds that drift adds up to, and seconds that it is estimated over
_BETTER = 1.1


class ClockCorrection(NamedTuple):
    """Correction of the input's times."""

    offset: float = 0.0
    """Seconds to add at the start."""
    drift: float = 0.0
    """Seconds to add for each second."""

    def correct(self, changes: Iterable[InputChange]) -> Iterator[InputChange]:
        """Give the changes with corrected times."""
        for change in changes:
            yield change._replace(time=change.time + self.offset + self.drift * change.time)


class ClockEstimate(NamedTuple):
    """Result of `estimate_clock`."""

    clock: ClockCorrection
    """The best correction; use it only if it is sure."""
    sure: bool
    sigmas: float
    """Standard errors by which the share is above 0."""
    shares: tuple[float, ...]
    """Share of the unexplained motion that input of each of `LAGS` explains, with the drift corrected."""

    def sentence(self) -> str:
        """Return the result."""
        drift = f" and drifts by {1000 * self.clock.drift:+.2g} ms a second" if self.clock.drift else ""
        if self.sure:
            return f"the input is early by {self.clock.offset:+.2f} s{drift} (share {max(self.shares):.2f})"
        return "the offset of the input cannot be seen in the pictures' motion, so nothing was changed"


UNKNOWN = ClockEstimate(ClockCorrection(), False, 0.0, (0.0,) * len(LAGS))
"""Result where nothing moves, or the input does nothing."""


class _Moved(NamedTuple):
    """Motions over 0.1 s that begin with every picture of some stretches."""

    before_M: NDArray[np.float64]
    after_M: NDArray[np.float64]
    """Times of the first and of the second picture."""
    motion_MC: NDArray[np.float64]
    past_MP: NDArray[np.float64]


def estimate_clock(
    recording: Recording, sources: Sequence[str], runs: Sequence[Run], input_TC: NDArray[np.float32]
) -> ClockEstimate:
    """Estimate the correction of a recording's input, for all its steps and the sources in them, `PAUSED` last."""
    stretches = [moved for run in _active(runs, input_TC) if (moved := _measure(recording, run)) is not None]
    integrals = _integrals(recording.changes(sources))
    if sum(moved.after_M[-1] - moved.before_M[0] for moved in stretches) < _LEAST_SECONDS or not integrals:
        return UNKNOWN
    moved = _Moved(*map(np.concatenate, zip(*stretches, strict=True)))
    low_C, high_C = np.percentile(moved.motion_MC, [1, 99], axis=0)  # a failed match is a jump across the picture
    scale_C = moved.motion_MC.clip(low_C, high_C).std(axis=0)
    moving_C = scale_C > _LEAST_MOTION
    if not moving_C.any():
        return UNKNOWN
    low_C, high_C, scale_C = low_C[moving_C], high_C[moving_C], scale_C[moving_C]
    past = moved.past_MP.reshape(len(moved.past_MP), _PAST, -1)[..., moving_C].clip(low_C, high_C) / scale_C
    moved = moved._replace(
        motion_MC=moved.motion_MC[:, moving_C].clip(low_C, high_C) / scale_C, past_MP=past.reshape(len(past), -1)
    )
    best = plain = _estimate(moved, integrals, 0.0)
    span = float(moved.before_M[-1] - moved.before_M[0])
    if span < _LONG:
        return plain
    for most, step in ((1.0, 0.125), (0.1, 0.025)):  # first all drifts, then those near the best
        drifts = best.clock.drift + np.arange(-most, most + step / 2, step) / span
        best = max((_estimate(moved, integrals, drift) for drift in drifts.tolist()), key=_evidence)
    large = abs(best.clock.drift) * span >= _LEAST_DRIFT
    return best if large and best.sure and max(best.shares) > _BETTER * max(plain.shares) else plain


def _evidence(estimate: ClockEstimate) -> tuple[bool, float]:
    return estimate.sure, max(estimate.shares)


def _active(runs: Sequence[Run], input_TC: NDArray[np.float32]) -> list[Run]:
    """Of every part of the recording, the stretch in which the input changes most."""
    size = round(LENGTH / STEP)
    known_T = input_TC[:, -1] == 0
    changed_T = np.append(False, (np.diff(input_TC, axis=0) != 0).any(axis=1)) & known_T
    found: list[tuple[int, Run]] = []
    first = 0
    for run in runs:
        for begin in range(0, run.steps, size):
            part = Run(run.start + STEP * begin, min(size, run.steps - begin))
            found.append((int(changed_T[first + begin : first + begin + part.steps].sum()), part))
        first += run.steps
    parts = np.array_split(np.arange(len(found)), min(STRETCHES, len(found)))
    best = [max((found[index] for index in part), key=lambda one: one[0]) for part in parts]
    return [run for changes, run in best if changes]


def _measure(recording: Recording, run: Run) -> _Moved | None:
    """The motions of a stretch, from pictures at no more than 30 a second; None: it is too short."""
    import torch

    from playloom.data.motion import motions, small_motions

    options = replace(recording.options, frame_size=_SIZE, resize="crop")
    times: list[float] = []
    frames: list[NDArray[np.uint8]] = []
    for time, load in recording.pictures_from(run.start):
        if time > run.start + run.steps * STEP:
            break
        if not times or time - times[-1] >= 1 / _RATE - PICTURE_SLACK:
            times.append(time)
            frames.append(options.reduce(load(), recording.masks)[0])
    gap = max(1, math.ceil(STEP / float(np.median(np.diff(times))) - 0.1)) if len(times) > 1 else 1
    count = len(times) - gap
    if count < (_PAST + 2) * gap:
        return None
    times_T, frames_THWC = np.array(times), torch.from_numpy(np.stack(frames))
    sums_TC = np.pad(small_motions(frames_THWC).double().numpy().cumsum(axis=0), ((1, 0), (0, 0)))
    large_MC = np.empty((count, len(motions(frames_THWC[:2])[0])))
    for phase in range(gap):
        large_MC[phase::gap] = motions(frames_THWC[phase::gap]).numpy()[: len(range(phase, count, gap))]
    motion_MC = np.hstack([sums_TC[gap:] - sums_TC[:-gap], large_MC])
    past = [motion_MC[(_PAST - back) * gap : count - back * gap] for back in range(1, _PAST + 1)]
    begin = _PAST * gap
    return _Moved(times_T[begin:count], times_T[begin + gap :], motion_MC[begin:], np.hstack(past))


_Curve = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Times, and the integral of a control up to each of them."""


def _integrals(changes: Iterable[InputChange]) -> list[_Curve]:
    """Curves of the controls that change most often."""
    seen: dict[str, list[tuple[float, float]]] = {}
    for change in changes:
        if change.control != PAUSED and not change.control.startswith(STATE):
            seen.setdefault(change.control, []).append((change.time, change.value))
    many = sorted((name for name in seen if len(seen[name]) >= _LEAST_CHANGES), key=lambda name: -len(seen[name]))
    chosen = ((name, np.array(seen[name])) for name in many[:_MOST_CONTROLS])
    return [_integral(pairs_K2[:, 0], pairs_K2[:, 1], name in MOUSE) for name, pairs_K2 in chosen]


def _integral(
    time_K: NDArray[np.float64], value_K: NDArray[np.float64], counts: bool
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    time_K = np.maximum.accumulate(time_K)
    if not counts:
        end = time_K[-1] + 10.0
        return np.append(time_K, end), np.append(0, np.cumsum(value_K * np.diff(time_K, append=end)))
    begin_K = np.maximum(time_K - _COUNT_TIME, np.append(time_K[0] - 1, time_K[:-1]))
    total_K = np.cumsum(value_K)
    return np.stack([begin_K, time_K], 1).ravel(), np.stack([total_K - value_K, total_K], 1).ravel()


def _estimate(moved: _Moved, integrals: list[_Curve], drift: float) -> ClockEstimate:
    """The estimate of the offset for a drift."""
    _, block_M = np.unique((moved.before_M / _BLOCK).astype(int), return_inverse=True)
    blocks, step, between = np.bincount(block_M), LAGS[1] - LAGS[0], round(STEP / (LAGS[1] - LAGS[0]))
    before, gains = np.empty((len(LAGS), moved.motion_MC.shape[1])), [np.empty(0)] * len(LAGS)
    for phase in range(between):
        lags = LAGS[phase::between]
        older = lags[-1] + STEP * np.arange(1, _OLDER + 1)
        windows = [_windows(moved, lag, drift, integrals) for lag in [*older[::-1], *lags[::-1]]]
        errors = _held_out_errors(moved, windows, block_M)
        places = range(len(LAGS))[phase::between][::-1]
        for index, without, best in zip(places, errors[_OLDER:-1], errors[_OLDER + 1 :], strict=True):
            before[index] = without.mean(axis=0)
            gains[index] = np.array([np.bincount(block_M, gain_M) / blocks for gain_M in (without - best).T])
    gain_LCB = np.array(gains)
    share_LC = gain_LCB.mean(axis=2) / (before + 1e-9)
    sigma_LC = gain_LCB.mean(axis=2) / (gain_LCB.std(axis=2, ddof=1) / np.sqrt(len(blocks)) + 1e-12)
    sure_LC = (sigma_LC > _SURE) & (share_LC > _LEAST_SHARE)
    peak, column = np.unravel_index(int((share_LC * np.where(sure_LC, 1, 1e-3)).argmax()), share_LC.shape)
    share_L = share_LC[:, column]
    early_L = (share_L >= 0.5 * share_L[peak]) & (sure_LC[:, column] | (np.arange(len(LAGS)) == peak))
    place = int(np.flatnonzero(early_L)[0])
    while place + 1 < len(LAGS) and share_L[place + 1] > share_L[place]:
        place += 1
    low, top, high = share_L[max(0, place - 1)], share_L[place], share_L[min(place + 1, len(LAGS) - 1)]
    part = 0.5 * (low - high) / min(low - 2 * top + high, -1e-9)
    return ClockEstimate(
        clock=ClockCorrection(round(float(LAGS[place] + step * np.clip(part, -0.5, 0.5)), 3), round(drift, 6)),
        sure=bool(sure_LC[peak, column]),
        sigmas=float(sigma_LC[peak, column]),
        shares=tuple(share_L.tolist()),
    )


def _windows(moved: _Moved, lag: float, drift: float, integrals: list[_Curve]) -> NDArray[np.float64]:
    """Mean of every control over the windows of the motions, [M, A], for input that is earlier by a lag."""
    begin, end = (times_M * (1 - drift) - lag for times_M in (moved.before_M, moved.after_M))
    columns = [np.interp(end, at, curve) - np.interp(begin, at, curve) for at, curve in integrals]
    return np.stack(columns, axis=1) / (end - begin)[:, None]


def _held_out_errors(
    moved: _Moved, windows: list[NDArray[np.float64]], block_M: NDArray[np.int_]
) -> list[NDArray[np.float64]]:
    """Squared errors [M, C] on held-out blocks of ridge regressions on past motions, and on one more window each."""
    x = np.hstack([moved.past_MP, *windows])
    x, y = x - x.mean(axis=0), moved.motion_MC - moved.motion_MC.mean(axis=0)
    x /= x.std(axis=0) + 1e-6
    fold_M = block_M * _FOLDS // (block_M[-1] + 1)
    folds = [fold_M == fold for fold in range(_FOLDS)]
    squares, products = ([x[fold].T @ right[fold] for fold in folds] for right in (x, y))
    sizes = range(moved.past_MP.shape[1], x.shape[1] + 1, windows[0].shape[1])
    results = [np.empty_like(y) for _ in sizes]
    for number, fold in enumerate(folds):
        xx = np.sum(squares, axis=0) - squares[number] + _RIDGE * len(x) * np.eye(x.shape[1])
        factor = np.linalg.cholesky(xx)  # its first rows and columns are the factor of fewer windows
        weights = np.linalg.solve(factor, np.sum(products, axis=0) - products[number])
        basis, left, before = np.linalg.solve(factor, x[fold].T).T, y[fold], 0
        for errors, size in zip(results, sizes, strict=True):
            left = left - basis[:, before:size] @ weights[before:size]
            errors[fold], before = left**2, size
    return results
