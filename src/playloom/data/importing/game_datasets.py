"""Published datasets of people's play: VPT, OpenCS2, Open-P2P and NitroGen."""

from __future__ import annotations

import math
import re
from abc import abstractmethod
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.files import (
    VIDEO_ENDINGS,
    Frame,
    Times,
    parquet_rows,
    reading,
    table_rows,
    video_pictures,
    video_size,
    video_times,
)
from playloom.data.importing.mapping import control_name, wheel
from playloom.data.importing.recordings import Change, ImportOptions, Recording, Rectangle
from playloom.data.importing.resample import PAUSED, STATE, STEP
from playloom.errors import RecordingError
from playloom.json_io import read_json

_VPT_MARKS, _VPT_HEAD = (b'"keyboard"', b'"mouse"', b'"isGuiOpen"'), 65536
_VPT_BUTTONS = ("mouse_left", "mouse_right", "mouse_middle")
_ATTACK = 0
_MOST_COUNTS = 1200  # turn the camera of VPT by 180 degrees
_TURNS = {"delta_yaw": ("mouse_dx", -1.0), "delta_pitch": ("mouse_dy", 1.0)}  # yaw grows to the left, pitch downwards
_CS2_STATES = ("health", "armor")
_CS2_KILLS = "events/kills.parquet"
_P2P_VIDEOS = ("video.mp4", "192x192.mp4")
_P2P_MOUSE = {"0": "mouse_left", "1": "mouse_right", "2": "mouse_middle"}
_P2P_PAD = {
    1: "button_a", 2: "button_y", 3: "button_b", 4: "button_x", 5: "dpad_up", 6: "dpad_down", 7: "dpad_left",
    8: "dpad_right", 9: "pad_start", 10: "pad_back", 11: "skill_1", 12: "skill_2",
}  # fmt: skip
_FLOATS: Mapping[int, np.dtype[Any]] = {1: np.dtype("<f8"), 5: np.dtype("<f4")}
_Fields = Mapping[int, Sequence[Any]]  # values by field number: whole numbers, floats, or bytes of texts and messages
_NITROGEN_TABLES = ("actions_processed.parquet", "actions_raw.parquet")
_NITROGEN_BUTTONS = {
    "south": "button_a", "east": "button_b", "west": "button_x", "north": "button_y", "left_shoulder": "skill_1",
    "right_shoulder": "skill_2", "left_trigger": "trigger_lt", "right_trigger": "trigger_rt", "back": "pad_back",
    "start": "pad_start", "guide": "pad_guide", "left_thumb": "pad_left_thumb", "right_thumb": "pad_right_thumb",
    "dpad_up": "dpad_up", "dpad_down": "dpad_down", "dpad_left": "dpad_left", "dpad_right": "dpad_right",
}  # fmt: skip
_STICKS = (("x", 0, 1.0), ("y", 1, -1.0))  # axis, its number, sign
_Row = tuple[float, Sequence[tuple[str, float]]]  # time, and controls with their values


class _RowRecording(Recording):
    """Rows say what is held until the next one; other controls are released. Input is unknown outside of the rows."""

    @abstractmethod
    def _rows(self) -> Iterator[_Row]: ...

    def _changes(self, sources: Sequence[str]) -> Iterator[Change]:
        held, before, interval = {PAUSED}, -math.inf, STEP
        yield before, PAUSED, 1
        for time, values in self._rows():
            named = {name for name, _ in values}
            yield from ((time, name, 0.0) for name in sorted(held - named))
            yield from ((time, name, value) for name, value in values)
            held = {name for name in named if not name.startswith(STATE)}
            before, interval = time, min(time - before, STEP)
        yield before + interval, PAUSED, 1


class Vpt(_RowRecording):
    """Minecraft by the contractors of VPT, or of MineRL: `x.mp4` and `x.jsonl`.

    Source: Baker et al. 2022, arXiv:2206.11795, and data_loader.py of github.com/openai/Video-Pre-Training. A line of
    the log belongs to a picture, 20 a second; the longer of the two is cut. Open menus are cuts. These faults are
    mended as there: an attack key that is stuck from the first line on, and jumps of the camera of more than 180
    degrees. Selected slots of the hotbar become presses of its key, because the wheel is not recorded. Typed text and
    places are not read.
    """

    format, endings, beside, mappings = "vpt", VIDEO_ENDINGS, (".jsonl",), ("vpt",)

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return the videos whose log has the fields of VPT."""
        found = []
        for video in super().find(folder, options):
            if (log := video.companion(".jsonl")).is_file():
                with log.open("rb") as file:
                    head = file.readline(_VPT_HEAD)
                found += [video] if all(mark in head for mark in _VPT_MARKS) else []
        return found

    @property
    def session(self) -> Path:
        """The name without date and time, which pieces of five minutes have."""
        return self.path.with_name(re.sub(r"-\d{8}-\d{6}$", "", self.path.stem))

    def _rows(self) -> Iterator[_Row]:
        log, stuck, slot = self.companion(".jsonl"), False, None
        for time, (number, row) in zip(self.times_F.tolist(), table_rows(log), strict=False):
            with reading(f"{log} line {number}"):
                mouse = row["mouse"]
                new_buttons = mouse.get("newButtons", [])
                stuck = new_buttons == [_ATTACK] if number == 1 else stuck and _ATTACK not in new_buttons
                keys = {control_name(key) for key in row["keyboard"]["keys"]}
                keys |= {_VPT_BUTTONS[button] for button in mouse["buttons"] if button < 3 and (button or not stuck)}
                if slot not in (None, row.get("hotbar")):
                    keys.add(str(row["hotbar"] + 1))
                slot = row.get("hotbar")
                moved = [(f"mouse_{axis}", float(mouse[axis])) for axis in ("dx", "dy")]
                values = [(PAUSED, float(row["isguiopen"])), *((key, 1.0) for key in sorted(keys))]
                values += [(name, counts) for name, counts in moved if abs(counts) <= _MOST_COUNTS]
            yield time, values


class OpenCs2(_RowRecording):
    """A round of one player of OpenCS2: a folder with `video.mp4` and `ticks.parquet`.

    Source: dataset card of huggingface.co/datasets/blanchon/opencs2_dataset. The video has 32 pictures a second, the
    ticks 64 rows, which begin with it. `active` has the held buttons. Turns of the view become `mouse_dx` and
    `mouse_dy`, in degrees. The tick of death is `terminated`; what follows the next picture is a cut. With the table
    `events/kills.parquet` in a folder above, `reward` is the number of opponents that the player killed. The columns of
    that table are not in the card, but known from programs that read it. Names and places are not read.
    """

    format, parts, mappings = "opencs2", ("ticks.parquet", "video.mp4"), ("opencs2",)

    @property
    def files(self) -> Sequence[Path]:
        """The ticks, the video, its preview, and tables of kills."""
        tables = [place / _CS2_KILLS for place in self.path.parents]
        return [*super().files, self.path / "video.preview.mp4", *tables]

    @property
    def session(self) -> Path:
        """The folder of the match, whose rounds and players share pictures."""
        return next((place for place in self.path.parents if place.name.startswith("match_id=")), self.path.parent)

    @cached_property
    def state_columns(self) -> Sequence[str]:
        """Death, kills where there is a table of them, and health and armor where the ticks have them."""
        first, rewarded = next(parquet_rows(self.path / self.parts[0]), {}), self._kills is not None
        return ["terminated", *["reward"] * rewarded, *(name for name in _CS2_STATES if name in first)]

    @cached_property
    def _kills(self) -> Counter[int] | None:
        """Kills of the player by tick; None: there is no table of them, or the folders do not name the round."""
        tables = (place / _CS2_KILLS for place in self.path.parents)
        place = dict(part.split("=", 1) for part in self.path.parts if "=" in part)
        table = next((table for table in tables if table.is_file()), None)
        if table is None or not {"match_id", "map_name", "round", "player"} <= place.keys():
            return None
        sides, match = ("attacker_side", "victim_side"), ("match_id", "map_name")
        where = {"round": int(place["round"]), "attacker_player_slot": int(place["player"])}
        rows = [row for row in parquet_rows(table, ["tick", *sides, *match], where) if row[sides[0]] != row[sides[1]]]
        return Counter(row["tick"] for row in rows if all(str(row[name]) == place[name] for name in match))

    def _rows(self) -> Iterator[_Row]:
        death, kills = math.inf, self._kills
        states = [name for name in _CS2_STATES if name in self.state_columns]
        for row in parquet_rows(self.path / self.parts[0], ["t", "tick", "is_alive", "active", *_TURNS, *states]):
            time = float(row["t"])
            if time >= death + 2 * STEP:  # the step after the death still shows its picture
                break
            keys = re.findall(r"\w+", str(row["active"] or "").lower())  # a list, or a text
            values = [(key, 1.0) for key in keys]
            values += [(name, sign * float(row[column] or 0)) for column, (name, sign) in _TURNS.items()]
            values += [(STATE + name, float(row[name])) for name in states]
            values += [] if kills is None else [(STATE + "reward", float(kills[row["tick"]]))]
            if death == math.inf:
                death = death if row["is_alive"] else time
                values.append((STATE + "terminated", float(time == death)))
            yield time, values


class OpenP2p(_RowRecording):
    """A folder of Recap, as in the data of Open-P2P: `annotation.proto` and its video.

    Source: video_annotation.proto and the loader of github.com/elefant-ai/open-p2p. The annotation is a binary message
    of Protocol Buffers; only its input is read. Annotation k + 1 has the input that was given from picture k to picture
    k + 1: of the player, else of the model that plays in their place. +y of sticks is up. Times, texts and names are
    not read.
    """

    format, parts = "openp2p", ("annotation.proto",)

    @property
    def files(self) -> Sequence[Path]:
        """The annotation and the videos, of which there may be one in each size."""
        return [*super().files, *sorted(self.path.glob("*.mp4"))]

    @cached_property
    def video(self) -> Path:
        """The video in full size, else the small one."""
        for name in _P2P_VIDEOS:
            if (self.path / name).is_file():
                return self.path / name
        raise RecordingError(f"{self.path} has no video; expected {' or '.join(_P2P_VIDEOS)} beside {self.parts[0]}")

    def _rows(self) -> Iterator[_Row]:
        file = self.path / self.parts[0]
        with reading(file):
            frames = _fields(file.read_bytes())[3]
        for index, (time, data) in enumerate(zip(self.times_F.tolist(), frames[1:], strict=False), 1):
            with reading(f"{file}, annotation {index},"):
                frame = _fields(data)
                actions = [_fields(action) for number in (1, 6) for action in frame[number]]
                action = next((action for action in actions if any(action[3])), None)
                values = [(PAUSED, 1.0)] if action is None else list(_action_values(action))
            yield time, values


def _action_values(action: _Fields) -> Iterator[tuple[str, float]]:
    for keyboard in map(_fields, action[2]):
        yield from ((control_name(bytes(key).decode()), 1.0) for key in keyboard[1])
    for mouse in map(_fields, action[4]):
        yield from ((name, 1.0) for key in mouse[9] if (name := _P2P_MOUSE.get(bytes(key).decode())))
        for moved in map(_fields, mouse[3]):
            yield from (("mouse_dx", float(sum(moved[1]))), ("mouse_dy", float(sum(moved[2]))))
        for turned in map(_fields, mouse[4]):
            yield from wheel(sum(turned[2]))
    for pad in map(_fields, action[5]):
        for buttons in map(_fields, pad[1]):
            yield from ((name, 1.0) for number, name in _P2P_PAD.items() if any(buttons[number]))
        for number, side in ((2, "left"), (3, "right")):
            for stick in map(_fields, pad[number]):
                yield from ((f"{side}_stick_{axis}", sum(stick[k])) for axis, k in (("x", 1), ("y", 2)))
        yield from ((name, sum(pad[number])) for name, number in (("trigger_lt", 4), ("trigger_rt", 5)))


def _fields(data: Any) -> _Fields:
    """Read a message of Protocol Buffers (protobuf.dev, encoding)."""
    found, view, place = defaultdict[int, list[Any]](list), memoryview(data), 0
    while place < len(view):
        value: Any
        begin, (key, place) = place, _varint(view, place)
        if key & 7 == 0:
            value, place = _varint(view, place)
        elif key & 7 in _FLOATS:
            value = float(np.frombuffer(view, _FLOATS[key & 7], 1, place)[0])
            place += _FLOATS[key & 7].itemsize
        elif key & 7 == 2:
            size, place = _varint(view, place)
            value, place = view[place : place + size], place + size
        else:
            raise ValueError(f"wire type {key & 7}")
        if not begin < place <= len(view):
            raise ValueError("the message ends too early")
        found[key >> 3].append(value)
    return found


def _varint(view: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = view[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value - (1 << 64) if value >> 63 else value, place


class NitroGen(_RowRecording):
    """A chunk of NitroGen, `actions_raw.parquet` and `metadata.json` in a folder, with a video of one's own.

    Source: dataset card of huggingface.co/datasets/nvidia/NitroGen. A chunk has one row for each picture of 20 seconds,
    with 17 buttons and two sticks, +y down. The dataset has no videos: put that of the chunk into its folder or beside
    it with its name, or the whole one beside it as `VIDEO_ID.mp4`. The controller that is drawn in the picture is made
    black.
    """

    format = "nitrogen"

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return all chunks in or below a folder, those without a video too."""
        return [cls(one, options) for one in {path.parent for name in _NITROGEN_TABLES for path in folder.rglob(name)}]

    @property
    def files(self) -> Sequence[Path]:
        """Tables, and videos of the chunk and the whole one."""
        return [*(self.path / name for name in (*_NITROGEN_TABLES, "metadata.json")), *self._videos]

    @cached_property
    def _videos(self) -> Sequence[Path]:
        names = [self.path.with_name(f"{name}{e}") for name in (self.path.name, self._whole) for e in VIDEO_ENDINGS]
        inside = sorted(path for path in self.path.iterdir() if path.suffix.lower() in VIDEO_ENDINGS)
        return [*inside, *(path for path in names if path.is_file())]

    @property
    def video(self) -> Path:
        """The video of the chunk, else the whole one."""
        if not self._videos:
            raise RecordingError(f"{self.path} has no video; put it into that folder, or {self._whole}.mp4 beside it")
        return self._videos[0]

    @property
    def session(self) -> Path:
        """The folder of the video's chunks."""
        return self.path.parent

    @cached_property
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

    def pictures(self, wanted_F: Times | None = None) -> Iterator[Frame]:
        """Decode the video, from the start of the chunk on."""
        return video_pictures(self.video, start=self._start, wanted_F=wanted_F)

    def _rows(self) -> Iterator[_Row]:
        table = next(self.path / name for name in _NITROGEN_TABLES if (self.path / name).is_file())
        rate = float(self._metadata["chunk_size"]) / self._seconds
        for number, row in enumerate(parquet_rows(table)):
            values = [(name, float(row[column] or 0)) for column, name in _NITROGEN_BUTTONS.items()]
            for side in ("left", "right"):
                values += [(f"{side}_stick_{axis}", sign * float(row[f"j_{side}"][k])) for axis, k, sign in _STICKS]
            yield number / rate, values

    @cached_property
    def _metadata(self) -> Mapping[str, Any]:
        return read_json(self.path / "metadata.json", RecordingError, "get the dataset again")

    @property
    def _whole(self) -> str:
        return self.path.name.partition("_chunk_")[0]

    @property
    def _seconds(self) -> float:
        return float(self._metadata.get("original_video", {}).get("duration") or 20)

    @property
    def _start(self) -> float | None:
        """Start of the chunk in the video; None if the video begins with it."""
        return float(self._metadata["original_video"]["start_time"]) if self.video.stem == self._whole else None
