"""Recordings of Minecraft by the contractors of VPT: `x.mp4` and `x.jsonl`, also of MineRL.

Source: Baker et al. 2022, arXiv:2206.11795, and data_loader.py of github.com/openai/Video-Pre-Training. A line of the
log belongs to a picture, 20 a second; the longer of the two is cut. Open menus are cuts. These faults are mended as
there: an attack key that is stuck from the first line on, and jumps of the camera of more than 180 degrees. Selected
slots of the hotbar become presses of its key, because the wheel is not recorded. Typed text and places are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from playloom.data.importing.files import VIDEO_ENDINGS, reading, table_rows
from playloom.data.importing.names import control_name
from playloom.data.importing.recordings import ImportOptions, Recording
from playloom.data.importing.resample import PAUSED, InputChange

_MARKS = (b'"keyboard"', b'"mouse"', b'"isGuiOpen"')
_HEAD = 65536
_BUTTONS = ("mouse_left", "mouse_right", "mouse_middle")
_ATTACK = 0
_MOST_COUNTS = 1200
"""Counts that turn the camera by 180 degrees."""


class Vpt(Recording):
    """A video with a log of VPT."""

    format, endings = "vpt", VIDEO_ENDINGS

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return the videos whose log has the fields of VPT."""
        return [video for video in super().find(folder, options) if _is_log(video.path.with_suffix(".jsonl"))]

    @property
    def session(self) -> Path:
        """The name without date and time, which pieces of five minutes have."""
        return self.path.with_name(re.sub(r"-\d{8}-\d{6}$", "", self.path.stem))

    @property
    def mapping(self) -> tuple[str, ...]:
        """`vpt`."""
        return ("vpt",)

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the log; input is unknown while a menu is open and after the last line."""
        log, held, stuck, slot, time = self.path.with_suffix(".jsonl"), set[str](), False, None, 0.0
        rows = zip(self.times_F.tolist(), table_rows(log), strict=False)
        for time, (number, row) in rows:
            with reading(f"{log} line {number}"):
                mouse = row["mouse"]
                new_buttons = mouse.get("newButtons", [])
                stuck = new_buttons == [_ATTACK] if number == 1 else stuck and _ATTACK not in new_buttons
                keys = {control_name(key) for key in row["keyboard"]["keys"]}
                keys |= {_BUTTONS[button] for button in mouse["buttons"] if button < 3 and (button or not stuck)}
                if slot not in (None, row.get("hotbar")):
                    keys.add(str(row["hotbar"] + 1))
                slot = row.get("hotbar")
                values = {PAUSED: float(row["isguiopen"]), **{key: float(key in keys) for key in held | keys}}
                values |= {f"mouse_{axis}": _counts(mouse[axis]) for axis in ("dx", "dy")}
            held = keys
            yield from (InputChange(time + self.options.offset, name, value) for name, value in values.items())
        yield InputChange(time + self.options.offset + 1 / 20, PAUSED, 1)


def _counts(moved: Any) -> float:
    return float(moved) if abs(moved) <= _MOST_COUNTS else 0.0


def _is_log(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.readline(_HEAD)
    return all(mark in head for mark in _MARKS)
