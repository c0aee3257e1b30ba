"""A frame dataset of all recordings of a folder."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.atomic_io import folder_lock
from playloom.data.dataset import INDEX, DatasetWriter, FrameDataset, Progress
from playloom.data.importing.mapping import ControlMapping, read_mapping
from playloom.data.importing.owamcap import OwaMcap
from playloom.data.importing.owlcontrol import OwlControl
from playloom.data.importing.recordings import Frame, NpzClip, PictureFolder, ReaderOptions, Recording
from playloom.data.importing.resample import (
    MAX_GAP,
    PICTURE_SLACK,
    STEP,
    Run,
    cut_runs,
    find_runs,
    resample,
    step_times,
)
from playloom.data.importing.video_log import VideoLog
from playloom.errors import BadInputError, PlayloomError, RecordingError, StorageError, did_you_mean
from playloom.media.images import ResizeMode, fit_picture

FORMATS: Mapping[str, type[Recording]] = {
    reader.format: reader for reader in (OwaMcap, OwlControl, PictureFolder, NpzClip, VideoLog)
}
"""Readers by format; a file belongs to the first of them that finds it."""
SPLITS = ("train", "validation", "test")
_CYCLE = 20
_KEPT = {9: "validation", 19: "test"}
"""Split rule: of twenty recordings, sorted by name, the tenth is for validation and the twentieth for testing."""
_REPORT_EVERY = 50


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """Options of an import."""

    frame_size: tuple[int, int]
    """Height and width of the pictures."""
    resize: ResizeMode = "crop"
    """Resize mode of pictures of another shape."""
    masks: tuple[tuple[int, int, int, int], ...] = ()
    """Rectangles x, y, width, height in pixels of the recordings, to make black before resizing."""
    mapping: tuple[str, ...] = ()
    """Names or paths of mappings, see `read_mapping`; empty: those of the format."""
    reader: ReaderOptions = field(default_factory=ReaderOptions)
    """Options of the readers."""
    format: str = "auto"
    """One of `FORMATS`; `auto`: every file in its own."""
    split: str | None = None
    """Split of all recordings; None: of every twenty the tenth is for validation and the twentieth for tests; of fewer
    than ten the last one is for validation; of a single one its last tenth."""

    def __post_init__(self) -> None:
        for name, choices in (("split", SPLITS), ("format", ("auto", *FORMATS))):
            value = getattr(self, name)
            if value is not None and value not in choices:
                raise BadInputError(f"unknown {name} {value!r}; {did_you_mean(value, choices)}")

    def reduce(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Mask and resize a picture, RGB [H, W, 3]."""
        if self.masks:
            frame_HWC = frame_HWC.copy()
        for x, y, width, height in self.masks:
            frame_HWC[y : y + height, x : x + width] = 0
        return fit_picture(frame_HWC, self.frame_size, self.resize, area=True)[0]


class Imported(NamedTuple):
    """Result of an import."""

    dataset: FrameDataset
    notes: tuple[str, ...]
    """Sentences about what was found, cut, fitted and clipped."""


class _Plan(NamedTuple):
    """A recording with the steps that can be used."""

    recording: Recording
    mapping: tuple[str, ...]
    clips: list[Run]

    @property
    def steps(self) -> int:
        return sum(clip.steps for clip in self.clips)


class _Piece(NamedTuple):
    """Steps of a clip that go to one split."""

    clip: Run
    split: str


def find_recordings(folder: Path | str, options: ImportOptions) -> list[Recording]:
    """Return all recordings in or below a folder, sorted; RecordingError when there is none."""
    place = Path(folder)
    if not place.is_dir():
        raise RecordingError(f"{folder} is not a folder; expected one with recordings in it")
    found: list[Recording] = []
    taken: set[Path] = set()
    for name, reader in FORMATS.items():
        if options.format in ("auto", name):
            new = [r for r in reader.find(place, options.reader) if r.path not in taken]
            taken.update(path for recording in new for path in recording.files)
            found += new
    if not found:
        raise RecordingError(
            f"{folder} holds no recording{'' if options.format == 'auto' else f' of the format {options.format}'}; "
            "docs/own_game.md lists the formats"
        )
    return sorted(found, key=lambda recording: recording.path)


def import_recordings(
    folder: Path | str,
    out: Path | str,
    options: ImportOptions,
    *,
    progress: Progress | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> Imported:
    """Make a frame dataset of all recordings in or below a folder; resumes an interrupted call.

    A call that fails leaves nothing behind, unless the disk is full. When `out` holds the finished dataset of these
    recordings, it is opened. `progress` is called with the steps done and in all, `on_skip` with path and fault of each
    unusable recording; None: the first one is an error.
    """
    recordings = find_recordings(folder, options)
    build = _Build(Path(folder), Path(out), options, progress, on_skip)
    found = Counter(recording.format for recording in recordings)
    build.notes.append(f"found: {', '.join(f'{name} ({count})' for name, count in sorted(found.items()))}")
    if (build.out / INDEX).exists():
        return Imported(build.finished(recordings), tuple(build.notes))
    plans = build.plan(recordings)
    with folder_lock(out):
        height, width = options.frame_size
        total = sum(plan.steps for plan in plans)
        writer = FrameDataset.create(build.out, total, height=height, width=width, state_columns=())
        try:
            writer.finish(build.fill(writer, plans))
        except StorageError:  # a full disk and Ctrl-C keep what was done
            raise
        except Exception:
            writer.discard()
            raise
    return Imported(FrameDataset.open(build.out), tuple(build.notes))


class _Build:
    """The stages of `import_recordings`, with what they share."""

    def __init__(
        self,
        place: Path,
        out: Path,
        options: ImportOptions,
        progress: Progress | None,
        on_skip: Callable[[str], None] | None,
    ) -> None:
        self.place, self.out, self.options = place, out, options
        self.notes: list[str] = []
        self._progress, self._on_skip, self._last_skip = progress, on_skip, ""
        self._mappings: dict[tuple[str, ...], ControlMapping] = {}

    def finished(self, recordings: Sequence[Recording]) -> FrameDataset:
        """Check that a finished dataset was made of these recordings, and report those that it lacks."""
        dataset = FrameDataset.open(self.out)
        stored = {str(span.meta.get("take")) for span in dataset.spans}
        splits = {str(span.meta.get("split")) for span in dataset.spans}
        settings = {str(span.meta.get("settings")) for span in dataset.spans}
        names = {self._name(recording): recording for recording in recordings}
        split = self.options.split
        if not stored <= set(names) or settings != {self._settings()} or (split and splits != {split}):
            raise RecordingError(
                f"{dataset.folder} holds a finished dataset of other takes or settings; choose another folder, or "
                "remove it first"
            )
        for name, recording in names.items():
            if name not in stored:
                reason = f"{recording.path} is not in the finished dataset {self.out}; remove that to import the take"
                self._skip(recording, RecordingError(reason))
        return dataset

    def plan(self, recordings: Sequence[Recording]) -> list[_Plan]:
        """Find the usable steps of every recording, and fit the mappings to their input."""
        plans, counts = [], dict[tuple[str, ...], list[NDArray[np.float32]]]()
        for recording in recordings:
            try:
                names = self.options.mapping or recording.mapping
                mapping = self._mappings.setdefault(names, read_mapping(names))
                times_F = recording.picture_times()
                runs = find_runs(times_F)
                input_TC = _input(recording, mapping, runs)
                clips = cut_runs(runs, input_TC[:, -1] == 0)
                if not clips:
                    raise RecordingError(f"{recording.path} has no two steps in a row with pictures and input")
            except PlayloomError as error:
                self._skip(recording, error)
                continue
            plans.append(_Plan(recording, names, clips))
            self.notes += recording.notes
            counts.setdefault(names, []).append(mapping.mouse_counts(input_TC))
            kept, whole = STEP * plans[-1].steps, float(times_F[-1] - times_F[0])
            if whole - kept > STEP:
                self.notes.append(
                    f"{recording.path}: kept {kept:.1f} s of {whole:.1f} s, cut where pictures or input are missing"
                )
        if not plans:
            raise RecordingError(f"no recording of {self.place} can be used: {self._last_skip}")
        for names, parts in counts.items():
            counts_TM = np.concatenate(parts)
            fitted = self._mappings[names] = self._mappings[names].fit(counts_TM)
            if counts_TM.any():
                clipped = (np.abs(counts_TM) > (fitted.counts_for_full or 1)).any(axis=1).mean()
                self.notes.append(
                    f"mouse: {fitted.counts_for_full:g} counts in 0.1 s are full stick; {clipped:.1%} of the steps "
                    "are clipped"
                )
        return plans

    def fill(self, writer: DatasetWriter, plans: Sequence[_Plan]) -> int:
        """Write the clips one after another without the unusable ones; return the number of rows."""
        row = 0
        for plan, pieces in zip(plans, _divide(plans, self.options.split), strict=True):
            try:
                row = self._fill(writer, plan, pieces, row)
            except StorageError:
                raise
            except PlayloomError as error:
                self._skip(plan.recording, error)
                row = max(
                    [row, *(span.rows.stop for span in writer.spans if span.meta["take"] == self._name(plan.recording))]
                )
        if not row:
            raise RecordingError(f"no recording of {self.place} can be used: {self._last_skip}")
        return row

    def _fill(self, writer: DatasetWriter, plan: _Plan, pieces: Sequence[_Piece], row: int) -> int:
        recording, origin = plan.recording, plan.clips[0].start
        metas = [self._meta(plan, piece, origin) for piece in pieces]
        starts = [row + sum(piece.clip.steps for piece in pieces[:index]) for index in range(len(pieces) + 1)]
        missing = [
            (start, piece.clip, meta)
            for start, piece, meta in zip(starts, pieces, metas, strict=False)
            if not writer.has(start, piece.clip.steps, meta)
        ]
        if missing:
            clips = [clip for _, clip, _ in missing]
            actions_TA = self._mappings[plan.mapping].apply(_input(recording, self._mappings[plan.mapping], clips))
            pictures = self._reduced(recording.path, recording.pictures(), step_times(clips))
            first = 0
            for start, clip, meta in missing:
                rows = _take(pictures, clip.steps, self._progress, start, writer.total)
                states_TS = np.zeros((clip.steps, 0), np.float32)
                writer.append_episode(rows, actions_TA[first : first + clip.steps], states_TS, meta, start=start)
                first += clip.steps
                if self._progress is not None:
                    self._progress(start + clip.steps, writer.total)
        return starts[-1]

    def _reduced(
        self, path: Path, frames: Iterator[Frame], times_T: NDArray[np.float64]
    ) -> Iterator[NDArray[np.uint8]]:
        """The last picture at or before each time, in the size of the dataset."""
        latest, upcoming, reduced_HWC = None, next(frames, None), None
        for time in times_T.tolist():
            while upcoming is not None and upcoming[0] <= time + PICTURE_SLACK:
                latest, reduced_HWC, upcoming = upcoming, None, next(frames, None)
            if latest is None or time - latest[0] > MAX_GAP + PICTURE_SLACK:
                raise RecordingError(f"{path} has no picture at {time:.1f} s that can be decoded; is it damaged?")
            if reduced_HWC is None:
                reduced_HWC = self.options.reduce(latest[1]())
            yield reduced_HWC

    def _meta(self, plan: _Plan, piece: _Piece, origin: float) -> dict[str, object]:
        return {
            "game": "other",
            "take": self._name(plan.recording),
            "first": round((piece.clip.start - origin) / STEP),
            "split": piece.split,
            "settings": self._settings(),
        }

    def _settings(self) -> str:
        """Digest of all that decides what a recording becomes."""
        mapping = asdict(read_mapping(self.options.mapping))
        options = {**asdict(self.options), "mapping": mapping, "split": None, "format": None}
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]

    def _name(self, recording: Recording) -> str:
        return recording.path.relative_to(self.place).as_posix()

    def _skip(self, recording: Recording, error: PlayloomError) -> None:
        if self._on_skip is None:
            raise error
        self._last_skip = str(error) if str(recording.path) in str(error) else f"{recording.path}: {error}"
        self._on_skip(self._last_skip)


def _input(recording: Recording, mapping: ControlMapping, runs: Sequence[Run]) -> NDArray[np.float32]:
    return resample(recording.changes(mapping.sources), step_times(runs), mapping.sources, mapping.dead_zone)


def _take(
    rows: Iterator[NDArray[np.uint8]], count: int, progress: Progress | None, start: int, total: int
) -> Iterator[NDArray[np.uint8]]:
    for done in range(count):
        yield next(rows)
        if progress is not None and done % _REPORT_EVERY == _REPORT_EVERY - 1:
            progress(start + done, total)


def _divide(plans: Sequence[_Plan], split: str | None) -> list[list[_Piece]]:
    """Give every recording its split; a single one keeps its last tenth for validation."""
    splits = [split or _KEPT.get(number % _CYCLE, "train") for number in range(len(plans))]
    if split is None and len(plans) == 1:
        (plan,) = plans
        left = plan.steps - max(1, plan.steps // 10)
        pieces = []
        for clip in plan.clips:
            first = min(left, clip.steps)
            left -= first
            rest = Run(clip.start + STEP * first, clip.steps - first)
            pieces += [_Piece(Run(clip.start, first), "train"), _Piece(rest, "validation")]
        return [[piece for piece in pieces if piece.clip.steps]]
    if split is None and "validation" not in splits:
        splits[-1] = "validation"
    return [[_Piece(clip, to) for clip in plan.clips] for plan, to in zip(plans, splits, strict=True)]
