"""Recorder of Gymnasium environments: a policy fills a frame dataset with episodes, on all cores."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import multiprocessing
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from playloom.actions.codec import REST_VALUES
from playloom.atomic_io import folder_lock
from playloom.data.dataset import INDEX, JOURNAL, DatasetWriter, FrameDataset, Progress
from playloom.data.parallel import stop_pool
from playloom.device import usable_cores
from playloom.errors import ConfigError, GameError, MissingExtraError, RecordingError
from playloom.games.gymnasium.player import (
    NO_OUTCOME,
    OUTCOMES,
    EnvironmentFacts,
    GymnasiumRecording,
    PlayedEpisode,
    enter_process,
    examine,
    play,
)
from playloom.json_io import read_json

_CYCLE = 20
_KEPT = {9: "validation", 19: "test"}
"""Split by number of the episode modulo the cycle, as of imported recordings."""
_FAILURES = 5
"""A recording ends when so many episodes in a row fail."""


class Recorded(NamedTuple):
    """Result of a recording."""

    dataset: FrameDataset
    notes: tuple[str, ...]  # sentences about the rate, the actions and the pictures
    skipped: tuple[str, ...]  # episodes that failed, with the reason where this call saw it


def record_environment(
    out: Path | str,
    recording: GymnasiumRecording,
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
    target = Path(out)
    with folder_lock(target), _Players(recording, processes or usable_cores()) as players:
        facts = players.facts()
        settings = _settings(recording, facts, frames)
        _check_same(target, settings)
        reasons: dict[int, str] = {}
        if not (target / INDEX).exists():
            height, width = recording.frame_size
            columns = (*OUTCOMES, *facts.info)
            writer = FrameDataset.create(target, frames, height=height, width=width, state_columns=columns)
            try:
                _fill(writer, settings, players.episodes(facts, _next_episode(writer)), reasons, progress)
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


def _settings(recording: GymnasiumRecording, facts: EnvironmentFacts, frames: int) -> dict[str, Any]:
    """Metadata that all episodes share; the digest is of all that decides the data."""
    everything = {**asdict(recording), "weights": facts.encoder.mapping.weights, "facts": facts[:2], "frames": frames}
    text = json.dumps(everything, sort_keys=True, default=str)
    digest = hashlib.sha256(text.encode()).hexdigest()[:12]
    return {"game": recording.env, "style": recording.policy, "settings": digest}


def _check_same(folder: Path, settings: Mapping[str, Any]) -> None:
    """Check before a writer is made: it would replace another recording."""
    for path in (folder / INDEX, folder / JOURNAL):
        if path.exists():
            episodes = read_json(path, RecordingError, f"remove {folder} and start again")["episodes"]
            if any(episode["meta"].get("settings") != settings["settings"] for episode in episodes):
                raise ConfigError(f"{folder} holds other data or a recording of other settings; choose another folder")


def _next_episode(writer: DatasetWriter) -> int:
    return int(writer.spans[-1].meta["episode"]) + 1 if writer.spans else 0


def _fill(
    writer: DatasetWriter,
    settings: Mapping[str, Any],
    episodes: Iterator[tuple[int, PlayedEpisode | str]],
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
        _append(writer, {**settings, "episode": number}, _cut(played, writer.total - writer.done))


def _append(writer: DatasetWriter, meta: dict[str, Any], played: PlayedEpisode) -> None:
    before, length = len(writer.spans), len(played.actions_TA)
    last = writer.total - writer.done - length < 2
    split = _KEPT.get(before % _CYCLE, "train")
    pieces = [(0, length, "validation" if last and before < min(_KEPT) else split)]
    if last and not before:
        kept = max(1, length // 10)
        pieces = [(0, length - kept, "train"), (length - kept, length, "validation")]
    for first, stop, split in pieces:
        part, facts = played.rows(slice(first, stop)), {**meta, "first": first, "split": split}
        writer.append_episode(iter(part.frames_THWC), part.actions_TA, part.states_TS, facts)


def _cut(played: PlayedEpisode, longest: int) -> PlayedEpisode:
    part = played.rows(slice(longest))
    if len(part.actions_TA) < len(played.actions_TA):
        part.actions_TA[-1], part.states_TS[-1, : len(OUTCOMES)] = REST_VALUES, NO_OUTCOME
        part.states_TS[-2, OUTCOMES.index("truncated")] = 1
    return part


class _Players(contextlib.AbstractContextManager["_Players"]):
    """Processes that play episodes."""

    def __init__(self, recording: GymnasiumRecording, processes: int) -> None:
        if importlib.util.find_spec("gymnasium") is None:
            raise MissingExtraError.of("gymnasium", "rl")
        self._recording, self._processes = recording, processes
        self._pool = self._new_pool()

    def facts(self) -> EnvironmentFacts:
        """Play a few steps for the facts about the environment."""
        try:
            return self._pool.submit(examine, self._recording).result()
        except BrokenProcessPool as error:
            raise GameError(f"the process of {self._recording.env} died in its first steps") from error

    def episodes(self, facts: EnvironmentFacts, number: int) -> Iterator[tuple[int, PlayedEpisode | str]]:
        """Yield all episodes from a number on, in order: what was played, or the reason of the failure."""
        pending: deque[Future[PlayedEpisode | str]] = deque()
        alone = False
        while True:
            try:
                while len(pending) < (1 if alone else self._processes + 1):
                    pending.append(self._pool.submit(play, self._recording, facts, number + len(pending)))
                played = pending.popleft().result()
            except BrokenProcessPool:  # which episode did it shows when this one plays alone
                stop_pool(self._pool)
                self._pool = self._new_pool()
                pending.clear()
                if not alone:
                    alone = True
                    continue
                played = "its process died"
            alone = False
            yield number, played
            number += 1

    def __exit__(self, *error: object) -> None:
        stop_pool(self._pool)  # without waiting for the ends of episodes

    def _new_pool(self) -> ProcessPoolExecutor:
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._processes, context, enter_process)
