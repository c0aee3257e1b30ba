"""Recorder of Gymnasium environments: a policy fills a frame dataset with episodes, on all cores."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from playloom.actions.codec import REST_VALUES
from playloom.atomic_io import folder_lock
from playloom.data.dataset import INDEX, OUTCOMES, DatasetWriter, FrameDataset, Progress, split_of, stored_episodes
from playloom.data.parallel import map_ordered
from playloom.device import usable_cores
from playloom.errors import ConfigError, GameError, ResourceError, import_extra
from playloom.games.gymnasium import player

_FAILURES = 5  # so many episodes that fail in a row end a recording


class Recorded(NamedTuple):
    """Result of a recording."""

    dataset: FrameDataset
    notes: tuple[str, ...]  # sentences about the rate, the actions and the pictures
    skipped: tuple[str, ...]  # episodes that failed, with the reason where this call saw it


def record_environment(
    out: Path | str,
    recording: player.GymnasiumRecording,
    frames: int,
    *,
    processes: int | None = None,
    progress: Progress | None = None,
) -> Recorded:
    """Record that many frames into a frame dataset; resumes an interrupted call.

    The data depend on the recording and `frames`, not on `processes`. The last episode is cut at `frames`. Of twenty
    episodes the tenth is for validation and the twentieth for testing; of fewer than ten the last one is for
    validation, of a single one its last tenth. An episode whose environment or policy raises is skipped.
    """
    if frames < 2 or (processes is not None and processes < 1):
        raise ConfigError(f"a recording has 2 or more frames, by 1 or more processes: got {frames}, {processes}")
    import_extra("gymnasium", "rl")
    target = Path(out)
    with folder_lock(target):
        try:
            (facts,) = map_ordered(player.examine, [(recording,)], workers=1, prepare=player.enter_process)
        except ResourceError as error:
            raise GameError(f"the process of {recording.env} died in its first steps") from error
        settings = _settings(recording, facts, frames)
        # Before a writer is made: it would replace another recording.
        if any(meta.get("settings") != settings["settings"] for meta in stored_episodes(target)):
            raise ConfigError(f"{target} holds other data or a recording of other settings; choose another folder")
        reasons: dict[int, str] = {}
        if not (target / INDEX).exists():
            height, width = recording.frame_size
            columns = (*OUTCOMES, *facts.info)
            writer = FrameDataset.create(target, frames, height=height, width=width, state_columns=columns)
            number = int(writer.spans[-1].meta["episode"]) + 1 if writer.spans else 0
            try:
                with closing(_episodes(recording, facts, number, processes or usable_cores())) as episodes:
                    _fill(writer, settings, episodes, reasons, progress)
            except Exception:
                if not writer.done:
                    writer.discard()
                raise
            writer.finish(writer.done)
    dataset = FrameDataset.open(target)
    present = {int(span.meta["episode"]) for span in dataset.spans}
    skipped = [
        f"episode {number} (seed {recording.seed + number}): {reasons.get(number, 'it failed in an earlier call')}"
        for number in range(max(present))
        if number not in present
    ]
    return Recorded(dataset, facts.notes, tuple(skipped))


def _settings(recording: player.GymnasiumRecording, facts: player.EnvironmentFacts, frames: int) -> dict[str, Any]:
    """Metadata that all episodes share; the digest is of all that decides the data."""
    everything = {**asdict(recording), "weights": facts.encoder.mapping.weights, "facts": facts[:2], "frames": frames}
    text = json.dumps(everything, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"game": recording.env, "style": recording.policy, "settings": digest}


def _fill(
    writer: DatasetWriter,
    settings: Mapping[str, Any],
    episodes: Iterator[tuple[int, player.PlayedEpisode | str]],
    reasons: dict[int, str],
    progress: Progress | None,
) -> None:
    """Append episodes until the dataset is full; `reasons` gets those that failed."""
    failures = 0
    while writer.total - writer.done >= 2:
        if progress is not None:
            progress(writer.done, writer.total)
        number, played = next(episodes)
        if isinstance(played, str):
            reasons[number], failures = played, failures + 1
            if failures == _FAILURES:
                raise GameError(f"{_FAILURES} episodes in a row failed, the last one with: {played}")
            continue
        failures = 0
        _append(writer, {**settings, "episode": number}, played)


def _append(writer: DatasetWriter, meta: dict[str, Any], whole: player.PlayedEpisode) -> None:
    """Append an episode, truncated at the last row that the dataset has room for."""
    before, left = len(writer.spans), writer.total - writer.done
    played = whole.rows(slice(left))
    length = len(played.actions_TA)
    if length < len(whole.actions_TA):
        played.actions_TA[-1], played.states_TS[-1, : len(OUTCOMES)] = REST_VALUES, player.NO_OUTCOME
        played.states_TS[-2, OUTCOMES.index("truncated")] = 1
    last = left - length < 2
    pieces = [(0, length, "validation" if last and before < 9 else split_of(before))]
    if last and not before:
        kept = max(1, length // 10)
        pieces = [(0, length - kept, "train"), (length - kept, length, "validation")]
    for first, stop, split in pieces:
        part, facts = played.rows(slice(first, stop)), {**meta, "first": first, "split": split}
        writer.append_episode(iter(part.frames_THWC), part.actions_TA, part.states_TS, facts)


def _episodes(
    recording: player.GymnasiumRecording, facts: player.EnvironmentFacts, number: int, processes: int
) -> Generator[tuple[int, player.PlayedEpisode | str], None, None]:
    """All episodes from a number on, in order: what was played, or the reason of the failure."""
    workers = processes
    while True:
        jobs = ((recording, facts, later) for later in itertools.count(number))
        with closing(map_ordered(player.play, jobs, workers=workers, prepare=player.enter_process)) as results:
            try:
                for played in results:
                    yield number, played
                    number += 1
                    if workers < processes:
                        break
            except ResourceError:
                if workers > 1:  # which episode did it shows when it plays alone
                    workers = 1
                    continue
                yield number, "its process died"
                number += 1
        workers = processes
