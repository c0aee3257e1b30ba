"""Moments of real play to measure from: which rows of a store, and what lies before and after them.

Owns the choice (seeded, inside one episode, nobody dead) and the cutting. Knows nothing of models. A moment at row t
sees the frames up to t; action t is the first one of its future.

    >>> moments = choose_moments(store, store.of_split("test"), count=32, past=10, future=30, seed=0)
    >>> moments[0].prompt(store).frames_THWC.shape, moments[0].future_frames(store).shape

Many dreams at once, handed out step by step so that nobody has to hold them all.

Owns batching and seeds. Knows nothing of what is measured. B dreams of a batch, S steps, H W C picture.
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
    """The frames that some of the dreams reached at one step."""

    first: int
    """Which dream `frames_BHWC[0]` belongs to; the others follow."""
    step: int
    """Steps since the prompt, from 1."""
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
    """Dream on from every prompt under its actions, uint8 [S, 16] each; dream i has the seed `seed + i`.

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
    """All frames of (short) dreams, uint8 [dreams, S, H, W, 3]; see `dream_on`."""
    height, width, channels = prompts[0].frames_THWC.shape[1:]
    frames = np.empty((len(prompts), len(actions[0]), height, width, channels), np.uint8)
    for first, step, frames_BHWC in dream_on(dreamer, prompts, actions, sampling=sampling, seed=seed, batch=batch):
        frames[first : first + len(frames_BHWC), step - 1] = frames_BHWC
    return frames


@torch.inference_mode()
def encode(model: WorldModel, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.int64]:
    """Codes of any number of pictures, int64 [F, N]."""
    parts = [
        model.tokenizer.encode(torch.from_numpy(np.array(frames_FHWC[first : first + batch]))).cpu().numpy()
        for first in range(0, len(frames_FHWC), batch)
    ]
    return np.concatenate(parts)


def with_codes(model: WorldModel, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same prompts with their frames' codes, so that dreaming several times from them encodes once."""
    return [dataclasses.replace(prompt, codes_TN=encode(model, prompt.frames_THWC)) for prompt in prompts]


@torch.inference_mode()
def reconstruct(model: WorldModel, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.uint8]:
    """Pictures through the tokenizer and back, uint8 [F, H, W, 3]: the best a dream can look."""
    parts = []
    for first in range(0, len(frames_FHWC), batch):
        codes = model.tokenizer.encode(torch.from_numpy(np.array(frames_FHWC[first : first + batch])))
        parts.append(model.tokenizer.decode(codes).cpu().numpy())
    return np.concatenate(parts)


@dataclass(frozen=True, kw_only=True)
class Moment:
    """One moment of a recording."""

    row: int
    """The store's row of the last frame that is seen."""
    past: int
    """Frames seen, this one included."""
    future: int
    """Frames after it that belong to it."""

    def prompt(self, store: FrameDataset) -> Prompt:
        """What a dream from here begins with: `past` frames and the actions between them."""
        first = self.row - self.past + 1
        return Prompt(
            frames_THWC=np.array(store.frames_FHWC[first : self.row + 1]),
            actions_TA=np.array(store.actions_FA[first : self.row]),
        )

    def last_frame(self, store: FrameDataset) -> NDArray[np.uint8]:
        """The last frame seen, uint8 [H, W, 3]."""
        return np.array(store.frames_FHWC[self.row])

    def future_actions(self, store: FrameDataset, steps: int | None = None) -> NDArray[np.uint8]:
        """What the player did next, uint8 [steps, 16]."""
        return np.array(store.actions_FA[self.row : self.row + (steps or self.future)])

    def future_frames(self, store: FrameDataset, steps: int | None = None) -> NDArray[np.uint8]:
        """What followed, uint8 [steps, H, W, 3]."""
        return np.array(store.frames_FHWC[self.row + 1 : self.row + 1 + (steps or self.future)])

    def future_frame(self, store: FrameDataset, step: int) -> NDArray[np.uint8]:
        """The frame `step` steps later (1 is the next), uint8 [H, W, 3]."""
        return np.array(store.frames_FHWC[self.row + step])


def choose_moments(
    store: FrameDataset, spans: Sequence[EpisodeSlice], *, count: int, past: int, future: int, seed: int
) -> list[Moment]:
    """Draw moments evenly from all that fit, in the order of their rows.

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
    return [Moment(row=row, past=past, future=future) for row in chosen]
