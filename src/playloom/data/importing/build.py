"""A dataset of all recordings of a folder: frames, or codes without ever storing the frames."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.atomic_io import folder_lock
from playloom.data.dataset import INDEX, DatasetWriter, FrameDataset, Progress, TokenDataset, split_of, stored_episodes
from playloom.data.importing.clock import ClockCorrection, ClockEstimate, estimate_clock
from playloom.data.importing.episode_datasets import LeRobot, Minari
from playloom.data.importing.files import files_hash, reading
from playloom.data.importing.game_datasets import NitroGen, OpenCs2, OpenP2p, Vpt
from playloom.data.importing.mapping import ControlMapping, read_mapping
from playloom.data.importing.recorders import OwaMcap, OwlControl
from playloom.data.importing.recordings import (
    ClipEncoder,
    ImportOptions,
    NpzClip,
    PictureFolder,
    Recording,
    decode,
    decode_file,
)
from playloom.data.importing.report import REPORT, write_report
from playloom.data.importing.resample import STATE, STEP, Run, cut_runs, find_runs, resample
from playloom.data.importing.video_log import VideoLog
from playloom.data.parallel import map_ordered, scratch_folder
from playloom.errors import BadInputError, PlayloomError, RecordingError, ResourceError, StorageError, did_you_mean
from playloom.media.images import fit_picture

_READERS = (OwaMcap, OwlControl, Vpt, OpenCs2, OpenP2p, NitroGen, LeRobot, Minari, PictureFolder, NpzClip, VideoLog)
FORMATS: Mapping[str, type[Recording]] = {reader.format: reader for reader in _READERS}
"""Readers by format; a file belongs to the first of them that finds it."""
_REPORT_EVERY = 50
_AGREEING = 3  # recordings whose offset is trusted for another
_Decoded = Path | PlayloomError | None  # file of clips that a worker decoded, or its fault; None without workers


class Imported(NamedTuple):
    """Result of an import."""

    dataset: FrameDataset | TokenDataset
    notes: tuple[str, ...]  # sentences about what was found, cut, fitted and clipped


class _Plan(NamedTuple):
    recording: Recording
    mapping: tuple[str, ...]
    clips: list[Run]
    clock: ClockCorrection

    @property
    def steps(self) -> int:
        return sum(clip.steps for clip in self.clips)


def check_folder(folder: Path | str) -> Path:
    """Return the path of a folder; RecordingError when it is none."""
    if not Path(folder).is_dir():
        raise RecordingError(f"{folder} is not a folder; expected one with recordings in it")
    return Path(folder)


def find_recordings(folder: Path | str, options: ImportOptions) -> list[Recording]:
    """Return all recordings in or below a folder, sorted; RecordingError when there is none."""
    if options.format not in ("auto", *FORMATS):
        raise BadInputError(f"unknown format {options.format!r}; {did_you_mean(options.format, ('auto', *FORMATS))}")
    place = check_folder(folder)
    found, taken = list[Recording](), set[Path]()
    for name, reader in FORMATS.items():
        if options.format in ("auto", name):
            new = [recording for recording in reader.find(place, options) if recording.path not in taken]
            for recording in new:
                with suppress(PlayloomError), reading(recording.path):  # what is damaged is said when it is read
                    taken.update(recording.files)
            found += new
    if not found:
        what = "recording" if options.format == "auto" else f"recording of the format {options.format}"
        raise RecordingError(f"{folder} holds no {what}; docs/own_game.md lists the formats")
    return sorted(found, key=lambda recording: recording.path)


def import_recordings(
    folder: Path | str,
    out: Path | str,
    options: ImportOptions,
    *,
    encoder: ClipEncoder | None = None,
    workers: int = 0,
    cluster: bool = False,
    shard: tuple[int, int] = (1, 1),
    report: bool = False,
    progress: Progress | None = None,
    on_skip: Callable[[str], None] | None = None,
) -> Imported:
    """Make a dataset of all recordings in or below a folder; resumes an interrupted call.

    With the shard (i, n) it has the i-th of n parts of the sessions, in the splits and with the mapping of all of them;
    `join_datasets` makes one dataset of the parts. With an encoder it is a token dataset, and the frames are never
    stored. Recordings are decoded in `workers` processes (0: this one), or on a Ray `cluster` whose machines share the
    file system; the bytes written are the same.

    With `report`, a data card and a report lie beside the dataset. A call that fails leaves nothing behind, unless the
    disk is full or a worker is killed. When `out` holds the finished dataset of these recordings, it is opened.
    `progress` is called with the steps done and in all, `on_skip` with path and fault of each unusable recording; None:
    the first one is an error.
    """
    recordings, show = find_recordings(folder, options), progress or (lambda done, total: None)
    parallel = {"workers": workers, "cluster": cluster}
    build = _Build(Path(folder), Path(out), options, encoder, parallel, show, on_skip)
    found = Counter(recording.format for recording in recordings)
    build.notes.append(f"found: {', '.join(f'{name} ({count})' for name, count in sorted(found.items()))}")
    ready, own = (build.out / INDEX).exists(), _shard(recordings, *shard)
    if ready:
        build.check_finished(own)
    else:
        build.make(recordings, {recording.path for recording in own})
    dataset = build.open()
    if report and not (ready and (build.out / REPORT).exists()):
        names = {build.name(recording): recording for recording in recordings}
        place = f"{build.place}{os.sep}"  # may name its user
        notes, skipped = ([text.replace(place, "") for text in texts] for texts in (build.notes, build.skipped))
        write_report(dataset, names, build.estimates, notes, skipped)
    return Imported(dataset, tuple(build.notes))


@dataclass
class _Build:
    place: Path
    out: Path
    options: ImportOptions
    encoder: ClipEncoder | None
    parallel: Mapping[str, Any]
    progress: Progress
    on_skip: Callable[[str], None] | None
    notes: list[str] = field(default_factory=list)
    mappings: dict[tuple[str, ...], ControlMapping] = field(default_factory=dict)
    estimates: dict[str, ClockEstimate] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    columns: tuple[str, ...] = ()

    def open(self) -> FrameDataset | TokenDataset:
        return FrameDataset.open(self.out) if self.encoder is None else TokenDataset.open(self.out)

    def make(self, recordings: Sequence[Recording], own: Container[Path]) -> None:
        plans = self._plan(recordings)
        with folder_lock(self.out):
            if not all("take" in meta for meta in stored_episodes(self.out)):
                raise RecordingError(f"{self.out} holds an unfinished recording; choose another folder")
            self.columns = tuple(sorted({name for plan in plans for name in plan.recording.state_columns}))
            self.notes += [f"state columns: {', '.join(self.columns)}"] if self.columns else []
            plans = [plan for plan in plans if plan.recording.path in own]
            total, encoder, (height, width) = sum(plan.steps for plan in plans), self.encoder, self.options.frame_size
            if encoder is None:
                writer = FrameDataset.create(self.out, total, height=height, width=width, state_columns=self.columns)
            else:
                codes: dict[str, Any] = {"slots": encoder.slots, "tokenizer": encoder.fingerprint}
                writer = TokenDataset.create(self.out, total, state_columns=self.columns, **codes)
            try:
                writer.finish(self._write(writer, plans))
            except (StorageError, ResourceError):  # a full disk, a killed worker and Ctrl-C keep what was done
                raise
            except Exception:
                writer.discard()
                raise

    def check_finished(self, recordings: Sequence[Recording]) -> None:
        """Check that a finished dataset was made of these recordings, and report those that it lacks."""
        dataset, split = self.open(), self.options.split
        metas, codes_of = [span.meta for span in dataset.spans], self.encoder and self.encoder.fingerprint
        splits, settings = ({meta.get(key) for meta in metas} for key in ("split", "settings"))
        stored = {meta.get("take"): meta.get("source") for meta in metas}
        names = {self.name(recording): recording for recording in recordings}
        same = settings == {self._settings()} and getattr(dataset, "tokenizer", None) == codes_of
        if not same or not set(stored) <= set(names) or (split and splits != {split}):
            hint = "choose another folder, or remove it first"
            raise RecordingError(f"{self.out} holds a finished dataset of other takes or settings; {hint}")
        for name, recording in names.items():
            if name not in stored:
                reason = f"{recording.path} is not in the finished dataset {self.out}; remove that to import the take"
                self._skip(recording, RecordingError(reason))
            elif stored[name] not in (None, _hash_of(recording)):  # None: of playloom before hashes
                hint = "remove that folder, or choose another, to import it again"
                raise RecordingError(f"{recording.path} has changed since {self.out} was made of it; {hint}")

    def _plan(self, recordings: Sequence[Recording]) -> list[_Plan]:
        plans, changes, counts = [], dict[str, None](), dict[tuple[str, ...], list[NDArray[np.float32]]]()
        for recording in recordings:
            try:
                with reading(recording.path):
                    names = self.options.mapping or recording.mapping
                    mapping = self.mappings.setdefault(names, read_mapping(names))
                    runs = find_runs(recording.times_F)
                    input_TC = _input(recording, mapping, runs, ClockCorrection())
                    picture_HWC = next(recording.pictures())[1]()
                    height, width = picture_HWC.shape[:2]
                    for x, y, *_ in self.options.masks:  # it would hide nothing
                        if x >= width or y >= height:
                            got = f"got one at {x},{y}, expected it in {width} x {height} pixels"
                            raise RecordingError(f"{recording.path} is not under the mask: {got}; correct --mask")
                    _, change = fit_picture(picture_HWC, self.options.frame_size, self.options.resize)
                    clock = self._clock(recording, mapping, runs, input_TC)
                    input_TC = _input(recording, mapping, runs, clock) if clock != ClockCorrection() else input_TC
                clips = cut_runs(runs, input_TC[:, -1] == 0)
                if not clips:
                    raise RecordingError(f"{recording.path} has no two steps in a row with pictures and input")
            except PlayloomError as error:
                self._skip(recording, error)
                continue
            plans.append(_Plan(recording, names, clips, clock))
            estimate = self.estimates.get(self.name(recording))
            self.notes += [*recording.notes, *([f"{recording.path}: {estimate.sentence()}"] if estimate else [])]
            if not input_TC[:, :-1].any():
                self.notes.append(f"{recording.path}: no control of the mapping is used; is a --mapping missing?")
            changes |= {f"pictures: {change}": None} if change else {}
            counts.setdefault(names, []).append(mapping.mouse_counts(input_TC))
            kept, whole = STEP * plans[-1].steps, float(recording.times_F[-1] - recording.times_F[0])
            if whole - kept > STEP:
                cut = f"kept {kept:.1f} s of {whole:.1f} s, cut where pictures or input are missing"
                self.notes.append(f"{recording.path}: {cut}")
        if not plans:
            raise RecordingError(f"no recording of {self.place} can be used: {self.skipped[0]}")
        plans = self._share_offset(plans)
        for names, parts in counts.items():
            counts_TM = np.concatenate(parts)
            fitted = self.mappings[names] = self.mappings[names].fit(counts_TM)
            if counts_TM.any():
                clipped = (np.abs(counts_TM) > (fitted.counts_for_full or 1)).any(axis=1).mean()
                full = f"{fitted.counts_for_full:g} counts in 0.1 s are full stick"
                self.notes.append(f"mouse: {full}; {clipped:.1%} of the steps are clipped")
        self.notes += changes
        return _divide(plans, self.options.split)

    def _clock(
        self, recording: Recording, mapping: ControlMapping, runs: Sequence[Run], input_TC: NDArray[np.float32]
    ) -> ClockCorrection:
        """The correction of a recording's input, estimated where that is asked for or its start was assumed."""
        wanted = self.options.estimate_clock
        if not (recording.clock_assumed if wanted is None else wanted):
            return ClockCorrection()
        estimate = self.estimates[self.name(recording)] = estimate_clock(recording, mapping.sources, runs, input_TC)
        return estimate.clock if estimate.sure else ClockCorrection()

    def _share_offset(self, plans: list[_Plan]) -> list[_Plan]:
        """Give recordings whose offset was not found that of the others, if these agree within a step."""
        found = [estimate.clock.offset for estimate in self.estimates.values() if estimate.sure]
        if len(found) < _AGREEING or max(found) - min(found) > STEP:
            return plans
        clock, shared = ClockCorrection(float(np.median(found))), []
        for plan in plans:
            estimate = self.estimates.get(self.name(plan.recording))
            if estimate is not None and not estimate.sure:
                runs = find_runs(plan.recording.times_F)
                input_TC = _input(plan.recording, self.mappings[plan.mapping], runs, clock)
                plan = plan._replace(clips=cut_runs(runs, input_TC[:, -1] == 0) or plan.clips, clock=clock)
                self.notes.append(f"{plan.recording.path}: the offset of the others is used, {clock.offset:+.2f} s")
            shared.append(plan)
        return shared

    def _write(self, writer: DatasetWriter, plans: Sequence[_Plan]) -> int:
        row, jobs, stored = 0, [], {(span.meta["take"], span.meta["first"]) for span in writer.spans}
        with scratch_folder(writer.folder) as scratch:
            for number, plan in enumerate(plans):
                take = self.name(plan.recording)
                clips = [clip for clip in plan.clips if (take, _first(plan, clip)) not in stored]
                jobs.append((plan.recording, clips, self.encoder, scratch / f"{number}.npy"))
            here = not any(self.parallel.values())
            files = [None] * len(plans) if here else map_ordered(decode_file, jobs, **self.parallel)
            for plan, (_, clips, _, _), file in zip(plans, jobs, files, strict=True):
                try:
                    with reading(plan.recording.path):
                        row = self._fill(writer, plan, row, clips, file)
                except StorageError:
                    raise
                except PlayloomError as error:
                    self._skip(plan.recording, error)  # the next one takes the rows of its clips
        if not row:
            raise RecordingError(f"no recording of {self.place} can be used: {self.skipped[0]}")
        return row

    def _fill(self, writer: DatasetWriter, plan: _Plan, row: int, ready: list[Run], file: _Decoded) -> int:
        """Write those clips of a recording that are missing, from a row on; return the row after its last clip."""
        missing = []
        origin = {
            "game": "other",
            "take": self.name(plan.recording),
            "source": _hash_of(plan.recording),
            "settings": self._settings(),
            **({"clock": plan.clock} if plan.clock != ClockCorrection() else {}),
        }
        for clip in plan.clips:
            meta = {**origin, "first": _first(plan, clip), "split": clip.split}
            if not writer.has(row, clip.steps, meta):
                missing.append((row, clip, meta))
            row += clip.steps
        if missing:
            clips, mapping = [clip for _, clip, _ in missing], self.mappings[plan.mapping]
            input_TC = _input(plan.recording, mapping, clips, plan.clock, self.columns)
            actions_TA = mapping.apply(input_TC[:, : len(mapping.sources)])
            states_TS = input_TC[:, len(mapping.sources) :]
            if isinstance(file, PlayloomError):
                raise file
            if file is not None and ready == clips:
                data = iter(np.load(file, mmap_mode="r", allow_pickle=False))
            else:
                data = self._rows(plan.recording, clips, missing[0][0], writer.total)
            first = 0
            for start, clip, meta in missing:
                rows, first = slice(first, first + clip.steps), first + clip.steps
                clip_rows = islice(data, clip.steps)
                writer.append_episode(clip_rows, actions_TA[rows], states_TS[rows], meta, start=start)
                self.progress(start + clip.steps, writer.total)
        if isinstance(file, Path):
            file.unlink(missing_ok=True)
        return row

    def _rows(self, recording: Recording, clips: list[Run], row: int, total: int) -> Iterator[NDArray[Any]]:
        for done, data in enumerate(decode(recording, clips, self.encoder), row):
            if done % _REPORT_EVERY == _REPORT_EVERY - 1:
                self.progress(done, total)
            yield data

    def _settings(self) -> str:
        mapping = asdict(read_mapping(self.options.mapping))
        options = {**asdict(self.options), "mapping": mapping, "split": None, "format": None}
        return hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()[:12]

    def name(self, recording: Recording) -> str:
        return recording.path.relative_to(self.place).as_posix()

    def _skip(self, recording: Recording, error: PlayloomError) -> None:
        if self.on_skip is None:
            raise error
        self.skipped.append(str(error) if str(recording.path) in str(error) else f"{recording.path}: {error}")
        self.on_skip(self.skipped[-1])


def _hash_of(recording: Recording) -> str:
    with reading(recording.path):
        return files_hash(recording.files)


def _first(plan: _Plan, clip: Run) -> int:
    return round((clip.start - plan.clips[0].start) / STEP)


def _input(
    recording: Recording, mapping: ControlMapping, runs: list[Run], clock: ClockCorrection, columns: Sequence[str] = ()
) -> NDArray[np.float32]:
    controls = (*mapping.sources, *(STATE + name for name in columns))
    return resample(clock.correct(recording.changes(controls)), runs, controls, mapping.dead_zone)


def _sessions(recordings: Sequence[Recording]) -> list[Path]:
    """The session of every recording; its path where there is one session."""
    sessions = [recording.session for recording in recordings]
    return sessions if len(set(sessions)) > 1 else [recording.path for recording in recordings]


def _shard(recordings: Sequence[Recording], number: int, parts: int) -> list[Recording]:
    """The recordings of every `parts`-th session from the one of a number, from 1, on."""
    if not 1 <= number <= parts:
        raise BadInputError(f"the part is out of range: got {number} of {parts}, expected 1 to {parts}")
    sessions = _sessions(recordings)
    own = set(list(dict.fromkeys(sessions))[number - 1 :: parts])
    if not own:
        raise RecordingError(f"part {number} of {parts} is empty: there are {len(set(sessions))} sessions")
    return [recording for recording, session in zip(recordings, sessions, strict=True) if session in own]


def _divide(plans: Sequence[_Plan], split: str | None) -> list[_Plan]:
    """Give every session its split, every recording where there is one session; a single one keeps its last tenth."""
    if split is None and len(plans) == 1:
        clips, steps = plans[0].clips, plans[0].steps
        train_T = np.arange(steps) < steps - max(1, steps // 10)
        last = [clip._replace(split="validation") for clip in cut_runs(clips, ~train_T, 1)]
        return [plans[0]._replace(clips=[*cut_runs(clips, train_T, 1), *last])]
    sessions = _sessions([plan.recording for plan in plans])
    names = list(dict.fromkeys(sessions))
    splits = {name: split or split_of(number) for number, name in enumerate(names)}
    if split is None and "validation" not in splits.values():
        splits[names[-1]] = "validation"
    divided = zip(plans, (splits[name] for name in sessions), strict=True)
    return [plan._replace(clips=[clip._replace(split=to) for clip in plan.clips]) for plan, to in divided]
