"""A recording as every reader gives it, how its clips are decoded, and recordings with a row of controls a picture."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.actions.codec import REST_VALUES, Schema, decode_values
from playloom.actions.controller import CONTROLS
from playloom.data.importing.files import (
    ACTIONS_FILE,
    Frame,
    Load,
    Times,
    VideoPicture,
    load_picture,
    pictures_in,
    reading,
    video_pictures,
    video_times,
)
from playloom.data.importing.resample import PICTURE_SLACK, STEP, InputChange, Run, last_pictures, step_times
from playloom.data.parallel import write_rows
from playloom.data.recording import Encode, encode_rows
from playloom.errors import ActionError, BadInputError, PlayloomError, RecordingError, did_you_mean
from playloom.media.action_table import read_actions
from playloom.media.clips import actions_of, read_clip, read_npz
from playloom.media.images import ResizeMode, fit_picture

Rectangle = tuple[int, int, int, int]
"""x, y, width, height in pixels."""
Change = tuple[float, str, float]
"""Time, control and value of an `InputChange`, without the offset of the options."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of an import."""

    frame_size: tuple[int, int]
    """Height and width of the pictures."""
    resize: ResizeMode = "crop"
    """Resize mode of pictures of another shape."""
    masks: tuple[Rectangle, ...] = ()
    """Parts of the recordings' pictures to make black before resizing."""
    mapping: tuple[str, ...] = ()
    """Names or paths of mappings, see `read_mapping`; empty: those of the format."""
    format: str = "auto"
    """A reader's format; `auto`: every file in its own."""
    schema: Schema | Literal["auto"] = "named"
    """Encoding of the sixteen controls in tables."""
    offset: float = 0.0
    """Seconds to add to the times of the input."""
    estimate_clock: bool | None = None
    """True: estimate what else to add, see `playloom.data.importing.clock`; None: only where the start of a log was
    assumed."""
    rate: float = 10.0
    """Rows a second of data without times."""
    split: str | None = None
    """Split of all recordings; None: of every twenty the tenth is for validation and the twentieth for tests; of fewer
    than ten the last one is for validation; of a single one its last tenth."""

    def __post_init__(self) -> None:
        if self.split not in (None, *SPLITS):
            raise BadInputError(f"unknown split {self.split!r}; {did_you_mean(self.split or '', SPLITS)}")
        if not 0.1 <= self.rate <= 1000:
            raise BadInputError(f"the rate is wrong: got {self.rate:g}, expected 0.1 to 1000 rows a second")

    def reduce(self, load: Load, masks: Sequence[Rectangle]) -> NDArray[np.uint8]:
        """Return a picture, RGB, in the size of the dataset, with more masks."""
        masks = (*self.masks, *masks)
        if self.resize == "crop" and not masks and isinstance(load, VideoPicture):
            frame_HWC = load(self.frame_size)  # a faster way
        else:
            frame_HWC = load().copy() if masks else load()
        for x, y, width, height in masks:
            frame_HWC[y : y + height, x : x + width] = 0
        return fit_picture(frame_HWC, self.frame_size, self.resize, area=True)[0]


@dataclass(frozen=True)
class Recording(ABC):
    """Pictures and input of one session. Methods raise a PlayloomError when a file cannot be used."""

    path: Path
    """File or folder that names the recording."""
    options: ImportOptions

    format: ClassVar[str]
    """Name of the format, for `--format`."""
    endings: ClassVar[tuple[str, ...]] = ()
    """Endings of the files that `find` looks for."""
    beside: ClassVar[tuple[str, ...]] = ()
    """Endings of other files of such a recording, with its name."""
    parts: ClassVar[tuple[str, ...]] = ()
    """Names of the files of a recording that is a folder, the video last; empty: it is a file."""
    mappings: ClassVar[tuple[str, ...]] = ("wasd-mouse", "xinput")
    """Names of the mappings that fit this format."""

    @classmethod
    def find(cls, folder: Path, options: ImportOptions) -> list[Recording]:
        """Return the recordings of this format in or below a folder, without hidden files."""
        if cls.parts:
            folders = (file.parent for file in folder.rglob(cls.parts[0]))
            return [cls(path, options) for path in folders if all((path / name).is_file() for name in cls.parts)]
        files = (path for path in folder.rglob("*") if path.suffix.lower() in cls.endings)
        return [cls(path, options) for path in files if path.is_file() and not path.name.startswith(".")]

    @property
    def files(self) -> Sequence[Path]:
        """All files that it may have: no other format takes them, and a finished import compares them."""
        parts = [self.path / name for name in self.parts]
        return [self.path, *parts, *map(self.companion, self.beside)]

    def companion(self, ending: str) -> Path:
        """Return the file with its name and this ending, in lower or upper case; it may not exist."""
        lower, upper = self.path.with_suffix(ending), self.path.with_suffix(ending.upper())
        return upper if upper.is_file() and not lower.is_file() else lower

    @property
    def video(self) -> Path:
        """The video with the pictures."""
        return self.path / self.parts[-1] if self.parts else self.path

    @property
    def session(self) -> Path:
        """Name of the session; recordings of one session go to one split."""
        return self.path

    @property
    def mapping(self) -> tuple[str, ...]:
        """Names of the mappings that fit this recording."""
        return self.mappings

    @property
    def masks(self) -> Sequence[Rectangle]:
        """Parts of the pictures to make black, besides those of the options."""
        return ()

    @property
    def state_columns(self) -> Sequence[str]:
        """Names of the state columns among the changes, where they have `STATE` in front."""
        return ()

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about what was assumed."""
        return ()

    @property
    def clock_assumed(self) -> bool:
        """True if the input's clock may differ from that of the pictures."""
        return False

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        """Sorted times of all pictures in seconds, taken without decoding them."""
        return video_times(self.video)

    def pictures(self, wanted_F: Times | None = None) -> Iterator[Frame]:
        """Read the pictures one at a time; only those of the wanted times, some of `times_F`, have to be given."""
        return video_pictures(self.video, wanted_F=wanted_F)

    def changes(self, sources: Sequence[str]) -> Iterator[InputChange]:
        """Read the input in order of time; other controls than these may be left out."""
        for time, control, value in self._changes(sources):
            yield InputChange(time + self.options.offset, control, value)

    @abstractmethod
    def _changes(self, sources: Sequence[str]) -> Iterator[Change]: ...


def check_sources(place: Path, controls: Iterable[str], sources: Sequence[str]) -> None:
    """Raise a RecordingError unless the mapping's sources have some of a recording's controls."""
    names = list(dict.fromkeys(controls))
    if not set(names) & set(sources):
        raise RecordingError(f"{place} has no control that the mapping uses: got {', '.join(names)}; give a --mapping")


class ClipEncoder(NamedTuple):
    """The tokenizer of an import that stores codes."""

    load: Callable[[], Encode]  # returns the encoder; called once in every worker, to which it is pickled
    slots: int  # codes of a picture: N
    fingerprint: str  # name of the tokenizer's weights


def decode(recording: Recording, clips: Sequence[Run], encoder: ClipEncoder | None) -> Iterator[NDArray[Any]]:
    """Give frames, uint8 [H, W, 3], or with an encoder codes, uint16 [N], of every step of the clips."""
    frames = _frames(recording, clips)
    return frames if encoder is None else encode_rows(_loaded(encoder), frames)


def decode_file(
    recording: Recording, clips: Sequence[Run], encoder: ClipEncoder | None, path: Path
) -> Path | PlayloomError:
    """Write the rows of `decode` into a `.npy` file; return a fault, as other recordings do not depend on it."""
    try:
        with reading(recording.path):
            write_rows(path, decode(recording, clips, encoder), sum(clip.steps for clip in clips))
    except PlayloomError as error:
        return error
    return path


@lru_cache(maxsize=1)
def _loaded(encoder: ClipEncoder) -> Encode:
    return encoder.load()


def _frames(recording: Recording, clips: Sequence[Run]) -> Iterator[NDArray[np.uint8]]:
    load, reduced_HWC = None, np.empty(0, np.uint8)
    times_F = recording.times_F
    last_T = np.searchsorted(times_F, step_times(clips) + PICTURE_SLACK, side="right") - 1
    wanted_F = times_F[np.unique(np.maximum(last_T, 0))]
    for latest in last_pictures(recording.pictures(wanted_F), clips) if clips else ():
        if latest is not load:
            load, reduced_HWC = latest, recording.options.reduce(latest, recording.masks)
        yield reduced_HWC


class _Rows(Recording):
    """One row of the sixteen controls for each picture, ten a second."""

    mappings = ("controller",)

    @abstractmethod
    def _values(self) -> NDArray[np.uint8]: ...

    @cached_property
    def times_F(self) -> NDArray[np.float64]:
        return np.arange(len(self._values()), dtype=np.float64) * STEP

    def _changes(self, sources: Sequence[str]) -> Iterator[Change]:
        for row, values_A in enumerate(self._values()):
            for control, value in zip(CONTROLS, decode_values(values_A).tolist(), strict=True):
                yield row * STEP, control.name.lower(), value


class PictureFolder(_Rows):
    """A folder of pictures with an `actions.csv`; the last picture's action may be missing and is then rest."""

    format, parts = "pictures", (ACTIONS_FILE,)

    @property
    def files(self) -> Sequence[Path]:
        """The table and the pictures."""
        return [*super().files, *pictures_in(self.path)]

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences about columns left out and values rounded."""
        return read_actions(self.path / ACTIONS_FILE, self.options.schema).notes

    def pictures(self, wanted_F: Times | None = None) -> Iterator[Frame]:
        """Read the pictures in natural order."""
        return ((row * STEP, partial(load_picture, path)) for row, path in enumerate(pictures_in(self.path)))

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

    format, endings = "npz", (".npz",)

    def pictures(self, wanted_F: Times | None = None) -> Iterator[Frame]:
        """Read all pictures at once."""
        frames = enumerate(read_clip(self.path).frames_THWC)
        return ((row * STEP, partial(np.asarray, frame_HWC)) for row, frame_HWC in frames)

    def _values(self) -> NDArray[np.uint8]:
        actions = read_npz(self.path, ("actions",))["actions"]
        return actions_of(self.path, "actions", actions, len(actions))
