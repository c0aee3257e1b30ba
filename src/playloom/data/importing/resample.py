"""Steps of 0.1 s from pictures and input changes at any rate.

Step t shows the last picture at or before its time. Its input covers [t, t + 0.1 s): the maximum of keys, buttons and
triggers, the sum of mouse counts, and the mean of sticks over time. T steps, C controls.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.errors import RecordingError

STEP = 0.1
"""Length of a step in seconds."""
MAX_GAP = 0.5
"""Longest time in seconds without a new picture; a longer one ends the clip."""
PAUSED = "paused"
"""Control that is held while input is unknown or goes elsewhere: lost focus, a menu, a gap of the log."""
_LATE = 0.05
"""Largest step back in time, in seconds, between two changes; loggers with several threads have small ones."""
PICTURE_SLACK = 1e-3
"""Tolerance of picture times in seconds: Matroska rounds them to milliseconds."""
_INPUT_SLACK = 1e-6


class InputChange(NamedTuple):
    """A control has a new value, or the mouse has moved."""

    time: float
    """Seconds on the clock of the pictures."""
    control: str
    """Name of a key, mouse axis or button, pad control, or `PAUSED`."""
    value: float
    """Mouse counts since the last change; else the position: key or button 0 or 1, trigger 0 to 1, stick -1 to 1."""


class Run(NamedTuple):
    """Steps without a cut between them."""

    start: float
    """Time of the first step in seconds; the others follow every 0.1 s."""
    steps: int


def find_runs(picture_times_F: NDArray[np.float64]) -> list[Run]:
    """Return the runs of steps between gaps of the pictures, for sorted times in seconds."""
    if not len(picture_times_F):
        return []
    breaks = np.flatnonzero(np.diff(picture_times_F) > MAX_GAP) + 1
    return [
        Run(float(part[0]), int((part[-1] - part[0] + PICTURE_SLACK) / STEP) + 1)
        for part in np.split(picture_times_F, breaks)
    ]


def step_times(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Return the times of all steps in seconds, [T]."""
    return np.concatenate([run.start + STEP * np.arange(run.steps) for run in runs] or [np.zeros(0)])


def cut_runs(runs: Sequence[Run], usable_T: NDArray[np.bool_], least: int = 2) -> list[Run]:
    """Cut runs at unusable steps; pieces of fewer than `least` steps are left out."""
    pieces, first = [], 0
    for run in runs:
        usable = np.concatenate([[False], usable_T[first : first + run.steps], [False]])
        edges = np.flatnonzero(np.diff(usable.astype(np.int8)))
        pieces += [
            Run(run.start + STEP * int(begin), int(end - begin))
            for begin, end in zip(edges[::2], edges[1::2], strict=True)
            if end - begin >= least
        ]
        first += run.steps
    return pieces


def last_pictures(picture_times_F: NDArray[np.float64], times_T: NDArray[np.float64]) -> NDArray[np.intp]:
    """Return the index of the last picture at or before each time, [T]; -1 before the first picture."""
    return np.searchsorted(picture_times_F, times_T + PICTURE_SLACK, side="right") - 1


def resample(
    changes: Iterable[InputChange], times_T: NDArray[np.float64], controls: Sequence[str], dead_zone: float = 0.0
) -> NDArray[np.float32]:
    """Return the input of every step, float32 [T, C].

    Times are those of `step_times`. Stick positions below `dead_zone` are 0, and the rest is stretched to [-1, 1].
    Changes of other controls are ignored; RecordingError when the times of changes go backwards.
    """
    columns = {name: index for index, name in enumerate(controls)}
    window = _Window(controls, dead_zone)
    input_TC = np.zeros((len(times_T), len(controls)), np.float32)
    stream = _in_order(change for change in changes if change.control in columns)
    change = next(stream, None)
    for step, start in enumerate(times_T.tolist()):
        while change is not None and change.time < start - _INPUT_SLACK:
            window.hold(columns[change.control], change.value)
            change = next(stream, None)
        window.begin(start)
        while change is not None and change.time < start + STEP - _INPUT_SLACK:
            window.add(columns[change.control], max(change.time, start), change.value)
            change = next(stream, None)
        input_TC[step] = window.end(start + STEP)
    return input_TC


class _Window:
    """Input of the step that is being read, with the positions that are held on to the next one."""

    def __init__(self, controls: Sequence[str], dead_zone: float) -> None:
        self._sums = [name in ("mouse_dx", "mouse_dy") for name in controls]
        self._means = [name.endswith(("stick_x", "stick_y")) for name in controls]
        self._dead = dead_zone
        self._held = [0.0] * len(controls)

    def hold(self, column: int, value: float) -> None:
        if not self._sums[column]:
            self._held[column] = self._position(column, value)

    def begin(self, start: float) -> None:
        self._start = start
        self._since = [start] * len(self._held)
        mixed = zip(self._held, self._means, strict=True)
        self._value = [0.0 if mean else held for held, mean in mixed]
        self._fresh: set[int] = set()

    def add(self, column: int, time: float, value: float) -> None:
        if self._sums[column]:
            self._value[column] += value
            return
        position = self._position(column, value)
        if self._means[column]:
            self._value[column] += self._held[column] * (time - self._since[column])
            self._since[column] = time
        elif time <= self._start + _INPUT_SLACK and column not in self._fresh:
            self._value[column] = position  # what was held up to this instant belongs to the step before
        else:
            self._value[column] = max(self._value[column], position)
        self._fresh.add(column)
        self._held[column] = position

    def end(self, stop: float) -> list[float]:
        for column, mean in enumerate(self._means):
            if mean:
                rest = self._held[column] * (stop - self._since[column])
                self._value[column] = (self._value[column] + rest) / (stop - self._start)
        return self._value

    def _position(self, column: int, value: float) -> float:
        if not self._means[column] or not self._dead:
            return value
        reach = max(0.0, abs(value) - self._dead) / (1 - self._dead)
        return min(1.0, reach) * (1 if value > 0 else -1)


def _in_order(changes: Iterable[InputChange]) -> Iterator[InputChange]:
    latest = -np.inf
    for change in changes:
        if change.time < latest - _LATE:
            raise RecordingError(
                f"the times of the input go backwards: got {change.time:.3f} s after {latest:.3f} s; sort the log"
            )
        latest = max(latest, change.time)
        yield change._replace(time=latest)
