"""Datasets of Minari: a folder with `main_data.hdf5` and `metadata.json`; a recording for every episode.

Source: minari.farama.org, dataset format. Row t has observation t, action t, and the reward and end that follow; the
last observation has a row of its own, at rest. Pictures are uint8 observations, or those in a dictionary, which may be
JPEG files; the other numbers become state columns. There are no times: `--rate` says how many rows are a second.

Actions are controls with the names that recordings of environments have: `action_I` is number I of a Box, `action_K` is
1 when a Discrete action is K, and `action_I_K` when number I of a MultiDiscrete action is K.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from playloom.data.importing.files import Frame, reading
from playloom.data.importing.names import control_name
from playloom.data.importing.recordings import ImportOptions, Recording, Unreadable, check_sources
from playloom.data.importing.resample import STATE, InputChange
from playloom.errors import MissingExtraError, PlayloomError, RecordingError
from playloom.json_io import read_json
from playloom.media.images import read_picture

_FILE = "main_data.hdf5"
_OUTCOMES = {"rewards": "reward", "terminations": "terminated", "truncations": "truncated"}
_JPEG = b"\xff\xd8"
_MOST_STATES = 64
"""Observations of more numbers are left out."""


@dataclass(frozen=True)
class Minari(Recording):
    """An episode of a Minari dataset."""

    group: str
    """Group of the episode in the file."""
    space: Mapping[str, Any]
    """Action space of `metadata.json`."""

    format = "minari"

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return all episodes of the datasets in or below a folder."""
        found: list[Recording] = []
        for file in folder.rglob(_FILE):
            try:
                metadata = read_json(file.with_name("metadata.json"), RecordingError, "get the dataset again")
                with reading(file), _opened(file) as data:
                    space = json.loads(metadata["action_space"])
                    numbers = [int(name.removeprefix("episode_")) for name in data if name.startswith("episode_")]
                found += [cls(file.with_name(f"episode_{k:06d}"), options, f"episode_{k}", space) for k in numbers]
            except PlayloomError as error:
                found.append(Unreadable(file, options, error))
        return found

    @property
    def files(self) -> Sequence[Path]:
        """The file of all episodes."""
        return [self.path.with_name(_FILE)]

    @cached_property
    def state_columns(self) -> Sequence[str]:
        """Rewards, ends, and numbers of the observations."""
        return [*_OUTCOMES.values(), *self._tables[1]]

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        """Times of the observations in seconds."""
        return np.arange(len(self._tables[0]["rewards"]) + 1) / self.options.rate

    def pictures(self) -> Iterator[Frame]:
        """Read the observations one at a time."""
        with _opened(self.path.with_name(_FILE)) as data:
            pictures = next((d for d in _datasets(data[self.group]["observations"]) if _is_pictures(d)), None)
            if pictures is None:
                raise RecordingError(f"{self.path} has no pictures among its observations; expected uint8 [T, H, W, 3]")
            for row, time in enumerate(self.times_F.tolist()):
                yield time, partial(_picture, pictures[row])

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read actions, rewards, ends and numbers of the observations."""
        tables, states = self._tables
        controls = _controls(self.space, tables["actions"])
        check_sources(self.path, controls, sources)
        for row, time in enumerate((self.times_F + self.options.offset).tolist()):
            last = row == len(tables["rewards"])
            for name, values_T in controls.items():
                yield InputChange(time, name, 0.0 if last else float(values_T[row]))
            for name, column in _OUTCOMES.items():
                if not last:
                    yield InputChange(time, STATE + column, float(tables[name][row]))
            for name, values_T in states.items():
                yield InputChange(time, STATE + name, float(values_T[row]))

    @cached_property
    def _tables(self) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[Any]]]:
        """Actions, rewards and ends; numbers of the observations by name."""
        with _opened(self.path.with_name(_FILE)) as data:
            episode, states = data[self.group], dict[str, NDArray[Any]]()
            for dataset in _datasets(episode["observations"]):
                if not _is_pictures(dataset) and dataset.dtype.kind in "biuf" and dataset[0].size <= _MOST_STATES:
                    name = control_name(dataset.name.partition("/observations")[2].strip("/").replace("/", "_"))
                    columns = np.reshape(dataset[()], (len(dataset), -1)).T
                    names = [f"{name or 'state'}_{k}" if len(columns) > 1 else name for k in range(len(columns))]
                    states |= dict(zip(names, columns, strict=True))
            return {name: episode[name][()] for name in ("actions", *_OUTCOMES)}, states


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import h5py
    except ImportError as error:
        raise MissingExtraError.of("h5py", "import") from error
    with h5py.File(path) as data:
        yield data


def _datasets(node: Any) -> Iterator[Any]:
    """All datasets in or below a node of HDF5."""
    if hasattr(node, "keys"):
        for name in node:
            yield from _datasets(node[name])
    else:
        yield node


def _is_pictures(dataset: Any) -> bool:
    if dataset.dtype.kind == "O" or (dataset.dtype == np.uint8 and dataset.ndim == 2):  # files of any or of one length
        return bytes(dataset[0][:2]) == _JPEG
    return dataset.dtype == np.uint8 and dataset.ndim == 4 and dataset.shape[3] == 3


def _picture(cell: Any) -> NDArray[np.uint8]:
    return np.asarray(cell) if np.ndim(cell) == 3 else read_picture(bytes(cell)).frame_HWC


def _controls(space: Mapping[str, Any], actions: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Controls by name, each [T]."""
    kind, actions_TD = space["type"], np.reshape(actions, (len(actions), -1))
    if kind == "Discrete":
        return {f"action_{k}": actions_TD[:, 0] == k + space.get("start", 0) for k in range(space["n"])}
    if kind == "MultiDiscrete":
        sizes = np.ravel(space["nvec"]).tolist()
        return {f"action_{i}_{k}": actions_TD[:, i] == k for i, size in enumerate(sizes) for k in range(size)}
    if kind in ("Box", "MultiBinary"):
        return {f"action_{i}": actions_TD[:, i] for i in range(actions_TD.shape[1])}
    raise RecordingError(f"the actions are a {kind} space; expected Discrete, MultiDiscrete, MultiBinary or Box")
