"""A recording as every reader gives it, and the two forms that have one row of controls a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema, decode_values, rows_to_values
from playloom.actions.controller import CONTROLS
from playloom.data.importing.resample import STEP, InputChange
from playloom.data.prompt_data import ACTIONS_FILE, pictures_in
from playloom.errors import ActionError
from playloom.media.action_table import read_actions
from playloom.media.clips import clips_below, read_clip, read_npz
from playloom.media.images import read_picture

Frame = tuple[float, Callable[[], NDArray[np.uint8]]]
"""Time of a picture in seconds, and a function that returns its RGB values [H, W, 3]."""


@dataclass(frozen=True, kw_only=True)
class ReaderOptions:
    """Options of the readers."""

    schema: Schema | Literal["auto"] = "named"
    """Encoding of the sixteen controls in tables."""
    offset: float = 0.0
    """Seconds to add to the times of the input."""


@dataclass(frozen=True)
class Recording(ABC):
    """Pictures and input of one session. Methods raise a PlayloomError when a file cannot be used."""

    path: Path
    """File or folder that names the recording."""
    options: ReaderOptions

    format: ClassVar[str]
    """Name of the format, for `--format`."""

    @classmethod
    @abstractmethod
    def find(cls, folder: Path, options: ReaderOptions) -> list[Recording]:
        """Return the recordings of this format in or below a folder."""

    @property
    def files(self) -> Sequence[Path]:
        """Files of the recording that another format would take too."""
        return [self.path]

    @property
    def mapping(self) -> tuple[str, ...]:
        """Names of the mappings that fit this format."""
        return ("wasd-mouse", "xinput")

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was assumed."""
        return ()

    @abstractmethod
    def picture_times(self) -> NDArray[np.float64]:
        """Return the sorted times of all pictures in seconds, without decoding them."""

    @abstractmethod
    def pictures(self) -> Iterator[Frame]:
        """Read the pictures one at a time."""

    @abstractmethod
    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the input in order of time; other controls than these may be left out."""


class _Rows(Recording):
    """One row of the sixteen controls for each picture, ten a second."""

    @property
    def mapping(self) -> tuple[str, ...]:
        """`controller`."""
        return ("controller",)

    @abstractmethod
    def _values(self) -> NDArray[np.uint8]:
        """Action values [T, 16]."""

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Give all controls in every row."""
        names = [control.name.lower() for control in CONTROLS]
        for row, values_A in enumerate(self._values()):
            for name, value in zip(names, decode_values(values_A).tolist(), strict=True):
                yield InputChange(row * STEP + self.options.offset, name, value)


class PictureFolder(_Rows):
    """A folder of pictures with an `actions.csv`; the last picture's action may be missing and is then rest."""

    format = "pictures"

    @classmethod
    def find(cls, folder: Path, options: ReaderOptions) -> list[Recording]:
        """Return all folders with an `actions.csv`."""
        return [cls(table.parent, options) for table in folder.rglob(ACTIONS_FILE)]

    def picture_times(self) -> NDArray[np.float64]:
        """Return a time for every picture file, 0.1 s apart."""
        return np.arange(len(pictures_in(self.path)), dtype=np.float64) * STEP

    def pictures(self) -> Iterator[Frame]:
        """Read the files in natural order."""
        for row, path in enumerate(pictures_in(self.path)):
            yield row * STEP, partial(_read, path)

    def _values(self) -> NDArray[np.uint8]:
        table, pictures = self.path / ACTIONS_FILE, len(pictures_in(self.path))
        values_TA = read_actions(table, self.options.schema).values_SA
        if len(values_TA) == pictures - 1:
            values_TA = np.concatenate([values_TA, REST_VALUES[None]])
        if len(values_TA) != pictures:
            raise ActionError(f"{table} has {len(values_TA)} rows for {pictures} pictures; expected a row a picture")
        return values_TA


class NpzClip(_Rows):
    """An `.npz` of the dataset published with WHAM: `images` [T, 3, H, W] and `actions` [T, 16]."""

    format = "npz"

    @classmethod
    def find(cls, folder: Path, options: ReaderOptions) -> list[Recording]:
        """Return all `.npz` files."""
        return [cls(path, options) for path in clips_below(folder)]

    def picture_times(self) -> NDArray[np.float64]:
        """Return a time for every row of `actions`, 0.1 s apart."""
        return np.arange(len(read_npz(self.path, ("actions",))["actions"]), dtype=np.float64) * STEP

    def pictures(self) -> Iterator[Frame]:
        """Read the array `images`."""
        frames_THWC = read_clip(self.path).frames_THWC
        for row in range(len(frames_THWC)):
            yield row * STEP, partial(frames_THWC.__getitem__, row)

    def _values(self) -> NDArray[np.uint8]:
        try:
            return rows_to_values(read_npz(self.path, ("actions",))["actions"], "binned")
        except ActionError as error:
            raise ActionError(f"{self.path}: {error} (binned schema)") from error


def _read(path: Path) -> NDArray[np.uint8]:
    return read_picture(path).frame_HWC
