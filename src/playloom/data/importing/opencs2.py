"""Rounds of OpenCS2: folders of a player with `video.mp4` and `ticks.parquet`.

Source: dataset card of huggingface.co/datasets/blanchon/opencs2_dataset. The video has 32 pictures a second, the ticks
64 rows, which begin with it. `active` has the held buttons. Turns of the view become `mouse_dx` and `mouse_dy`, in
degrees. The tick of death is `terminated`; what follows the next picture is a cut. Names and places are not read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path

from playloom.data.importing.files import parquet_rows
from playloom.data.importing.recordings import ImportOptions, Recording
from playloom.data.importing.resample import PAUSED, STATE, STEP, InputChange

_TICKS, _VIDEO = "ticks.parquet", "video.mp4"
_TURNS = {"delta_yaw": ("mouse_dx", -1.0), "delta_pitch": ("mouse_dy", 1.0)}  # yaw grows to the left, pitch downwards
_TICK = 1 / 64
_STATES = ("health", "armor")


class OpenCs2(Recording):
    """A round of one player."""

    format = "opencs2"

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return all folders with ticks and a video."""
        return [cls(ticks.parent, options) for ticks in folder.rglob(_TICKS) if ticks.with_name(_VIDEO).is_file()]

    @property
    def files(self) -> Sequence[Path]:
        """The video, and its preview."""
        return [self.video, self.path / "video.preview.mp4"]

    @property
    def video(self) -> Path:
        """`video.mp4`."""
        return self.path / _VIDEO

    @property
    def session(self) -> Path:
        """The folder of the match, whose rounds and players share pictures."""
        return next((place for place in self.path.parents if place.name.startswith("match_id=")), self.path.parent)

    @property
    def mapping(self) -> tuple[str, ...]:
        """`opencs2`."""
        return ("opencs2",)

    @cached_property
    def state_columns(self) -> Sequence[str]:
        """Death, and health and armor where the ticks have them."""
        first = next(parquet_rows(self.path / _TICKS), {})
        return ["terminated", *(name for name in _STATES if name in first)]

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the ticks; input is unknown from the second step after the death on."""
        held, time, death, states = set[str](), -math.inf, math.inf, self.state_columns[1:]
        yield InputChange(time, PAUSED, 1)
        for row in parquet_rows(self.path / _TICKS, ["t", "is_alive", "active", *_TURNS, *states]):
            time = float(row["t"]) + self.options.offset
            keys = set(re.findall(r"\w+", str(row["active"] or "").lower()))  # a list, or a text
            values = [(key, float(key in keys)) for key in sorted(keys ^ held)]
            values += [(name, sign * float(row[column] or 0)) for column, (name, sign) in _TURNS.items()]
            values += [(STATE + name, float(row[name])) for name in states]
            if time >= death + 2 * STEP:
                break
            yield InputChange(time, PAUSED, 0)
            if death == math.inf:
                death = death if row["is_alive"] else time
                yield InputChange(time, STATE + "terminated", float(time == death))
            yield from (InputChange(time, name, value) for name, value in values)
            held = keys
        yield InputChange(time + _TICK, PAUSED, 1)
