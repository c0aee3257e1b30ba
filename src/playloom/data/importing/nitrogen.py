"""Labels of NitroGen with videos of one's own: chunk folders with `actions_raw.parquet` and `metadata.json`.

Source: dataset card of huggingface.co/datasets/nvidia/NitroGen. A chunk has one row for each picture of 20 seconds,
with 17 buttons and two sticks, +y down. The dataset has no videos: put that of the chunk into its folder or beside it
with its name, or the whole one beside it as `VIDEO_ID.mp4`. The controller that is drawn in the picture is made black.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.files import VIDEO_ENDINGS, Frame, parquet_rows, video_pictures, video_size, video_times
from playloom.data.importing.recordings import ImportOptions, Recording, Rectangle
from playloom.data.importing.resample import PAUSED, InputChange
from playloom.errors import RecordingError
from playloom.json_io import read_json

_TABLES = ("actions_processed.parquet", "actions_raw.parquet")
_BUTTONS = {
    "south": "button_a", "east": "button_b", "west": "button_x", "north": "button_y", "left_shoulder": "skill_1",
    "right_shoulder": "skill_2", "left_trigger": "trigger_lt", "right_trigger": "trigger_rt", "back": "pad_back",
    "start": "pad_start", "guide": "pad_guide", "left_thumb": "pad_left_thumb", "right_thumb": "pad_right_thumb",
    "dpad_up": "dpad_up", "dpad_down": "dpad_down", "dpad_left": "dpad_left", "dpad_right": "dpad_right",
}  # fmt: skip
_STICKS = ("left", "right")
_SECONDS = 20.0


class NitroGen(Recording):
    """A chunk of NitroGen with its video."""

    format = "nitrogen"

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return all chunks in or below a folder, those without a video too."""
        return [cls(place, options) for place in {path.parent for name in _TABLES for path in folder.rglob(name)}]

    @cached_property
    def files(self) -> Sequence[Path]:
        """Videos of the chunk, and the whole one."""
        names = [self.path.with_name(f"{name}{e}") for name in (self.path.name, self._whole) for e in VIDEO_ENDINGS]
        inside = sorted(path for path in self.path.iterdir() if path.suffix.lower() in VIDEO_ENDINGS)
        return [*inside, *(path for path in names if path.is_file())]

    @property
    def video(self) -> Path:
        """The video of the chunk, else the whole one."""
        if not self.files:
            raise RecordingError(f"{self.path} has no video; put it into that folder, or {self._whole}.mp4 beside it")
        return self.files[0]

    @property
    def session(self) -> Path:
        """The folder of the video's chunks."""
        return self.path.parent

    @property
    def masks(self) -> Sequence[Rectangle]:
        """The controller in the picture."""
        height, width = self._metadata["original_video"]["resolution"]
        box = [float(number) for number in self._metadata["bbox_controller_overlay"]]
        across, down = (size / full for size, full in zip(video_size(self.video), (width, height), strict=True))
        left, top = math.floor(box[0] * across), math.floor(box[1] * down)
        return [(left, top, math.ceil(box[2] * across) + 1, math.ceil(box[3] * down) + 1)]

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        """Times of the pictures of the chunk in seconds."""
        times_F = video_times(self.video, start=self._start)
        return times_F[times_F < self._seconds - 1e-3]

    def pictures(self) -> Iterator[Frame]:
        """Decode the video, from the start of the chunk on."""
        return video_pictures(self.video, start=self._start)

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the rows."""
        tables = [self.path / name for name in _TABLES if (self.path / name).is_file()]
        rate = float(self._metadata["chunk_size"]) / self._seconds
        number = -1
        for number, row in enumerate(parquet_rows(tables[0])):
            time = number / rate + self.options.offset
            values = [(name, float(row[column] or 0)) for column, name in _BUTTONS.items()]
            values += [(f"{side}_stick_x", float(row[f"j_{side}"][0])) for side in _STICKS]
            values += [(f"{side}_stick_y", -float(row[f"j_{side}"][1])) for side in _STICKS]
            yield from (InputChange(time, name, value) for name, value in values)
        yield InputChange((number + 1) / rate + self.options.offset, PAUSED, 1)

    @cached_property
    def _metadata(self) -> Mapping[str, Any]:
        return read_json(self.path / "metadata.json", RecordingError, "get the dataset again")

    @property
    def _whole(self) -> str:
        """Name of the whole video, without its ending."""
        return self.path.name.partition("_chunk_")[0]

    @property
    def _seconds(self) -> float:
        return float(self._metadata.get("original_video", {}).get("duration") or _SECONDS)

    @property
    def _start(self) -> float | None:
        """Start of the chunk in the video; None if the video begins with it."""
        return float(self._metadata["original_video"]["start_time"]) if self.video.stem == self._whole else None
