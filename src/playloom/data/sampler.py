"""Resumable window sampler of training examples, and labels of steps.

A batch depends on the seed and the number of windows before it only, so the data position of a run is one integer, and
resuming is exact on any number of devices. B batch, T steps, F rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset, TokenDataset
from playloom.errors import RecordingError


class WindowSampler:
    """Row numbers of each batch: seeded windows of consecutive steps inside episodes.

    In every epoch each episode is cut into back-to-back windows from a new random offset, so that every frame gets
    every position in a window. The windows of all episodes are then shuffled. An epoch leaves out less than two windows
    per episode. A batch may contain the end of one epoch and the start of the next.
    """

    def __init__(self, *, spans: Sequence[EpisodeSlice], steps: int, batch: int, seed: int, rank: int = 0) -> None:
        usable = [span for span in spans if span.length >= steps]
        if not usable:
            longest = max((span.length for span in spans), default=0)
            found = f"the longest of {len(spans)} has {longest}"
            hint = "record longer episodes, or choose shorter windows"
            raise RecordingError(f"no episode is as long as a window of {steps} steps: {found}; {hint}")
        self.steps, self.batch, self.seed, self._rank = steps, batch, seed, rank
        self._starts = np.array([span.start for span in usable], np.int64)
        self._lengths = np.array([span.length for span in usable], np.int64)
        self._counts = np.maximum(self._lengths // steps - (steps > 1), 1)
        self.epoch_windows = int(self._counts.sum())
        self._epoch = lru_cache(maxsize=2)(self._shuffled)

    def rows(self, seen: int) -> NDArray[np.int64]:
        """Return row numbers [B, T] of this rank's share of the batch after `seen` windows of all ranks."""
        places = seen + self._rank * self.batch + np.arange(self.batch)
        epochs, inside = np.divmod(places, self.epoch_windows)
        starts = np.concatenate([self._epoch(int(e))[inside[epochs == e]] for e in np.unique(epochs)])
        return np.asarray(starts[:, None] + np.arange(self.steps), np.int64)

    def _shuffled(self, epoch: int) -> NDArray[np.int64]:
        generator = np.random.default_rng([self.seed, epoch])
        offsets = generator.integers(0, self._lengths - self._counts * self.steps + 1)
        episode = np.repeat(np.arange(len(self._counts)), self._counts)
        ordinal = np.arange(len(episode)) - np.repeat(np.cumsum(self._counts) - self._counts, self._counts)
        return generator.permutation(self._starts[episode] + offsets[episode] + ordinal * self.steps)


def alive_spans(dataset: FrameDataset | TokenDataset, spans: Sequence[EpisodeSlice]) -> tuple[EpisodeSlice, ...]:
    """Return the stretches of the episodes without dead rows; the episodes where deaths are not recorded."""
    return _without(spans, dataset.column("dead")) if "dead" in dataset.state_columns else tuple(spans)


def _without(spans: Sequence[EpisodeSlice], dead_F: NDArray[np.float32]) -> tuple[EpisodeSlice, ...]:
    result = []
    for span in spans:
        alive = np.concatenate([[False], dead_F[span.rows] <= 0, [False]])
        for first, stop in np.flatnonzero(alive[1:] != alive[:-1]).reshape(-1, 2).tolist():
            result.append(EpisodeSlice(start=span.start + first, length=stop - first, meta=span.meta))
    return tuple(result)


def step_labels(dataset: FrameDataset | TokenDataset, states: Sequence[str] = ()) -> dict[str, NDArray[np.float32]]:
    """Return the labels of every row by name, float32 [F] each: reward and terminated if known, and these states.

    Row t labels the step of action t, which leads from frame t to frame t + 1, as Gymnasium returns them together:

    * `reward`: the column `reward`, else the change of `frags` from row t to row t + 1.
    * `terminated`: the column `terminated`, else `dead` becoming 1 from row t to row t + 1.
    * a state scalar: its column in row t + 1, where it is measured when frame t + 1 is seen.

    A recorder of Gymnasium environments writes what the step of action t returned into row t, and one more row with the
    episode's last frame and NaN as its reward. NaN means no label. Steps without a frame after them in their episode,
    and those that begin dead (column `dead`), have no label. RecordingError for a state that is missing.
    """
    known = dataset.state_columns
    labelled_F = np.zeros(len(dataset), bool)
    for span in dataset.spans:
        labelled_F[span.start : span.rows.stop - 1] = True
    if "dead" in known:
        labelled_F &= dataset.column("dead") <= 0
    after = {name: np.roll(dataset.column(name), -1) for name in ("frags", "dead") if name in known}
    labels = {str(name): dataset.column(name) for name in ("reward", "terminated") if name in known}
    if "frags" in known and "reward" not in known:
        labels["reward"] = after["frags"] - dataset.column("frags")
    if "dead" in known and "terminated" not in known:
        labels["terminated"] = (after["dead"] > 0).astype(np.float32)
    labels |= {name: np.roll(dataset.column(name), -1) for name in states}
    return {name: np.where(labelled_F, values_F, np.nan).astype(np.float32) for name, values_F in labels.items()}


def labelled_spans(dataset: FrameDataset | TokenDataset, spans: Sequence[EpisodeSlice]) -> tuple[EpisodeSlice, ...]:
    """Return the stretches of episodes that labels belong to: without dead rows but the first of each death."""
    if "dead" not in dataset.state_columns:
        return tuple(spans)
    dead_F = np.array(dataset.column("dead"))
    later_F = np.roll(dead_F, 1)  # dead in the row before
    for span in spans:
        later_F[span.start] = 1
    return _without(spans, np.minimum(dead_F, later_F))
