"""Steps of 0.1 s from pictures and input changes at any rate.

Step t shows the last picture at or before its time. Its input covers [t, t + 0.1 s): the maximum of keys, buttons and
triggers, the sum of mouse counts, the mean of sticks over time, and of other numbers the one farthest from 0. T steps,
C controls.

State columns are controls too, with `STATE` before their names. `reward` is the sum over [t, t + 0.1 s), `terminated`
and `truncated` are the maximum; NaN where no value came. Others are the last value at or before t, at first NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.files import Frame
from playloom.errors import RecordingError

STEP = 0.1
"""Length of a step in seconds."""
MAX_GAP = 0.5
"""Longest time in seconds without a new picture; a longer one ends the clip."""
MOUSE = ("mouse_dx", "mouse_dy")
"""Controls whose values are counts, to be added."""
PAUSED = "paused"
"""Control that is held while input is unknown or goes elsewhere: lost focus, a menu, a gap of the log."""
STATE = "state:"
"""Prefix of state columns among the controls."""
_STATE_KINDS = {"reward": "reward", "terminated": "flag", "truncated": "flag"}
_LATE = 0.05  # largest step back in time, in seconds, between two changes; loggers with several threads have small ones
PICTURE_SLACK = 1e-3
"""Tolerance of picture times in seconds: Matroska rounds them to milliseconds."""
_INPUT_SLACK = 1e-6


class InputChange(NamedTuple):
    """A control has a new value, or the mouse has moved."""

    time: float  # seconds on the clock of the pictures
    control: str  # name of a key, mouse axis or button, pad control, or `PAUSED`
    value: float  # mouse counts since the last change; else 0 or 1 of a key or button, trigger 0 to 1, stick -1 to 1


class Run(NamedTuple):
    """Steps without a cut between them."""

    start: float  # time of the first step in seconds; the others follow every 0.1 s
    steps: int
    split: str = "train"


def find_runs(picture_times_F: NDArray[np.float64]) -> list[Run]:
    """Return the runs of steps between gaps of the pictures, for sorted times in seconds."""
    if not len(picture_times_F):
        return []
    parts = np.split(picture_times_F, np.flatnonzero(np.diff(picture_times_F) > MAX_GAP) + 1)
    return [Run(float(part[0]), int((part[-1] - part[0] + PICTURE_SLACK) / STEP) + 1) for part in parts]


def step_times(runs: Sequence[Run]) -> NDArray[np.float64]:
    """Return the times of all steps in seconds, [T]."""
    return np.concatenate([run.start + STEP * np.arange(run.steps) for run in runs] or [np.zeros(0)])


def cut_runs(runs: Sequence[Run], usable_T: NDArray[np.bool_], least: int = 2) -> list[Run]:
    """Cut runs at unusable steps; pieces of fewer than `least` steps are left out."""
    pieces, first = [], 0
    for run in runs:
        usable = np.concatenate([[False], usable_T[first : first + run.steps], [False]])
        edges = np.flatnonzero(np.diff(usable)).reshape(-1, 2).tolist()
        pieces += [Run(run.start + STEP * begin, end - begin) for begin, end in edges if end - begin >= least]
        first += run.steps
    return pieces


def last_pictures(frames: Iterable[Frame], runs: Sequence[Run]) -> Iterator[Callable[[], NDArray[np.uint8]]]:
    """Give the last picture at or before every step; RecordingError when there is none."""
    left, latest = iter(frames), None
    upcoming = next(left, None)
    for time in step_times(runs).tolist():
        while upcoming is not None and upcoming[0] <= time + PICTURE_SLACK:
            latest, upcoming = upcoming, next(left, None)
        if latest is None or time - latest[0] > MAX_GAP + PICTURE_SLACK:
            raise RecordingError(f"no picture at {time:.1f} s can be decoded; is the recording damaged?")
        yield latest[1]


def resample(
    changes: Iterable[InputChange], runs: Sequence[Run], controls: Sequence[str], dead_zone: float = 0.0
) -> NDArray[np.float32]:
    """Return the input of every step, float32 [T, C].

    Stick positions below `dead_zone` are 0, and the rest is stretched to [-1, 1].
    Changes of other controls are ignored; RecordingError when times go backwards or a value is not finite.
    """
    columns = {name: index for index, name in enumerate(controls)}
    kinds = [_kind(name) for name in controls]
    held = [math.nan if kind == "last" else 0.0 for kind in kinds]
    blank = {"sum": 0.0, "mean": 0.0, "reward": math.nan, "flag": math.nan}
    times_T = step_times(runs)
    input_TC = np.zeros((len(times_T), len(controls)), np.float32)
    stream = _in_order(change for change in changes if change.control in columns)
    change = next(stream, None)
    for step, start in enumerate(times_T.tolist()):
        value = [blank.get(kind, before) for kind, before in zip(kinds, held, strict=True)]
        since, fresh = [start] * len(held), set[int]()
        while change is not None and change.time < start + STEP - _INPUT_SLACK:
            column, new = columns[change.control], change.value
            kind, before = kinds[column], value[column]
            early, at_start = change.time < start - _INPUT_SLACK, change.time <= start + _INPUT_SLACK
            if kind == "mean":
                time, reach = max(change.time, start), max(0.0, abs(new) - dead_zone) / (1 - dead_zone)
                value[column] += held[column] * (time - since[column])
                since[column], held[column] = time, math.copysign(min(1.0, reach), new)
            elif kind in blank:
                if not early and math.isnan(before):
                    value[column] = new
                elif not early:
                    value[column] = max(before, new) if kind == "flag" else before + new
            else:
                held[column] = new
                if at_start and (kind == "last" or column not in fresh):
                    value[column] = new  # what was held up to the first instant belongs to the step before
                elif kind == "level":
                    value[column] = max(before, new, key=abs)
                if not early:
                    fresh.add(column)
            change = next(stream, None)
        for column, kind in enumerate(kinds):
            if kind == "mean":
                value[column] = (value[column] + held[column] * (start + STEP - since[column])) / STEP
        input_TC[step] = value
    return input_TC


def _kind(control: str) -> str:
    if control.startswith(STATE):
        return _STATE_KINDS.get(control.removeprefix(STATE), "last")
    return "sum" if control in MOUSE else "mean" if control.endswith(("stick_x", "stick_y")) else "level"


def _in_order(changes: Iterable[InputChange]) -> Iterator[InputChange]:
    latest = -np.inf
    for change in changes:
        if change.time < latest - _LATE:
            times = f"got {change.time:.3f} s after {latest:.3f} s"
            raise RecordingError(f"the times of the input go backwards: {times}; sort the log")
        if not (math.isfinite(change.value) or change.control.startswith(STATE)):
            where = f"{change.control} is wrong at {change.time:.3f} s"
            raise RecordingError(f"{where}: got {change.value}, expected a number")
        latest = max(latest, change.time)
        yield change._replace(time=latest)
