"""Test segments of recorded play, and generation from them in batches.

A segment at row t sees the frames up to t; action t is the first of its future. Segments are drawn with a seed, inside
one episode, without dead steps. B rollouts of a batch, S steps, H W C picture.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.sampler import alive_spans
from playloom.errors import RecordingError
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row
from playloom.inference.engine import Engine
from playloom.inference.session import GenerationRequest, Prompt, StepResult
from playloom.models.checkpoint import WorldModel, require_networks

Progress = Callable[[str], None]  # receives a description of each finished piece of work


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment of a recording: seen frames and their future."""

    row: int  # row of the last seen frame in the dataset
    past: int  # frames seen, this one included

    def prompt(self, dataset: FrameDataset) -> Prompt:
        """Return the prompt: `past` frames and the actions between them."""
        first = self.row - self.past + 1
        return Prompt(
            frames_THWC=np.array(dataset.frames_FHWC[first : self.row + 1]),
            actions_TA=np.array(dataset.actions_FA[first : self.row]),
        )

    def future_actions(self, dataset: FrameDataset, steps: int) -> NDArray[np.uint8]:
        """Return the recorded actions that follow, uint8 [steps, 16]."""
        return np.array(dataset.actions_FA[self.row : self.row + steps])

    def future_frames(self, dataset: FrameDataset, steps: int) -> NDArray[np.uint8]:
        """Return the recorded frames that follow, uint8 [steps, H, W, 3]."""
        return np.array(dataset.frames_FHWC[self.row + 1 : self.row + 1 + steps])


@dataclass
class EvaluationContext:
    """Inputs that the parts of an evaluation share, and their results so far."""

    engine: Engine
    dataset: FrameDataset
    settings: EvaluationSettings
    progress: Progress = lambda _: None
    rows: list[Row] = field(default_factory=list)  # rows of the report
    curves: dict[str, Any] = field(default_factory=dict)  # series behind the rows, JSON values
    counts: dict[str, int] = field(default_factory=dict)  # number of segments by part
    notes: list[str] = field(default_factory=list)  # sentences about what could not be measured
    dreams: tuple[list[Segment], NDArray[np.int32]] | None = None
    """The segments of the long rollouts, and the codes of their frames [segments, S, N]."""

    def __post_init__(self) -> None:
        self.model = require_networks(self.engine.model)
        self.test, self.heldout = self.dataset.of_split("test"), self.dataset.of_split("heldout")

    @cached_property
    def encoded(self) -> list[tuple[EpisodeSlice, NDArray[np.int64]]]:
        """Stretches of recorded play without deaths, and their codes [T, N]: the first steps of every test episode."""
        most = max(1, self.settings.encoded_frames // len(self.test))
        heads = [dataclasses.replace(episode, length=min(episode.length, most)) for episode in self.test]
        spans = alive_spans(self.dataset, heads)
        return [(span, encode(self.model, self.dataset.frames_FHWC[span.rows], self.settings.batch)) for span in spans]

    def segments(self, count: int, future: int, *, heldout: bool = False, extra: int = 0) -> list[Segment]:
        """Choose segments with a full context, and `extra` frames before it, from test or held-out episodes."""
        past = self.model.config.transformer.context_steps + extra
        episodes = self.heldout if heldout else self.test
        return choose_segments(self.dataset, episodes, count=count, past=past, future=future, seed=self.settings.seed)

    def changed(self, **settings: Any) -> EvaluationContext:
        """Return this context with some other settings, and the same results."""
        return dataclasses.replace(self, settings=dataclasses.replace(self.settings, **settings))

    def note(self, sentence: str) -> None:
        """Add a note, once."""
        if sentence not in self.notes:
            self.notes.append(sentence)

    def requests(self, prompts: Sequence[Prompt], actions: Sequence[NDArray[np.uint8]]) -> list[GenerationRequest]:
        """Return requests to generate from prompts under actions, uint8 [S, 16]; number i has the seed + i."""
        sampling, seed = self.settings.sampling, self.settings.seed
        return [
            GenerationRequest(prompt=prompt, steps=len(held), actions_SA=held, sampling=sampling, seed=seed + index)
            for index, (prompt, held) in enumerate(zip(prompts, actions, strict=True))
        ]

    def run_batches(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[slice, int, list[StepResult]]]:
        """Generate in batches; yields the indices of a batch's requests, the step from 0, and their results."""
        for first in range(0, len(requests), self.settings.batch):
            for results in self.engine.dream_batch(requests[first : first + self.settings.batch]):
                yield slice(first, first + len(results)), results[0].index, results

    def rollout_batches(
        self, prompts: Sequence[Prompt], actions: Sequence[NDArray[np.uint8]]
    ) -> Iterator[tuple[slice, int, NDArray[np.uint8], NDArray[np.int64]]]:
        """Generate from every prompt under its actions, see `requests`.

        Yields the indices of a batch's rollouts, the step from 0, frames, uint8 [B, H, W, 3], and codes, int64 [B, N].
        """
        for rows, step, results in self.run_batches(self.requests(prompts, actions)):
            pairs = [(r.frame_HWC, r.codes_N) for r in results if r.frame_HWC is not None and r.codes_N is not None]
            frames, codes = zip(*pairs, strict=True)
            yield rows, step, np.stack(frames), np.stack(codes)

    def rollout_frames(self, prompts: Sequence[Prompt], actions: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """Return all frames of short rollouts, uint8 [rollouts, S, H, W, 3]; see `rollout_batches`."""
        frames = np.empty((len(prompts), len(actions[0]), *prompts[0].frames_THWC.shape[1:]), np.uint8)
        for rows, step, frames_BHWC, _ in self.rollout_batches(prompts, actions):
            frames[rows, step] = frames_BHWC
        return frames


def episodes_of(dataset: FrameDataset, rows: ArrayLike) -> NDArray[np.int64]:
    """Return the number of each row's episode, int64 [rows]: the clusters of standard errors."""
    return np.searchsorted([span.start for span in dataset.spans], np.asarray(rows), side="right")


def segment_episodes(dataset: FrameDataset, segments: Sequence[Segment]) -> NDArray[np.int64]:
    """Return the number of each segment's episode, int64 [segments]."""
    return episodes_of(dataset, [segment.row for segment in segments])


def spread(segments: Sequence[Segment], count: int) -> list[Segment]:
    """Choose `count` segments, or as many as there are, at equal distances from each other."""
    count = min(count, len(segments))
    return [segments[index * len(segments) // count] for index in range(count)]


def frames_after(dataset: FrameDataset, segments: Sequence[Segment], step: int) -> NDArray[np.uint8]:
    """Return each segment's recorded frame after `step` steps (0: the last seen one), uint8 [segments, H, W, 3]."""
    return np.stack([dataset.frames_FHWC[segment.row + step] for segment in segments])


def choose_segments(
    dataset: FrameDataset, episodes: Sequence[EpisodeSlice], *, count: int, past: int, future: int, seed: int
) -> list[Segment]:
    """Draw `count` segments, or as many as there are, in the order of their rows.

    Past and future lie in one episode and hold no dead row. All possible segments are divided into `count` equal parts,
    and one is drawn from each, so that the whole dataset is covered.
    """
    rows = [
        np.arange(episode.start + past - 1, episode.start + episode.length - future)
        for episode in alive_spans(dataset, episodes)
        if episode.length >= past + future
    ]
    if not rows:
        longest = max((episode.length for episode in episodes), default=0)
        raise RecordingError(
            f"no stretch of {past + future} steps without a death in {len(episodes)} episodes (the longest has "
            f"{longest} steps); give longer test episodes, or evaluate fewer steps"
        )
    possible = np.concatenate(rows)
    rng = np.random.default_rng(seed)
    edges = np.linspace(0, len(possible), min(count, len(possible)) + 1).astype(np.int64)
    chosen = [int(possible[rng.integers(low, high)]) for low, high in itertools.pairwise(edges)]
    return [Segment(row=row, past=past) for row in chosen]


@torch.inference_mode()
def encode(model: WorldModel, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.int64]:
    """Encode any number of pictures, int64 [F, N]."""
    parts = [frames_FHWC[first : first + batch] for first in range(0, len(frames_FHWC), batch)]
    return np.concatenate([model.tokenizer.encode(torch.from_numpy(np.array(part))).cpu().numpy() for part in parts])


def with_codes(model: WorldModel, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts with their frames' codes, so that several rollouts encode once."""
    return [dataclasses.replace(prompt, codes_TN=encode(model, prompt.frames_THWC)) for prompt in prompts]


@torch.inference_mode()
def decode(model: WorldModel, codes_FN: NDArray[np.int64], batch: int = 16) -> NDArray[np.uint8]:
    """Decode any number of pictures, uint8 [F, H, W, 3]."""
    parts = [codes_FN[first : first + batch] for first in range(0, len(codes_FN), batch)]
    return np.concatenate([model.tokenizer.decode(torch.from_numpy(part)).cpu().numpy() for part in parts])


def reconstruct(model: WorldModel, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.uint8]:
    """Encode and decode pictures, uint8 [F, H, W, 3]: the upper bound of generated frames."""
    return decode(model, encode(model, frames_FHWC, batch), batch)
