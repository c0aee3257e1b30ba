"""A video with a log of the input beside it: `play.mp4` and `play.csv` or `play.jsonl`.

A log has a time column (`time`, `timestamp`, `t`, with `_s`, `_ms`, `_us` or `_ns` behind it if you like) and either
events, with a column for the control (`key`, `control`, `button`) and one for its value (`value`, `down`, `event`), or
rows of named controls, one column each: keys, `mouse_dx`, raw XInput (`sThumbLX`, `wButtons`), or the sixteen controls
in a schema of `playloom.actions.codec`. Mouse movement may be in columns `dx` and `dy` of either form.

Without a unit in its name, that of the time is the one with which the log is as long as the video. Time 0 is the first
picture. Where all times are later than the video's end, time 0 is the event `video_start`, else the first row.
Between rows that are more than 0.5 s apart input is unknown; so is it while `paused` is 1 or `focus` is 0.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import BIN_VALUES, SLOT_NAMES, Schema, detect_schema
from playloom.actions.controller import CONTROLS
from playloom.data.importing.names import control_name
from playloom.data.importing.recordings import Frame, ReaderOptions, Recording
from playloom.data.importing.resample import MAX_GAP, PAUSED, STEP, InputChange
from playloom.data.importing.video import video_length, video_pictures, video_times, videos_below
from playloom.errors import ActionError, RecordingError

_ENDINGS = (".csv", ".jsonl")
_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TIME = re.compile(r"^(?:time|timestamp|t|ts)(?:_?(s|ms|us|ns))?$")
_CONTROL_COLUMNS = ("control", "key", "button", "code", "name")
_VALUE_COLUMNS = ("value", "down", "pressed", "event", "event_type", "state", "action", "type")
_WORDS = {
    **dict.fromkeys(("down", "press", "pressed", "keydown", "key_down", "true"), 1.0),
    **dict.fromkeys(("up", "release", "released", "keyup", "key_up", "false"), 0.0),
}
_HEAD = 1000
"""Rows that columns and schema are taken from."""
_FACTOR = 30
"""Most that the length of a log may differ from the video's; half way, in factors, to the next unit."""
_UNIX = (5e8, 5e9)  # seconds: 1985 to 2128
_OWN = {control.name.lower(): control for control in CONTROLS}
_BINNED = [name.lower() for name in SLOT_NAMES]
_XINPUT = {
    "sthumblx": ("left_stick_x", 32767),
    "sthumbly": ("left_stick_y", 32767),
    "sthumbrx": ("right_stick_x", 32767),
    "sthumbry": ("right_stick_y", 32767),
    "blefttrigger": ("trigger_lt", 255),
    "brighttrigger": ("trigger_rt", 255),
}
"""Control and full value of raw XInput columns."""
_XINPUT_BUTTONS = {
    0x1: "dpad_up", 0x2: "dpad_down", 0x4: "dpad_left", 0x8: "dpad_right", 0x10: "pad_start", 0x20: "pad_back",
    0x40: "pad_left_thumb", 0x80: "pad_right_thumb", 0x100: "skill_1", 0x200: "skill_2",
    0x1000: "button_a", 0x2000: "button_b", 0x4000: "button_x", 0x8000: "button_y",
}  # fmt: skip


class _Clock(NamedTuple):
    """Seconds of a log's time: (time - zero) * unit."""

    unit: float
    zero: float
    assumed: bool
    """True if the first row stands for the unknown start of the video."""


class VideoLog(Recording):
    """A video and a log with its name."""

    format = "video"

    @classmethod
    def find(cls, folder: Path, options: ReaderOptions) -> list[Recording]:
        """Return all videos in or below a folder, those without a log too."""
        return [cls(path, options) for path in videos_below(folder)]

    @cached_property
    def log(self) -> Path:
        """The log; RecordingError when there is none, or more than one."""
        logs = [self.path.with_suffix(ending) for ending in _ENDINGS if self.path.with_suffix(ending).is_file()]
        if not logs:
            names = " or ".join(self.path.with_suffix(ending).name for ending in _ENDINGS)
            raise RecordingError(f"{self.path} has no log of its input; put {names} beside it")
        if len(logs) > 1:
            raise RecordingError(f"{self.path} has two logs, {logs[0].name} and {logs[1].name}; keep one")
        return logs[0]

    @property
    def mapping(self) -> tuple[str, ...]:
        """`controller` for a log of the sixteen controls."""
        return ("controller",) if set(_OWN) <= set(self._columns) else super().mapping

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where the first row was taken for the start of the video."""
        if not self._clock.assumed:
            return ()
        return (f"{self.log}: its first row was taken for the start of the video; if that is wrong, give --offset",)

    def picture_times(self) -> NDArray[np.float64]:
        """Return the presentation times."""
        return video_times(self.path)

    def pictures(self) -> Iterator[Frame]:
        """Decode the video."""
        return video_pictures(self.path)

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the log."""
        clock, wanted = self._clock, {*sources, PAUSED}
        if self._control_column is None:
            self._check_columns(wanted)
            yield InputChange(-math.inf, PAUSED, 1)
        before, interval, held, paused = -math.inf, STEP, dict[str, float](), 0.0
        for number, row in _rows(self.log):
            time = (self._cell(number, row, self._time_column) - clock.zero) * clock.unit + self.options.offset
            values = dict(self._values(number, row, wanted))
            paused = values.pop(PAUSED, paused)
            if self._control_column is None:  # a row says what is held until the next one
                if time - before > MAX_GAP and before > -math.inf:
                    yield InputChange(before + interval, PAUSED, 1)
                elif before > -math.inf:
                    interval = time - before
                before = time
            if held.get(PAUSED) != paused or self._control_column is None:
                held[PAUSED] = paused
                yield InputChange(time, PAUSED, paused)
            for name, value in values.items():
                if name in ("mouse_dx", "mouse_dy") or held.get(name) != value:
                    yield InputChange(time, name, value)
                    held[name] = value
                if name.startswith("wheel_"):
                    yield InputChange(time, name, 0.0)
                    held[name] = 0.0
        if self._control_column is None:
            yield InputChange(before + interval, PAUSED, 1)

    @cached_property
    def _columns(self) -> list[str]:
        rows = islice(_rows(self.log), _HEAD)  # objects of a JSONL file may differ
        return list(dict.fromkeys(name for _, row in rows for name in row))

    @cached_property
    def _time_column(self) -> str:
        for name in self._columns:
            if _TIME.match(name):
                return name
        raise RecordingError(f"{self.log} has no time column: got {', '.join(self._columns)}, expected one named time")

    @cached_property
    def _control_column(self) -> str | None:
        return next((name for name in _CONTROL_COLUMNS if name in self._columns), None)

    @cached_property
    def _clock(self) -> _Clock:
        first, last, start = math.inf, -math.inf, None
        for number, row in _rows(self.log):
            time = self._cell(number, row, self._time_column)
            first, last = min(first, time), max(last, time)
            if start is None and str(row.get(self._control_column or "", "")).lower() == "video_start":
                start = time
        length = max(video_length(self.path), STEP)
        match = _TIME.match(self._time_column)
        unit = _UNITS[match[1]] if match and match[1] else _unit(self.log, first, last, length)
        assumed = start is None and first * unit > length
        return _Clock(unit, first if assumed else start or 0.0, assumed)

    @cached_property
    def _schema(self) -> Schema:
        if self.options.schema != "auto":
            return self.options.schema
        if not set(_OWN) <= set(self._columns):
            return "named"
        rows = islice(_rows(self.log), _HEAD)
        return detect_schema([[self._cell(number, row, name) for name in _BINNED] for number, row in rows])[0]

    def _cell(self, number: int, row: Mapping[str, Any], name: str) -> float:
        return _number(self.log, number, name, row.get(name))

    def _check_columns(self, wanted: set[str]) -> None:
        known = {*wanted, *_XINPUT, "wbuttons"}
        if not any(column in known or control_name(column) in known for column in self._columns):
            raise RecordingError(
                f"{self.log} has no column that the mapping uses: got {', '.join(self._columns)}; "
                "give a --mapping for them"
            )

    def _values(self, number: int, row: Mapping[str, Any], wanted: set[str]) -> Iterator[tuple[str, float]]:
        """Controls and values of a row."""
        event = row.get(self._control_column) if self._control_column else None
        if event not in (None, ""):
            name = control_name(str(event))
            if self._control_column == "button" or "mouse" in str(row.get("device", "")).lower():
                name = control_name(f"mouse_{name}") if f"mouse_{name}" in wanted else name
            column = next((name for name in _VALUE_COLUMNS if row.get(name) not in (None, "")), None)
            if column is None:
                raise RecordingError(f"{self.log} row {number} has no value: expected a column value, down or event")
            if name in wanted or name == "focus":
                yield from self._read(number, name, row[column])
        for column, cell in row.items():
            if cell in (None, "") or column == self._time_column:
                continue
            if self._control_column is None or control_name(column) in ("mouse_dx", "mouse_dy"):
                name = control_name(column)
                if name in wanted or name in ("focus", "wbuttons") or name in _XINPUT:
                    yield from self._read(number, name, cell)

    def _read(self, number: int, name: str, cell: Any) -> Iterator[tuple[str, float]]:
        value = _number(self.log, number, name, cell)
        if name == "focus":
            yield PAUSED, 1.0 - value
        elif name == "wbuttons":
            yield from ((button, float(bool(int(value) & bit))) for bit, button in _XINPUT_BUTTONS.items())
        elif name in _XINPUT:
            control, full = _XINPUT[name]
            yield control, max(-1.0, min(1.0, value / full))
        elif name in _OWN:
            yield name, self._own(number, name, value)
        else:
            yield name, value

    def _own(self, number: int, name: str, value: float) -> float:
        control = _OWN[name]
        try:
            if control.kind == "axis" and self._schema == "binned":
                if value not in range(len(BIN_VALUES)):
                    raise ActionError(f"{control.name} is {value:g}; expected a whole number 0 to 10")
                return float(BIN_VALUES[int(value)])
            return control.check(0 - value if name.endswith("stick_y") else value)
        except ActionError as error:
            raise ActionError(f"{self.log} row {number}: {error} ({self._schema} schema)") from None


def _unit(log: Path, first: float, last: float, length: float) -> float:
    """The unit of a log's times, for a video of that many seconds."""
    span = (last - first) or abs(last) or STEP
    for unit in _UNITS.values():
        if _UNIX[0] < first * unit < _UNIX[1] and span * unit < _FACTOR * length:
            return unit
    unit = min(_UNITS.values(), key=lambda unit: abs(math.log(span * unit / length)))
    if not 1 / _FACTOR < span * unit / length < _FACTOR:
        raise RecordingError(
            f"{log} does not fit its video: its times go from {first:g} to {last:g}, and the video has {length:.1f} s; "
            "name the unit in the column: time_s, time_ms, time_us or time_ns"
        )
    return unit


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows of a CSV or JSONL file by lower-case column, counted from 1; RecordingError when it is damaged or empty."""
    number = 0
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(_jsonl(file) if path.suffix == ".jsonl" else _csv(file), 1):
                yield number, {str(key).strip().lower(): value for key, value in row.items() if key is not None}
    except (OSError, ValueError, csv.Error) as error:
        if isinstance(error, RecordingError | ActionError):
            raise
        raise RecordingError(f"{path} cannot be read after row {number} ({error}); expected text in UTF-8") from error
    if not number:
        raise RecordingError(f"{path} holds no row; record it again")


def _jsonl(file: Any) -> Iterator[dict[str, Any]]:
    for line in file:
        if line.strip():
            row = json.loads(line)
            if not isinstance(row, dict):
                raise ValueError(f"got {line.strip():.40}, expected a JSON object in every line")
            yield row


def _csv(file: Any) -> Iterator[dict[str, Any]]:
    head = file.readline()
    separator = next((mark for mark in ";\t" if mark in head and "," not in head), ",")
    names = next(csv.reader([head], delimiter=separator), [])
    for row in csv.DictReader(file, names, delimiter=separator):
        yield {key: cell.replace(",", ".") for key, cell in row.items() if cell} if separator == ";" else row


def _number(log: Path, row: int, name: str, cell: Any) -> float:
    try:
        value = (
            _WORDS[cell.strip().lower()] if isinstance(cell, str) and cell.strip().lower() in _WORDS else float(cell)
        )
    except (TypeError, ValueError):
        value = math.nan
    if not math.isfinite(value):
        raise RecordingError(f"{log} row {row}, {name}: got {cell!r:.40}, expected a number")
    return value
