"""Test episodes: a frame dataset, recordings to render, or a small set recorded here.

The game is needed only to record or render.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.prepare import build_frame_store
from playloom.data.recording import list_episodes, load_meta
from playloom.errors import RecordingError

TEST_SEEDS = (18, 38, 58, 78)
"""Seeds recorded here: all of the test split."""
HELDOUT_SEEDS = (19, 39, 59)
"""Seeds with the held-out arena, the held-out style, and both."""
HELDOUT_STEPS = 200
"""Steps of a held-out episode; a test episode has the recorder's full length."""
_SPLITS = ("test", "heldout")

Tick = Callable[[str, int, int], None]
"""Progress callback: text, done, total."""


def open_test_set(data: Path | None, work: Path, tick: Tick = lambda *_: None) -> FrameDataset:
    """Open the pictures, actions and states to evaluate on.

    Args:
        data: a frame store; or a folder of recordings, whose test and held-out episodes are rendered; or None to record
            a small set of its own (four test episodes of a minute, three held out of 20 s).
        work: where recordings and rendered pictures go; what is there already and fits is used again.
        tick: told the progress.

    Raises:
        RecordingError: when there is no test episode.
        MissingExtraError: when the game is needed and not installed.
    """
    if data is not None and (data / "index.json").is_file():
        store = FrameDataset.open(data)
        _need_test(store.of_split("test"), data)
        return store
    recordings = work / "recordings" if data is None else data
    if data is None:
        _record(recordings, tick)
    episodes = [path for path in list_episodes(recordings) if load_meta(path).split in _SPLITS]
    _need_test([path for path in episodes if load_meta(path).split == "test"], recordings)
    return _rendered(episodes, work / "frames", tick)


def _record(folder: Path, tick: Tick) -> None:
    from playloom.games.recorder import EPISODE_STEPS, plan_episode, record_plans

    plans = [plan_episode(seed, EPISODE_STEPS) for seed in TEST_SEEDS]
    plans += [plan_episode(seed, HELDOUT_STEPS) for seed in HELDOUT_SEEDS]
    record_plans(folder, plans, progress=lambda state: tick("recording test episodes", state.done, state.total))


def _rendered(episodes: list[Path], folder: Path, tick: Tick) -> FrameDataset:
    wanted = [json.loads(json.dumps(dataclasses.asdict(load_meta(path)))) for path in episodes]
    if (folder / "index.json").is_file():
        store = FrameDataset.open(folder)
        if [dict(span.meta) for span in store.spans] == wanted:
            return store
    from playloom.games.arena.env import render_episode

    return build_frame_store(
        folder, episodes, render_episode, progress=lambda done, total: tick("rendering test episodes", done, total)
    )


def _need_test(found: tuple[EpisodeSlice, ...] | list[Path], folder: Path) -> None:
    if not found:
        raise RecordingError(
            f"{folder} holds no episode of the test split; record some with seeds 18, 38, 58 ... (every twentieth is a "
            f"test episode: playloom record --seed 18 --hours 0.016 --out {folder}), or leave out --data"
        )
