"""Datasets of LeRobot v2.0, v2.1 and v3.0: a folder with `meta/info.json`; a recording for every episode.

Source: huggingface.co/docs/lerobot, dataset format. A row holds the picture at its time and the action that is given
there. The pictures are those of the first camera, in a video, which v3.0 shares between episodes, or in the rows.
Numbers of `action` are the controls `action_0`, `action_1` and on, and have the names in `info.json` too. Rewards, ends
and `observation.state` become state columns. Texts of tasks are not read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.actions.controller import CONTROLS
from playloom.data.importing.files import Frame, parquet_rows, reading, table_rows, video_pictures
from playloom.data.importing.names import control_name
from playloom.data.importing.recordings import ImportOptions, Recording, Unreadable, check_sources
from playloom.data.importing.resample import STATE, InputChange
from playloom.errors import PlayloomError, RecordingError
from playloom.json_io import read_json
from playloom.media.images import read_picture

_VERSIONS = ("v2.0", "v2.1", "v3.0")
_OUTCOMES = {
    "next.reward": "reward", "reward": "reward", "next.done": "terminated", "next.terminated": "terminated",
    "terminated": "terminated", "next.truncated": "truncated", "truncated": "truncated",
}  # fmt: skip


@dataclass(frozen=True)
class LeRobot(Recording):
    """An episode of a LeRobot dataset."""

    root: Path
    """Folder of the dataset."""
    info: Mapping[str, Any]
    """Content of `meta/info.json`."""
    episode: Mapping[str, Any]
    """Row of the episode in `meta`."""

    format = "lerobot"

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return all episodes of the datasets in or below a folder."""
        found: list[Recording] = []
        for path in folder.rglob("meta/info.json"):
            root = path.parents[1]
            try:
                info = read_json(path, RecordingError, "get the dataset again")
                if "codebase_version" not in info:  # of another program
                    continue
                with reading(path):
                    episodes = [(int(row["episode_index"]), row) for row in _episodes(root, info)]
                found += [cls(root / f"episode_{k:06d}", options, root, info, row) for k, row in episodes]
            except PlayloomError as error:
                found.append(Unreadable(root, options, error))
        return found

    @property
    def files(self) -> Sequence[Path]:
        """The videos of all cameras."""
        return [self._file("video_path", key) for key in self._features("video")]

    @property
    def mapping(self) -> tuple[str, ...]:
        """`controller` for actions that are the sixteen controls."""
        return ("controller",) if self._own else super().mapping

    @property
    def state_columns(self) -> Sequence[str]:
        """Rewards, ends and `observation.state`."""
        return [*self._outcomes.values(), *self._names("observation.state")]

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where there are more cameras than one."""
        cameras = [*self._features("video"), *self._features("image")]
        return (f"{self.path}: of {len(cameras)} cameras the first was read, {cameras[0]}",) if cameras[1:] else ()

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        """Times of the rows in seconds."""
        return np.array([row["time"] for row in self._rows()], np.float64)

    def pictures(self) -> Iterator[Frame]:
        """Decode the part of the video, or the pictures in the rows."""
        for key in self._features("video"):
            start = float(self.episode.get(f"videos/{key}/from_timestamp", 0.0))
            return video_pictures(self._file("video_path", key), start=start)
        for key in self._features("image"):
            return ((row["time"], partial(_picture, self.root, row[key])) for row in self._rows(key))
        raise RecordingError(f"{self.root} has no pictures: expected a feature of dtype video or image")

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the rows."""
        names, states = self._names("action"), self._names("observation.state")
        numbered = [f"action_{number}" for number in range(len(names))]
        check_sources(self.root, [*numbered, *names], sources)
        kept = ["observation.state"] if states else []
        for row in self._rows("action", *self._outcomes, *kept):
            time = row["time"] + self.options.offset
            actions, state = (np.reshape(row.get(key, ()), -1).tolist() for key in ("action", "observation.state"))
            values = [*zip(names, actions, strict=True), *zip(numbered, actions, strict=True)]
            if self._own and self.options.schema == "named":
                values = [(name, 0 - value if name.endswith("stick_y") else value) for name, value in values]
            found = [(column, np.reshape(row[name], -1)[0]) for name, column in self._outcomes.items()]
            found += zip(states, state, strict=True)
            yield from (InputChange(time, name, float(value)) for name, value in values)
            yield from (InputChange(time, STATE + name, float(value)) for name, value in found)

    @cached_property
    def _outcomes(self) -> Mapping[str, str]:
        """State columns by feature; of features with the same meaning the first."""
        present = {column: name for name, column in reversed(_OUTCOMES.items()) if name in self.info["features"]}
        return {name: column for column, name in present.items()}

    @property
    def _own(self) -> bool:
        return set(self._names("action")) >= {control.name.lower() for control in CONTROLS}

    def _rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        """The rows of the episode, with their times in seconds as `time`."""
        where = "episode_index", int(self.episode["episode_index"])
        for row in parquet_rows(self._file("data_path"), ["frame_index", *columns], where):
            yield {**row, "time": row["frame_index"] / float(self.info["fps"])}  # timestamp has only 32 bits

    def _file(self, template: str, key: str = "") -> Path:
        """A file of the episode, by the template of its path in `info.json`."""
        index, place = int(self.episode["episode_index"]), f"videos/{key}" if key else "data"
        name = str(self.info[template]).format(
            video_key=key,
            episode_index=index,
            episode_chunk=index // int(self.info.get("chunks_size") or 1000),
            chunk_index=int(self.episode.get(f"{place}/chunk_index", 0)),
            file_index=int(self.episode.get(f"{place}/file_index", 0)),
        )
        return _inside(self.root, name)

    def _features(self, dtype: str) -> list[str]:
        return [key for key, feature in self.info["features"].items() if feature.get("dtype") == dtype]

    def _names(self, feature: str) -> list[str]:
        """Names of the numbers of a feature."""
        if feature not in self.info["features"]:
            return []
        given = self.info["features"][feature]
        names, count = given.get("names"), int(np.prod(given["shape"]))
        if isinstance(names, dict) and len(names) == 1:
            (names,) = names.values()
        if isinstance(names, list) and len(names) == count and all(isinstance(name, str) for name in names):
            return [control_name(name) for name in names]
        return [f"{feature.split('.')[-1]}_{number}" for number in range(count)]


def _episodes(root: Path, info: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    version = str(info["codebase_version"])
    if version not in _VERSIONS or info.get("storage_format", "parquet") != "parquet" or "features" not in info:
        raise RecordingError(f"{root} is LeRobot {version}; expected {', '.join(_VERSIONS)} in Parquet files")
    if version == "v3.0":
        keys = [f"videos/{key}" for key, feature in info["features"].items() if feature.get("dtype") == "video"]
        places = [f"{place}/{part}_index" for place in ("data", *keys) for part in ("chunk", "file")]
        for path in sorted((root / "meta" / "episodes").rglob("*.parquet")):
            yield from parquet_rows(path, ["episode_index", *places, *(f"{key}/from_timestamp" for key in keys)])
    else:
        yield from (row for _, row in table_rows(root / "meta" / "episodes.jsonl"))


def _picture(root: Path, cell: Mapping[str, Any]) -> NDArray[np.uint8]:
    data = cell.get("bytes")
    return read_picture(data if data is not None else _inside(root, str(cell["path"]))).frame_HWC


def _inside(root: Path, name: str) -> Path:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise RecordingError(f"{root} names the file {name}; expected one in that folder")
    return path
