"""Offset and drift of the input's clock, estimated from the motion that the input causes.

For each lag, what past motions do not predict of a motion is correlated with what past input does not predict of the
input (Box & Jenkins 1976, chapter 11: cross-correlation after prewhitening). An effect lasts, but it never comes before
its cause: the offset is the earliest lag that explains much. M motions measured, C kinds of motion, A controls, T times
of the input, L lags, K pairs of a control and a kind of motion.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.recordings import Recording
from playloom.data.importing.resample import MOUSE, PAUSED, PICTURE_SLACK, STATE, STEP, InputChange, Run
from playloom.data.motion import motions, small_motions

LAGS = np.round(np.arange(-2, 2.001, 1 / 60), 4)
"""Lags tried in seconds; + if the motion comes after the input."""
STRETCHES, LENGTH = 12, 20.0
"""Parts of a recording that are looked at, and the length of each in seconds."""
_RATE = 30
_SIZE = (72, 120)  # of the pictures: height and width
_PAST = 2  # past motions
_GRID = 1 / 60  # seconds between times of the input
_HISTORY = np.array([0, 1, 2, 3, 4, 6, 9, 13, 19, 28, 42, 63, 100]) * _GRID  # edges of windows of past input
_RIDGE = 0.01
_LARGEST = 3.0  # standard deviations
_SURE, _LEAST_MOTION = 5.5, 0.02
_MEDIAN = 0.6745  # of the size of a normal variable
_LEAST_SECONDS, _LEAST_CHANGES, _MOST_CONTROLS = 15.0, 10, 8
_COUNT_TIME = 0.01  # mouse counts were moved in the seconds before their time
_LEAST_DRIFT, _LONG = 0.1, 60.0  # seconds that drift adds up to, and seconds that it is estimated over
_BETTER = 1.1


class ClockCorrection(NamedTuple):
    """Correction of the input's times."""

    offset: float = 0.0  # seconds to add at the start
    drift: float = 0.0  # seconds to add for each second

    def correct(self, changes: Iterable[InputChange]) -> Iterator[InputChange]:
        """Give the changes with corrected times."""
        for change in changes:
            yield change._replace(time=(1 + self.drift) * change.time + self.offset)


class ClockEstimate(NamedTuple):
    """Result of `estimate_clock`."""

    clock: ClockCorrection  # the best one; use it only if it is sure
    sure: bool  # true if the correlation is large, in standard deviations of those of all lags
    shares: tuple[float, ...]  # of the unpredicted motion that the input of each of `LAGS` explains, after the drift

    def sentence(self) -> str:
        """Return the result."""
        drift = f" and drifts by {1000 * self.clock.drift:+.2g} ms a second" if self.clock.drift else ""
        if self.sure:
            return f"the input is early by {self.clock.offset:+.2f} s{drift} (share {max(self.shares):.2f})"
        return "the offset of the input cannot be seen in the pictures' motion, so nothing was changed"


_UNKNOWN = ClockEstimate(ClockCorrection(), False, (0.0,) * len(LAGS))  # nothing moves, or the input does nothing


class _Moved(NamedTuple):
    before_M: NDArray[np.float64]  # time of the first picture
    after_M: NDArray[np.float64]  # time of the second
    motion_MC: NDArray[np.float64]
    past_MP: NDArray[np.float64]


_Curves = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Times, and the integral of controls up to each of them."""


def estimate_clock(
    recording: Recording, sources: Sequence[str], runs: Sequence[Run], input_TC: NDArray[np.float32]
) -> ClockEstimate:
    """Estimate the correction of a recording's input, for all its steps and the sources in them, `PAUSED` last."""
    stretches = [moved for run in _active(runs, input_TC) if (moved := _measure(recording, run)) is not None]
    integrals = _integrals(recording.changes(sources))
    if sum(moved.after_M[-1] - moved.before_M[0] for moved in stretches) < _LEAST_SECONDS or not integrals:
        return _UNKNOWN
    moved = _Moved(*map(np.concatenate, zip(*stretches, strict=True)))
    low_C, high_C = np.percentile(moved.motion_MC, [1, 99], axis=0)  # a failed match is a jump across the picture
    moving_C = moved.motion_MC.clip(low_C, high_C).std(axis=0) > _LEAST_MOTION
    if not moving_C.any():
        return _UNKNOWN
    low_C, high_C = low_C[moving_C], high_C[moving_C]
    past = moved.past_MP.reshape(len(moved.past_MP), _PAST, -1)[..., moving_C].clip(low_C, high_C)
    motion_MC = _unpredicted(moved.motion_MC[:, moving_C].clip(low_C, high_C), past.reshape(len(past), -1))
    moved, new = moved._replace(motion_MC=motion_MC), _innovations(moved, integrals)
    best = plain = _estimate(moved, new, 0.0)
    span = float(moved.before_M[-1] - moved.before_M[0])
    if span < _LONG:
        return plain
    for most, step in ((1.0, 0.125), (0.1, 0.025)):  # first all drifts, then those near the best
        drifts = best.clock.drift + np.arange(-most, most + step / 2, step) / span
        found = [_estimate(moved, new, drift) for drift in drifts.tolist()]
        best = max(found, key=lambda one: (one.sure, max(one.shares)))
    large = abs(best.clock.drift) * span >= _LEAST_DRIFT
    return best if large and best.sure and max(best.shares) > _BETTER * max(plain.shares) else plain


def _active(runs: Sequence[Run], input_TC: NDArray[np.float32]) -> list[Run]:
    """Of every part of the recording, the stretch in which the input changes most."""
    size = round(LENGTH / STEP)
    known_T = input_TC[:, -1] == 0
    changed_T = np.append(False, (np.diff(input_TC, axis=0) != 0).any(axis=1)) & known_T
    found, first = list[tuple[int, Run]](), 0
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
    options = replace(recording.options, frame_size=_SIZE, resize="crop")
    first, stop = np.searchsorted(recording.times_F, [run.start - PICTURE_SLACK, run.start + run.steps * STEP])
    wanted, frames = list[float](), dict[float, NDArray[np.uint8]]()
    for time in recording.times_F[first:stop].tolist():
        if not wanted or time - wanted[-1] >= 1 / _RATE - PICTURE_SLACK:
            wanted.append(time)
    for time, load in recording.pictures(np.array(wanted)):
        if time > wanted[-1] + PICTURE_SLACK:
            break
        if np.abs(np.array(wanted) - time).min() <= PICTURE_SLACK:
            frames[time] = options.reduce(load, recording.masks)
    count = len(frames) - 1
    if count < _PAST + 2:
        return None
    times_T, frames_THWC = np.array([*frames]), np.stack([*frames.values()])
    motion_MC = np.hstack([measure(frames_THWC).astype(np.float64) for measure in (small_motions, motions)])
    past = [motion_MC[_PAST - back : count - back] for back in range(1, _PAST + 1)]
    return _Moved(times_T[_PAST:count], times_T[_PAST + 1 :], motion_MC[_PAST:], np.hstack(past))


def _unpredicted(y: NDArray[np.float64], x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Residual of a ridge regression of y on x, in standard deviations, clipped against outliers."""
    x, y = x - x.mean(axis=0), y - y.mean(axis=0)
    x /= x.std(axis=0) + 1e-9
    left = y - x @ np.linalg.solve(x.T @ x + _RIDGE * len(x) * np.eye(x.shape[1]), x.T @ y)
    left /= left.std(axis=0) + 1e-9
    return left.clip(-_LARGEST, _LARGEST)


def _integrals(changes: Iterable[InputChange]) -> list[_Curves]:
    seen: dict[str, list[tuple[float, float]]] = {}
    for change in changes:
        if change.control != PAUSED and not change.control.startswith(STATE):
            seen.setdefault(change.control, []).append((change.time, change.value))
    many = sorted((name for name in seen if len(seen[name]) >= _LEAST_CHANGES), key=lambda name: -len(seen[name]))
    curves: list[_Curves] = []
    for name in many[:_MOST_CONTROLS]:
        time_K, value_K = np.array(seen[name]).T
        time_K = np.maximum.accumulate(time_K)
        if name in MOUSE:
            begin_K = np.maximum(time_K - _COUNT_TIME, np.append(time_K[0] - 1, time_K[:-1]))
            total_K = np.cumsum(value_K)
            steps = np.stack([total_K - value_K, total_K], 1)
            curves.append((np.stack([begin_K, time_K], 1).ravel(), steps.ravel()))
        else:
            end = time_K[-1] + 10.0
            total_K = np.append(0, np.cumsum(value_K * np.diff(time_K, append=end)))
            curves.append((np.append(time_K, end), total_K))
    return curves


def _windows(integrals: list[_Curves], begin_T: NDArray[np.float64], end_T: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean of every control between times, [T, A]."""
    columns = [np.interp(end_T, at, curve) - np.interp(begin_T, at, curve) for at, curve in integrals]
    return np.stack(columns, axis=1) / (end_T - begin_T)[:, None]


def _innovations(moved: _Moved, integrals: list[_Curves]) -> list[_Curves]:
    """Integrals of what the past of the input does not predict of it, near all motions."""
    reach = round((LAGS[-1] + 1.5) / _GRID)
    near_N = np.unique(np.round(moved.before_M / _GRID).astype(int))
    time_T = _GRID * np.unique(near_N[:, None] + np.arange(-reach, reach + 1))
    edges = zip(_HISTORY[1:], _HISTORY[:-1], strict=True)
    past = [_windows(integrals, time_T - first, time_T - last) for first, last in edges]
    new_TA = _unpredicted(_windows(integrals, time_T, time_T + _GRID), np.hstack(past))
    return [(time_T + _GRID, _GRID * np.cumsum(new_T)) for new_T in new_TA.T]


def _estimate(moved: _Moved, new: list[_Curves], drift: float) -> ClockEstimate:
    begin_M, end_M = moved.before_M * (1 - drift), moved.after_M * (1 - drift)
    products = []
    for lag in LAGS:
        input_MA = _windows(new, begin_M - lag, end_M - lag)
        input_MA = (input_MA - input_MA.mean(axis=0)) / (input_MA.std(axis=0) + 1e-9)
        products.append((input_MA.T @ moved.motion_MC / len(begin_M)).ravel())
    size_LK = np.abs(np.stack(products))  # of the correlation of every control with every motion
    noise_K = np.maximum(np.median(size_LK, axis=0) / _MEDIAN, len(begin_M) ** -0.5)  # at most lags there is no effect
    peak, column = np.unravel_index(int((size_LK / noise_K).argmax()), size_LK.shape)
    share_L, sigma_L = size_LK[:, column] ** 2, size_LK[:, column] / noise_K[column]
    place = int(np.flatnonzero((share_L >= 0.5 * share_L[peak]) & (sigma_L >= min(_SURE, sigma_L[peak])))[0])
    while place + 1 < len(LAGS) and share_L[place + 1] > share_L[place]:
        place += 1
    low, top, high = share_L[max(0, place - 1)], share_L[place], share_L[min(place + 1, len(LAGS) - 1)]
    part = np.clip(0.5 * (low - high) / min(low - 2 * top + high, -1e-9), -0.5, 0.5)
    clock = ClockCorrection(round(float(LAGS[place] + (LAGS[1] - LAGS[0]) * part), 3), round(drift, 6))
    return ClockEstimate(clock, bool(sigma_L[peak] > _SURE), tuple(share_L.tolist()))
