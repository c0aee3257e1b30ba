"""A video with a log of the input beside it: `play.mp4` and `play.csv` or `play.jsonl`, or Parquet.

docs/own_game.md has the columns: a row is an event, or what is held until the next one. Without a unit in its name, the
time is in the unit with which the log is as long as the video. Time 0 is the first picture. Where all times are later
than the video's end, time 0 is the event `video_start`, else the first row. Between rows that are more than 0.5 s apart
input is unknown; so is it while `paused` is 1 or `focus` is 0.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

from playloom.actions.codec import BIN_VALUES, SLOT_NAMES, Schema, detect_schema
from playloom.actions.controller import CONTROLS, Control
from playloom.data.dataset import OUTCOMES
from playloom.data.importing.files import TABLE_ENDINGS, VIDEO_ENDINGS, table_rows
from playloom.data.importing.mapping import control_name
from playloom.data.importing.recordings import Change, Recording, check_sources
from playloom.data.importing.resample import MAX_GAP, MOUSE, PAUSED, STATE, STEP
from playloom.errors import ActionError, RecordingError

_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_TIME = re.compile(r"^(?:time|timestamp|ts?)(?:_?(s|ms|us|ns))?$")
_CONTROL_COLUMNS = ("control", "key", "button", "code", "name")
_VALUE_COLUMNS = ("value", "down", "pressed", "event", "event_type", "state", "action", "type")
_WORDS = dict.fromkeys(("down", "press", "pressed", "keydown", "key_down", "true"), 1.0)
_WORDS |= dict.fromkeys(("up", "release", "released", "keyup", "key_up", "false"), 0.0)
_HEAD = 1000  # rows that columns and schema are taken from
_FACTOR = 30  # that a log and its video may differ in length by, at most; half way, in factors, to the next unit
_UNIX = (5e8, 5e9)  # seconds: 1985 to 2128
_OWN = {control.name.lower(): control for control in CONTROLS}
_XINPUT = {
    "sthumblx": ("left_stick_x", 32767), "sthumbly": ("left_stick_y", 32767), "sthumbrx": ("right_stick_x", 32767),
    "sthumbry": ("right_stick_y", 32767), "blefttrigger": ("trigger_lt", 255), "brighttrigger": ("trigger_rt", 255),
}  # fmt: skip
"""Control and full value of raw XInput columns."""
_XINPUT_BUTTONS = {
    0x1: "dpad_up", 0x2: "dpad_down", 0x4: "dpad_left", 0x8: "dpad_right", 0x10: "pad_start", 0x20: "pad_back",
    0x40: "pad_left_thumb", 0x80: "pad_right_thumb", 0x100: "skill_1", 0x200: "skill_2",
    0x1000: "button_a", 0x2000: "button_b", 0x4000: "button_x", 0x8000: "button_y",
}  # fmt: skip
_SPECIAL = {"focus", "wbuttons", *_XINPUT}


class VideoLog(Recording):
    """A video and a log with its name; `find` gives videos without a log too."""

    format, endings, beside = "video", VIDEO_ENDINGS, TABLE_ENDINGS

    @cached_property
    def log(self) -> Path:
        """The log; RecordingError when there is none, or more than one."""
        names = [self.companion(ending) for ending in TABLE_ENDINGS]
        logs = [path for path in names if path.is_file()]
        if not logs:
            expected = " or ".join(path.name for path in names)
            raise RecordingError(f"{self.path} has no log of its input; put {expected} beside it")
        if len(logs) > 1:
            raise RecordingError(f"{self.path} has two logs, {logs[0].name} and {logs[1].name}; keep one")
        return logs[0]

    @property
    def mapping(self) -> tuple[str, ...]:
        """`controller` for a log of the sixteen controls."""
        return ("controller",) if set(_OWN) <= set(self._columns) else super().mapping

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences on a detected schema, and on a first row that was taken for the start of the video."""
        schema, reason = self._schema
        said = (f"{self.log} is read in the {schema} schema: {reason}",) if reason else ()
        assumed = f"{self.log}: its first row was taken for the start of the video; if that is wrong, give --offset"
        return (*said, assumed) if self.clock_assumed else said

    @property
    def clock_assumed(self) -> bool:
        """True if the first row stands for the start of the video."""
        return self._clock[2]

    @property
    def state_columns(self) -> Sequence[str]:
        """Columns `reward`, `terminated`, `truncated` and, without its prefix, `state_NAME` of rows."""
        return [] if self._control_column else [name for name in map(_state, self._columns) if name]

    def _changes(self, sources: Sequence[str]) -> Iterator[Change]:
        wanted = {*sources, PAUSED}
        held = self._control_column is None  # a row says what is held until the next one
        known = {*wanted, *_SPECIAL} if held else set(MOUSE)
        cells = {column: control_name(column) for column in self._columns if control_name(column) in known}
        if held and not cells:
            check_sources(self.log, self._columns, sources)
        if held:
            cells |= {column: STATE + name for column in self._columns if (name := _state(column))}
        (unit, zero, _), before, interval = self._clock, -math.inf, STEP
        away = {PAUSED: 0.0, "focus": 0.0}
        for number, row in table_rows(self.log):
            time = (self._cell(number, row, self._time_column) - zero) * unit
            if held and time - before > MAX_GAP:
                yield from ((before + interval, PAUSED, 1), (time, PAUSED, max(away.values())))
            elif held:
                interval = time - before
            before = time
            for name, value in self._values(number, row, cells, wanted):
                if name in away:
                    away[name] = value
                    name, value = PAUSED, max(away.values())
                yield time, name, value
                if name.startswith("wheel_"):
                    yield time, name, 0
        if held:
            yield before + interval, PAUSED, 1

    @cached_property
    def _columns(self) -> list[str]:
        rows = islice(table_rows(self.log), _HEAD)  # objects of a JSONL file may differ
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
    def _clock(self) -> tuple[float, float, bool]:
        """Unit and zero of the times, and True if the first row stands for the unknown start of the video."""
        first, last, start = math.inf, -math.inf, None
        for number, row in table_rows(self.log):
            time = self._cell(number, row, self._time_column)
            first, last = min(first, time), max(last, time)
            if start is None and str(row.get(self._control_column or "", "")).lower() == "video_start":
                start = time
        length = max(float(self.times_F[-1]), STEP)
        match = _TIME.match(self._time_column)
        unit = _UNITS[match[1]] if match and match[1] else _unit(self.log, first, last, length)
        assumed = start is None and first * unit > length
        return unit, first if assumed else start or 0.0, assumed

    @cached_property
    def _schema(self) -> tuple[Schema, str]:
        """The schema of the sixteen controls, and the reason if it was detected."""
        if self.options.schema != "auto":
            return self.options.schema, ""
        if not set(_OWN) <= set(self._columns):
            return "named", ""
        slots = [name.lower() for name in SLOT_NAMES]
        rows = islice(table_rows(self.log), _HEAD)
        return detect_schema([[self._cell(number, row, name) for name in slots] for number, row in rows])

    def _cell(self, number: int, row: Mapping[str, Any], name: str) -> float:
        cell = row.get(name)
        try:
            value = float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            value = _WORDS.get(str(cell).strip().lower(), math.nan)
        if not math.isfinite(value):
            raise RecordingError(f"{self.log} row {number}, {name}: got {cell!r:.40}, expected a number")
        return value

    def _values(
        self, number: int, row: Mapping[str, Any], cells: Mapping[str, str], wanted: set[str]
    ) -> Iterator[tuple[str, float]]:
        named = {column: name for column, name in cells.items() if row.get(column) not in (None, "")}
        event = row.get(self._control_column) if self._control_column else None
        if event not in (None, ""):
            name = control_name(str(event))
            if self._control_column == "button" or "mouse" in str(row.get("device", "")).lower():
                name = control_name(f"mouse_{name}") if f"mouse_{name}" in wanted else name
            column = next((name for name in _VALUE_COLUMNS if row.get(name) not in (None, "")), None)
            if name in wanted or name == "focus":
                if column is None:
                    where = f"{self.log} row {number}"
                    raise RecordingError(f"{where} has no value: expected a column value, down or event")
                named = {column: name, **named}
        for column, name in named.items():
            value = self._cell(number, row, column)
            if name == "focus":
                yield name, 1.0 - value
            elif name == "wbuttons":
                yield from ((button, float(bool(int(value) & bit))) for bit, button in _XINPUT_BUTTONS.items())
            elif name in _XINPUT:
                control, full = _XINPUT[name]
                yield control, max(-1.0, value / full)
            else:
                yield name, self._own(number, _OWN[name], value) if name in _OWN else value

    def _own(self, number: int, control: Control, value: float) -> float:
        try:
            if control.kind == "axis" and self._schema[0] == "binned":
                if value not in range(len(BIN_VALUES)):
                    raise ActionError(f"{control.name} is {value:g}; expected a whole number 0 to 10")
                return float(BIN_VALUES[int(value)])
            return control.check(0 - value if control.name.endswith("stick_y") else value)
        except ActionError as error:
            raise ActionError(f"{self.log} row {number}: {error} ({self._schema[0]} schema)") from None


def _state(column: str) -> str:
    """Name of the state column in a column of the log; empty: it is none."""
    return column if column in OUTCOMES else column.removeprefix("state_") if column.startswith("state_") else ""


def _unit(log: Path, first: float, last: float, length: float) -> float:
    span = (last - first) or abs(last) or STEP
    for unit in _UNITS.values():
        if _UNIX[0] < first * unit < _UNIX[1] and span * unit < _FACTOR * length:
            return unit
    unit = min(_UNITS.values(), key=lambda unit: abs(math.log(span * unit / length)))
    if not 1 / _FACTOR < span * unit / length < _FACTOR:
        got = f"got times from {first:g} to {last:g} for {length:.1f} s"
        raise RecordingError(
            f"{log} does not fit its video: {got}; name the column time_s, time_ms, time_us or time_ns"
        )
    return unit
