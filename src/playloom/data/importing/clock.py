"""Offset and drift of the input's clock, estimated from the motion that the input explains.

For each lag, regressions on held-out pictures measure what the input of that lag adds to past motions and to older
input (Granger 1969). Inertia makes older input add more, never later input: the offset is the earliest lag that adds
much. S stretches, L lags, M motions measured, C kinds of motion, F features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.controller import CONTROLS
from playloom.data.importing.mapping import ControlMapping
from playloom.data.importing.recordings import Recording
from playloom.data.importing.resample import MOUSE, PICTURE_SLACK, STEP, InputChange, Run

LAGS = np.round(np.arange(-2, 2.01, 0.05), 2)
"""Lags tried in seconds; + if the motion comes after the input."""
STRETCHES, LENGTH = 6, 20.0
"""Parts of a recording that are looked at, and the length of each in seconds."""
_RATE = 30
_SIZE = (108, 126)  # of the pictures: height and width
_OLDER = 4  # windows of older input, 0.1 s each
_PAST = 2  # past motions
_FOLDS, _RIDGE = 4, 0.02
_BLOCK = 2.0  # seconds whose gains count as one measurement
_SURE, _LEAST_SHARE = 4.0, 0.03
_LEAST_SECONDS = 15.0
_COUNT_TIME = 0.01  # mouse counts were moved in the seconds before their time
_LEAST_DRIFT, _LONG = 0.05, 30.0  # seconds over the recording, and between its first and last stretch
_BETTER = 1.2


class Clock(NamedTuple):
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

    clock: Clock
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


UNKNOWN = ClockEstimate(Clock(), False, 0.0, (0.0,) * len(LAGS))
"""Result where nothing moves, or the input does nothing."""


class _Stretch(NamedTuple):
    """Motions over 0.1 s that begin with every picture of a stretch."""

    before_M: NDArray[np.float64]
    after_M: NDArray[np.float64]
    """Times of the first and of the second picture."""
    motion_MC: NDArray[np.float64]
    past_MP: NDArray[np.float64]


def estimate_clock(
    recording: Recording, mapping: ControlMapping, runs: Sequence[Run], input_TC: NDArray[np.float32]
) -> ClockEstimate:
    """Estimate the correction of a recording's input, for all its steps and the mapping's sources in them."""
    stretches = [_measure(recording, run) for run in _active(runs, input_TC)]
    stretches = [stretch for stretch in stretches if len(stretch.motion_MC)]
    steps = sum(stretch.after_M[-1] - stretch.before_M[0] for stretch in stretches)
    integrals = _integrals(recording.changes(mapping.sources), mapping)
    if steps < _LEAST_SECONDS or not integrals:
        return UNKNOWN
    motion_MC = np.concatenate([stretch.motion_MC for stretch in stretches])
    low_C, high_C = np.percentile(motion_MC, [1, 99], axis=0)  # a failed match is a jump across the picture
    scale_C = motion_MC.clip(low_C, high_C).std(axis=0)
    moving_C = scale_C > 0.1
    if not moving_C.any():
        return UNKNOWN
    curves = []
    for stretch in stretches:
        past = stretch.past_MP.reshape(len(stretch.past_MP), _PAST, -1).clip(low_C, high_C)[..., moving_C]
        target = (stretch.motion_MC.clip(low_C, high_C) / (scale_C + 1e-9))[:, moving_C]
        known = (past / scale_C[moving_C]).reshape(len(past), -1)
        curves.append(_gains(stretch, target, known, integrals))
    return _best(curves, np.array([float(stretch.before_M.mean()) for stretch in stretches]))


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


def _measure(recording: Recording, run: Run) -> _Stretch:
    """The motions of a stretch, from pictures at no more than 30 a second."""
    import torch

    from playloom.data.motion import MOTIONS, motions

    options = replace(recording.options, frame_size=_SIZE, resize="stretch")
    times, frames = [], []
    for time, load in recording.pictures_from(run.start):
        if time > run.start + run.steps * STEP:
            break
        if not times or time - times[-1] >= 1 / _RATE - PICTURE_SLACK:
            times.append(time)
            frames.append(options.reduce(load(), recording.masks)[0])
    times_T = np.array(times)
    gap = max(1, round(STEP / float(np.median(np.diff(times_T))))) if len(times) > 1 else 1
    parts = []
    for phase in range(gap):
        at = slice(phase, None, gap)
        if len(times_T[at]) > _PAST + 2:
            moved_MC = motions(torch.from_numpy(np.stack(frames[at]))).double().numpy()
            past = [moved_MC[_PAST - back : len(moved_MC) - back] for back in range(1, _PAST + 1)]
            parts.append((times_T[at][_PAST:-1], times_T[at][_PAST + 1 :], moved_MC[_PAST:], np.concatenate(past, 1)))
    if not parts:
        none = np.zeros(0)
        return _Stretch(none, none, np.zeros((0, len(MOTIONS))), np.zeros((0, _PAST * len(MOTIONS))))
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    order = np.argsort(columns[0], kind="stable")
    return _Stretch(*(column[order] for column in columns))


def _integrals(
    changes: Iterable[InputChange], mapping: ControlMapping
) -> list[list[tuple[float, NDArray[np.float64], NDArray[np.float64]]]]:
    """For every control its sources: weight, times, and the integral of the source up to each of them."""
    times: dict[str, list[float]] = {}
    values: dict[str, list[float]] = {}
    for change in changes:
        times.setdefault(change.control, []).append(change.time)
        values.setdefault(change.control, []).append(change.value)
    curves = {name: _integral(np.array(times[name]), np.array(values[name]), name in MOUSE) for name in times}
    controls = [
        [
            (weight, *curves[source])
            for source, weight in mapping.weights.get(control.name, {}).items()
            if source in curves
        ]
        for control in CONTROLS
    ]
    return [sources for sources in controls if sources]


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


def _gains(
    stretch: _Stretch,
    motion_MC: NDArray[np.float64],
    past_MP: NDArray[np.float64],
    integrals: list[list[tuple[float, NDArray[np.float64], NDArray[np.float64]]]],
) -> NDArray[np.float64]:
    """Held-out squared error without the input of each lag, and what it takes off that, [2, L, B, C] by block."""
    step = LAGS[1] - LAGS[0]
    older = round(STEP / step)
    lags = np.concatenate([LAGS, LAGS[-1] + step * np.arange(1, _OLDER * older + 1)])
    windows = [_windows(stretch, lag, integrals) for lag in lags.tolist()]
    scale = np.stack(windows).std(axis=(0, 1))
    windows = [window[:, scale > 1e-9] / scale[scale > 1e-9] for window in windows]
    block_M = ((stretch.before_M - stretch.before_M[0]) / _BLOCK).astype(int)
    results = []
    for index in range(len(LAGS)):
        known = np.concatenate([past_MP, *(windows[index + older * back] for back in range(1, _OLDER + 1))], axis=1)
        without = _held_out_errors(known, motion_MC, block_M)
        results.append((without, without - _held_out_errors(np.hstack([known, windows[index]]), motion_MC, block_M)))
    errors = np.array(results).swapaxes(0, 1)
    return np.stack([errors[:, :, block_M == block].sum(axis=2) for block in np.unique(block_M)], axis=2)


def _windows(
    stretch: _Stretch, lag: float, integrals: list[list[tuple[float, NDArray[np.float64], NDArray[np.float64]]]]
) -> NDArray[np.float64]:
    """Mean of every control over the windows of the motions, [M, A], for input that is earlier by a lag."""
    begin, end = stretch.before_M - lag, stretch.after_M - lag
    columns = [
        sum(weight * (np.interp(end, at, curve) - np.interp(begin, at, curve)) for weight, at, curve in sources)
        / (end - begin)
        for sources in integrals
    ]
    return np.stack(columns, axis=1)


def _held_out_errors(
    x_MF: NDArray[np.float64], y_MC: NDArray[np.float64], block_M: NDArray[np.int_]
) -> NDArray[np.float64]:
    """Squared errors [M, C] of ridge regressions on blocks they were not fitted to."""
    errors = np.empty_like(y_MC)
    fold_M = block_M * _FOLDS // (block_M[-1] + 1)
    for fold in range(_FOLDS):
        seen = fold_M != fold
        mean_x, mean_y = x_MF[seen].mean(axis=0), y_MC[seen].mean(axis=0)
        x = x_MF[seen] - mean_x
        ridge = _RIDGE * len(x) * np.eye(x.shape[1])
        weights = np.linalg.solve(x.T @ x + ridge, x.T @ (y_MC[seen] - mean_y))
        errors[~seen] = (y_MC[~seen] - mean_y - (x_MF[~seen] - mean_x) @ weights) ** 2
    return errors


def _best(curves: list[NDArray[np.float64]], times_S: NDArray[np.float64]) -> ClockEstimate:
    """The correction at which the input of the earliest lag adds much, over all stretches."""
    plain = _estimate(curves, times_S, 0.0)
    span = float(times_S[-1] - times_S[0])
    if span < _LONG:
        return plain
    drifts = np.arange(-1, 1.001, 0.025) / span
    drifting = max((_estimate(curves, times_S, drift) for drift in drifts), key=lambda one: max(one.shares))
    large = abs(drifting.clock.drift) * span >= _LEAST_DRIFT
    return drifting if large and drifting.sure and max(drifting.shares) > _BETTER * max(plain.shares) else plain


def _estimate(curves: list[NDArray[np.float64]], times_S: NDArray[np.float64], drift: float) -> ClockEstimate:
    """The estimate for a drift: the curves of all stretches are moved by what it does to them, and added."""
    moved = []
    for curve, time in zip(curves, times_S.tolist(), strict=True):
        shift = round(drift * time / (LAGS[1] - LAGS[0]))
        index = np.arange(len(LAGS)) + shift
        moved.append(curve[:, index.clip(0, len(LAGS) - 1)])
    before_LBC, gain_LBC = np.concatenate(moved, axis=2)
    share_LC = gain_LBC.sum(axis=1) / (before_LBC.sum(axis=1) + 1e-9)
    blocks = gain_LBC.shape[1]
    sigma_LC = gain_LBC.mean(axis=1) / (gain_LBC.std(axis=1, ddof=1) / np.sqrt(blocks) + 1e-12)
    sure_LC = (sigma_LC > _SURE) & (share_LC > _LEAST_SHARE)
    peak, column = np.unravel_index(int((share_LC * np.where(sure_LC, 1, 1e-3)).argmax()), share_LC.shape)
    share_L = np.convolve(np.pad(share_LC[:, column], 1, mode="edge"), [0.25, 0.5, 0.25], mode="valid")
    first = int(np.flatnonzero(share_L >= 0.5 * share_L[peak])[0]) if share_L[peak] > 0 else int(peak)
    while first + 1 < len(LAGS) and share_L[first + 1] > share_L[first]:
        first += 1
    low, top, high = share_L[max(0, first - 1)], share_L[first], share_L[min(first + 1, len(LAGS) - 1)]
    part = 0.5 * (low - high) / min(low - 2 * top + high, -1e-9)
    return ClockEstimate(
        clock=Clock(round(float(LAGS[first] + (LAGS[1] - LAGS[0]) * np.clip(part, -0.5, 0.5)), 3), round(drift, 9)),
        sure=bool(sure_LC[peak, column]),
        sigmas=float(sigma_LC[peak, column]),
        shares=tuple(share_LC[:, column].tolist()),
    )
