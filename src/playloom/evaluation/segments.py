"""Test segments of recorded play, and generation from them in batches.

A segment at row t sees the frames up to t; action t is the first of its future. Segments are drawn with a seed, inside
one episode, without dead steps. B rollouts of a batch, S steps, H W C picture.

    >>> segments = choose_segments(dataset, dataset.of_split("test"), count=32, past=10, future=30, seed=0)
    >>> segments[0].prompt(dataset).frames_THWC.shape, segments[0].future_frames(dataset).shape
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.data.sampler import alive_spans
from playloom.errors import RecordingError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import GenerationRequest, Prompt
from playloom.models.checkpoint import WorldModel


class SegmentStep(NamedTuple):
    """Frames of one step of a batch of rollouts."""

    first: int
    """Index of the rollout of `frames_BHWC[0]`."""
    step: int
    """Steps after the prompt, from 1."""
    frames_BHWC: NDArray[np.uint8]
    """uint8 [B, H, W, 3]."""


def dream_on(
    dreamer: Engine,
    prompts: Sequence[Prompt],
    actions: Sequence[NDArray[np.uint8]],
    *,
    sampling: Sampling,
    seed: int,
    batch: int,
) -> Iterator[SegmentStep]:
    """Generate from every prompt under its actions, uint8 [S, 16] each; rollout i has the seed `seed + i`.

    Yields every step of the first `batch` dreams, then of the next.
    """
    requests = [
        GenerationRequest(prompt=prompt, steps=len(held), actions_SA=held, sampling=sampling, seed=seed + index)
        for index, (prompt, held) in enumerate(zip(prompts, actions, strict=True))
    ]
    for first in range(0, len(requests), batch):
        for steps in dreamer.dream_batch(requests[first : first + batch]):
            frames = [step.frame_HWC for step in steps if step.frame_HWC is not None]
            yield SegmentStep(first, steps[0].index + 1, np.stack(frames))


def dream_all(
    dreamer: Engine,
    prompts: Sequence[Prompt],
    actions: Sequence[NDArray[np.uint8]],
    *,
    sampling: Sampling,
    seed: int,
    batch: int,
) -> NDArray[np.uint8]:
    """Return all frames of short rollouts, uint8 [rollouts, S, H, W, 3]; see `dream_on`."""
    height, width, channels = prompts[0].frames_THWC.shape[1:]
    frames = np.empty((len(prompts), len(actions[0]), height, width, channels), np.uint8)
    for first, step, frames_BHWC in dream_on(dreamer, prompts, actions, sampling=sampling, seed=seed, batch=batch):
        frames[first : first + len(frames_BHWC), step - 1] = frames_BHWC
    return frames


@torch.inference_mode()
def encode(model: WorldModel, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.int64]:
    """Encode any number of pictures, int64 [F, N]."""
    parts = [
        model.tokenizer.encode(torch.from_numpy(np.array(frames_FHWC[first : first + batch]))).cpu().numpy()
        for first in range(0, len(frames_FHWC), batch)
    ]
    return np.concatenate(parts)


def with_codes(model: WorldModel, prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts with their frames' codes, so that several rollouts encode once."""
    return [dataclasses.replace(prompt, codes_TN=encode(model, prompt.frames_THWC)) for prompt in prompts]


@torch.inference_mode()
def reconstruct(model: WorldModel, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.uint8]:
    """Encode and decode pictures, uint8 [F, H, W, 3]: the upper bound of generated frames."""
    parts = []
    for first in range(0, len(frames_FHWC), batch):
        codes = model.tokenizer.encode(torch.from_numpy(np.array(frames_FHWC[first : first + batch])))
        parts.append(model.tokenizer.decode(codes).cpu().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment of a recording: seen frames and their future."""

    row: int
    """Row of the last seen frame in the dataset."""
    past: int
    """Frames seen, this one included."""
    future: int
    """Frames after it that belong to the segment."""

    def prompt(self, store: FrameDataset) -> Prompt:
        """Return the prompt: `past` frames and the actions between them."""
        first = self.row - self.past + 1
        return Prompt(
            frames_THWC=np.array(store.frames_FHWC[first : self.row + 1]),
            actions_TA=np.array(store.actions_FA[first : self.row]),
        )

    def last_frame(self, store: FrameDataset) -> NDArray[np.uint8]:
        """Return the last seen frame, uint8 [H, W, 3]."""
        return np.array(store.frames_FHWC[self.row])

    def future_actions(self, store: FrameDataset, steps: int | None = None) -> NDArray[np.uint8]:
        """Return the recorded actions that follow, uint8 [steps, 16]."""
        return np.array(store.actions_FA[self.row : self.row + (steps or self.future)])

    def future_frames(self, store: FrameDataset, steps: int | None = None) -> NDArray[np.uint8]:
        """Return the recorded frames that follow, uint8 [steps, H, W, 3]."""
        return np.array(store.frames_FHWC[self.row + 1 : self.row + 1 + (steps or self.future)])

    def future_frame(self, store: FrameDataset, step: int) -> NDArray[np.uint8]:
        """Return the frame `step` steps later (1 is the next), uint8 [H, W, 3]."""
        return np.array(store.frames_FHWC[self.row + step])


def choose_segments(
    store: FrameDataset, spans: Sequence[EpisodeSlice], *, count: int, past: int, future: int, seed: int
) -> list[Segment]:
    """Draw segments uniformly from all that fit, in the order of their rows.

    Only moments count whose past and future lie in one episode and hold no dead row. All are cut into `count` stretches
    of equal number and one is drawn from each, so that no part of the data is missed.

    Returns:
        `count` moments, or as many as there are.

    Raises:
        RecordingError: when none fits.
    """
    dead = store.column("dead") if "dead" in store.state_columns else np.zeros(len(store), np.float32)
    rows = [
        np.arange(span.start + past - 1, span.start + span.length - future)
        for span in alive_spans(spans, dead)
        if span.length >= past + future
    ]
    possible = np.concatenate(rows) if rows else np.zeros(0, np.int64)
    if not len(possible):
        longest = max((span.length for span in spans), default=0)
        raise RecordingError(
            f"no stretch of {past + future} steps without a death in {len(spans)} episodes (the longest has {longest} "
            "steps); give longer test episodes, or ask for fewer steps"
        )
    source = np.random.default_rng(seed)
    edges = np.linspace(0, len(possible), min(count, len(possible)) + 1).astype(np.int64)
    chosen = [int(possible[source.integers(low, high)]) for low, high in itertools.pairwise(edges)]
    return [Segment(row=row, past=past, future=future) for row in chosen]
