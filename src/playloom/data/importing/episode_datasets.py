"""Datasets of LeRobot and Minari: a recording for every episode."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from playloom.actions.controller import CONTROLS
from playloom.data.importing.files import Frame, Times, load_picture, parquet_rows, reading, table_rows, video_pictures
from playloom.data.importing.mapping import control_name
from playloom.data.importing.recordings import Change, ImportOptions, Recording, check_sources
from playloom.data.importing.resample import STATE
from playloom.errors import PlayloomError, RecordingError, import_extra
from playloom.json_io import read_json

_VERSIONS = ("v2.0", "v2.1", "v3.0")
_STATE = "observation.state"
_FEATURES = {
    "next.reward": "reward", "reward": "reward", "next.done": "terminated", "next.terminated": "terminated",
    "terminated": "terminated", "next.truncated": "truncated", "truncated": "truncated",
}  # fmt: skip
_OUTCOMES = {"rewards": "reward", "terminations": "terminated", "truncations": "truncated"}
_ACTIONS = ("Discrete", "MultiDiscrete", "MultiBinary", "Box")  # spaces
_JPEG = b"\xff\xd8"
_MOST_STATES = 64  # observations of more numbers are left out


@dataclass(frozen=True)
class _Unreadable(Recording):
    error: PlayloomError

    format = "unreadable"

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        raise self.error

    def _changes(self, sources: Sequence[str]) -> Iterator[Change]:
        raise self.error


class _Episode(Recording):
    index: ClassVar[Sequence[str]]  # patterns of files of a dataset, below its folder

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        found: list[Recording] = []
        for root in {file.parents[name.count("/")] for name in cls.index for file in folder.rglob(name)}:
            try:
                with reading(root):
                    found += cls._read(root, options)
            except PlayloomError as error:
                found.append(_Unreadable(root, options, error))
        return found

    @classmethod
    @abstractmethod
    def _read(cls, root: Path, options: ImportOptions) -> list[Recording]: ...

    @cached_property
    @abstractmethod
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Controls and, with `STATE` before their names, state columns; the last row of these may be missing."""

    @property
    def state_columns(self) -> Sequence[str]:
        return [name.removeprefix(STATE) for name in self._columns if name.startswith(STATE)]

    def _changes(self, sources: Sequence[str]) -> Iterator[Change]:
        check_sources(self.path, (name for name in self._columns if not name.startswith(STATE)), sources)
        for row, time in enumerate(self.times_F.tolist()):
            known = ((name, values_T) for name, values_T in self._columns.items() if row < len(values_T))
            yield from ((time, name, float(values_T[row])) for name, values_T in known)


@dataclass(frozen=True)
class LeRobot(_Episode):
    """An episode of a dataset of LeRobot v2.0, v2.1 or v3.0: a folder with `meta/info.json`.

    Source: huggingface.co/docs/lerobot, dataset format. A row holds the picture at its time and the action that is
    given there. The pictures are those of the first camera, in a video, which v3.0 shares between episodes, or in the
    rows. Numbers of `action` are the controls `action_0`, `action_1` and on, and have the names in `info.json` too.
    Rewards, ends and `observation.state` become state columns. Texts of tasks are not read.
    """

    root: Path  # folder of the dataset
    info: Mapping[str, Any]  # content of `meta/info.json`
    episode: Mapping[str, Any]  # row of the episode in `meta`

    format, index = "lerobot", ("meta/info.json",)

    @classmethod
    def _read(cls, root: Path, options: ImportOptions) -> list[Recording]:
        info = read_json(root / "meta" / "info.json", RecordingError, "get the dataset again")
        if "codebase_version" not in info:  # of another program
            return []
        rows = [(int(row["episode_index"]), row) for row in _episodes(root, info)]
        return [cls(root / f"episode_{number:06d}", options, root, info, row) for number, row in rows]

    @property
    def files(self) -> Sequence[Path]:
        """Metadata, rows, and the videos of all cameras."""
        videos = [self._file("video_path", key) for key in self._features("video")]
        return [self.root / "meta" / "info.json", self._file("data_path"), *videos]

    @property
    def mapping(self) -> tuple[str, ...]:
        """`controller` for actions that are the sixteen controls."""
        return ("controller",) if self._own else super().mapping

    @property
    def notes(self) -> tuple[str, ...]:
        """A sentence where there are more cameras than one."""
        cameras = [*self._features("video"), *self._features("image")]
        return (f"{self.path}: of {len(cameras)} cameras the first was read, {cameras[0]}",) if cameras[1:] else ()

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        """Times of the rows in seconds."""
        return np.array([row["frame_index"] for row in self._rows()]) / float(self.info["fps"])

    def pictures(self, wanted_F: Times | None = None) -> Iterator[Frame]:
        """Decode the part of the video, or the pictures in the rows."""
        for key in self._features("video"):
            start = float(self.episode.get(f"videos/{key}/from_timestamp", 0.0))
            return video_pictures(self._file("video_path", key), start=start, wanted_F=wanted_F)
        for key in self._features("image"):
            loads = (partial(_cell_picture, self.root, row[key]) for row in self._rows(key))
            return zip(self.times_F.tolist(), loads, strict=True)
        raise RecordingError(f"{self.root} has no pictures: expected a feature of dtype video or image")

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        """Of features with the same meaning the first."""
        outcomes = {column: name for name, column in reversed(_FEATURES.items()) if name in self.info["features"]}
        features = [name for name in ("action", *outcomes.values(), _STATE) if name in self.info["features"]]
        rows = [*self._rows(*features)]
        tables = {name: np.reshape([row[name] for row in rows], (len(rows), -1)).T for name in features}
        columns = {f"action_{number}": values_T for number, values_T in enumerate(tables["action"])}
        for name, values_T in zip(self._names("action"), tables["action"], strict=True):
            upside_down = self._own and self.options.schema != "binned" and name.endswith("stick_y")
            columns[name] = 0 - values_T if upside_down else values_T
        columns |= {STATE + column: tables[name][0] for column, name in outcomes.items()}
        states = zip(self._names(_STATE), tables.get(_STATE, ()), strict=True)
        return columns | {STATE + name: values_T for name, values_T in states}

    @property
    def _own(self) -> bool:
        return set(self._names("action")) >= {control.name.lower() for control in CONTROLS}

    def _rows(self, *columns: str) -> Iterator[dict[str, Any]]:
        where = {"episode_index": int(self.episode["episode_index"])}
        return parquet_rows(self._file("data_path"), ["frame_index", *columns], where)

    def _file(self, template: str, key: str = "") -> Path:
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


def _cell_picture(root: Path, cell: Mapping[str, Any]) -> NDArray[np.uint8]:
    data = cell.get("bytes")
    return load_picture(data if data is not None else _inside(root, str(cell["path"])))


def _inside(root: Path, name: str) -> Path:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise RecordingError(f"{root} names the file {name}; expected one in that folder")
    return path


@dataclass(frozen=True)
class Minari(_Episode):
    """An episode of a dataset of Minari: a folder with `metadata.json` and an HDF5 file, or Arrow or Parquet files.

    Source: minari.farama.org, dataset format. Row t has observation t, action t, and the reward and end that follow;
    the last observation has a row of its own, at rest. Pictures are uint8 observations, or those in a dictionary, which
    may be JPEG files; the other numbers become state columns. There are no times: `--rate` says how many rows are a
    second.

    Actions are controls with the names that recordings of environments have: `action_I` is number I of a Box,
    `action_K` is 1 when a Discrete action is K, and `action_I_K` when number I of a MultiDiscrete action is K.
    """

    file: Path  # file of the episode, in HDF5 of all episodes
    number: int
    space: Mapping[str, Any]  # action space of `metadata.json`

    format, index = "minari", ("main_data.hdf5", "*/part-0.arrow", "*/part-0.parquet")

    @classmethod
    def _read(cls, root: Path, options: ImportOptions) -> list[Recording]:
        space, files = _space(root, "action"), {int(file.parent.name): file for file in root.glob("*/part-0.*")}
        if space["type"] not in _ACTIONS:
            raise RecordingError(f"{root} has actions of the space {space['type']}; expected {', '.join(_ACTIONS)}")
        if (file := root / "main_data.hdf5").exists():
            with import_extra("h5py", "import").File(file) as data:
                files = {int(name.removeprefix("episode_")): file for name in data if name.startswith("episode_")}
        return [cls(root / f"episode_{k:06d}", options, file, k, space) for k, file in files.items()]

    @property
    def files(self) -> Sequence[Path]:
        """Metadata, and the file of the episode."""
        return [self.path.parent / "metadata.json", self.file]

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        """Times of the observations in seconds."""
        return np.arange(len(self._columns[STATE + "reward"]) + 1) / self.options.rate

    def pictures(self, wanted_F: Times | None = None) -> Iterator[Frame]:
        """Read the observations one at a time."""
        with self._opened() as columns:
            pictures = next((one for _, one in _leaves(columns["observations"]) if _is_pictures(one)), None)
            if pictures is None:
                raise RecordingError(f"{self.path} has no pictures among its observations; expected uint8 [T, H, W, 3]")
            for row, time in enumerate(self.times_F.tolist()):
                cell = pictures[row]
                yield time, partial(np.asarray, cell) if pictures.ndim == 4 else partial(load_picture, bytes(cell))

    @cached_property
    def _columns(self) -> dict[str, NDArray[Any]]:
        with self._opened() as columns:
            found = {name: np.append(values_T, 0) for name, values_T in _controls(self.space, columns["actions"])}
            for place, values in _leaves(columns["observations"]):
                if not _is_pictures(values) and values.dtype.kind in "biuf" and values[0].size <= _MOST_STATES:
                    name, parts = control_name("_".join(place)), np.reshape(values, (len(values), -1)).T
                    names = [f"{name or 'state'}_{k}" if len(parts) > 1 else name for k in range(len(parts))]
                    found |= {STATE + name: values_T for name, values_T in zip(names, parts, strict=True)}
            return found | {STATE + column: np.array(columns[name]) for name, column in _OUTCOMES.items()}

    @contextmanager
    def _opened(self) -> Iterator[Mapping[str, Any]]:
        """Arrays, datasets of HDF5, or trees of them."""
        if self.file.suffix == ".hdf5":
            with import_extra("h5py", "import").File(self.file) as data:
                yield data[f"episode_{self.number}"]
        else:
            dataset, fs = (import_extra(f"pyarrow.{name}", "import") for name in ("dataset", "fs"))
            files, columns = fs.LocalFileSystem(use_mmap=True), ["observations", "actions", *_OUTCOMES]
            table = dataset.dataset(str(self.file), format=self.file.suffix[1:], filesystem=files).to_table(columns)
            spaces = {"observations": _space(self.path.parent, "observation"), "actions": self.space}
            whole = {name: _of_arrow(table[name].combine_chunks(), spaces.get(name, {})) for name in columns}
            yield {name: column if name == "observations" else column[:-1] for name, column in whole.items()}


def _space(root: Path, kind: str) -> dict[str, Any]:
    metadata = read_json(root / "metadata.json", RecordingError, "get the dataset again")
    return dict(json.loads(metadata[f"{kind}_space"]))


def _of_arrow(column: Any, space: Mapping[str, Any]) -> Any:
    """A column of Arrow in the form of HDF5."""
    inner = space.get("subspaces")
    if inner is not None:
        spaces = inner if isinstance(inner, dict) else {f"_index_{k}": one for k, one in enumerate(inner)}
        return {name: _of_arrow(column.field(name.removeprefix("_index_")), one) for name, one in spaces.items()}
    if hasattr(column.type, "list_size"):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), *space["shape"])
    return column.to_numpy(zero_copy_only=False)


def _leaves(node: Any, *place: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(node, "keys"):
        for name in node:
            yield from _leaves(node[name], *place, name)
    else:
        yield place, node


def _is_pictures(values: Any) -> bool:
    if values.dtype.kind == "O" or (values.dtype == np.uint8 and values.ndim == 2):  # files of any or of one length
        return not isinstance(values[0], str) and bytes(values[0][:2]) == _JPEG
    return bool(values.dtype == np.uint8) and values.ndim == 4 and values.shape[3] == 3


def _controls(space: Mapping[str, Any], actions: NDArray[Any]) -> Iterator[tuple[str, NDArray[Any]]]:
    kind, actions_TD = space["type"], np.reshape(actions, (len(actions), -1))
    if kind == "Discrete":
        yield from ((f"action_{k}", actions_TD[:, 0] == k + space.get("start", 0)) for k in range(space["n"]))
    elif kind == "MultiDiscrete":
        for i, size in enumerate(np.ravel(space["nvec"]).tolist()):
            yield from ((f"action_{i}_{k}", actions_TD[:, i] == k) for k in range(size))
    else:
        yield from ((f"action_{i}", values_T) for i, values_T in enumerate(actions_TD.T))
