"""Test episodes: a frame dataset, recordings to render, or a small set recorded here.

Only recording and rendering need the game.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection
from pathlib import Path

from playloom.data.dataset import FrameDataset
from playloom.data.prepare import build_frame_store
from playloom.data.recording import list_episodes, load_meta
from playloom.errors import RecordingError

TEST_SEEDS = range(18, 418, 20)
"""Seeds recorded here, twenty: all of the test split."""
HELDOUT_SEEDS = (19, 39, 59)
"""Seeds with the held-out arena, the held-out style, and both."""
STEPS = 200
"""Steps of an episode recorded here: many short ones vary more than a few long ones."""

Progress = Callable[[str, int, int], None]
"""Receives a description of the work, the pieces done, and their total."""


def open_test_set(data: Path | None, work: Path, progress: Progress = lambda *_: None) -> FrameDataset:
    """Open the pictures, actions and states to evaluate on.

    `data` is a frame dataset; or a folder of recordings, whose test and held-out episodes are rendered; or None to
    record a small set (twenty test episodes and three held-out ones, of 20 s each). `work` is the folder for
    recordings and rendered pictures; those of an earlier call are used again.
    """
    if data is not None and (data / "index.json").is_file():
        dataset = FrameDataset.open(data)
        _check_test_split([episode.meta.get("split") for episode in dataset.spans], data)
        return dataset
    recordings = work / "recordings" if data is None else data
    if data is None:
        _record(recordings, progress)
    metas = {path: load_meta(path) for path in list_episodes(recordings)}
    metas = {path: meta for path, meta in metas.items() if meta.split in ("test", "heldout")}
    _check_test_split([meta.split for meta in metas.values()], recordings)
    if (work / "frames" / "index.json").is_file():
        dataset = FrameDataset.open(work / "frames")
        if [dict(episode.meta) for episode in dataset.spans] == [dataclasses.asdict(meta) for meta in metas.values()]:
            return dataset
    from playloom.games.arena.env import render_episode

    def report(done: int, total: int) -> None:
        progress("rendering test episodes", done, total)

    return build_frame_store(work / "frames", list(metas), render_episode, progress=report)


def _record(folder: Path, progress: Progress) -> None:
    from playloom.games.recorder import plan_episode, record_plans

    plans = [plan_episode(seed, STEPS) for seed in (*TEST_SEEDS, *HELDOUT_SEEDS)]
    record_plans(folder, plans, progress=lambda done, total, _: progress("recording test episodes", done, total))


def _check_test_split(splits: Collection[object], folder: Path) -> None:
    if "test" not in splits:
        raise RecordingError(
            f"{folder} has no episode of the test split; record some with seeds 18, 38, 58 ... (every twentieth is a "
            f"test episode: playloom record --seed 18 --hours 0.016 --out {folder}), or leave out --data"
        )
