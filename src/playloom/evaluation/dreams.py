"""Many dreams at once, handed out step by step so that nobody has to hold them all.

Owns batching and seeds. Knows nothing of what is measured. B dreams of a batch, S steps, H W C picture.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.checkpoint import Model
from playloom.engine import Dreamer, DreamRequest, Prompt, Sampling


class DreamedStep(NamedTuple):
    """The frames that some of the dreams reached at one step."""

    first: int
    """Which dream `frames_BHWC[0]` belongs to; the others follow."""
    step: int
    """Steps since the prompt, from 1."""
    frames_BHWC: NDArray[np.uint8]
    """uint8 [B, H, W, 3]."""


def dream_on(
    dreamer: Dreamer,
    prompts: Sequence[Prompt],
    actions: Sequence[NDArray[np.uint8]],
    *,
    sampling: Sampling,
    seed: int,
    batch: int,
) -> Iterator[DreamedStep]:
    """Dream on from every prompt under its actions, uint8 [S, 16] each; dream i has the seed `seed + i`.

    Yields every step of the first `batch` dreams, then of the next.
    """
    requests = [
        DreamRequest(prompt=prompt, steps=len(held), actions_SA=held, sampling=sampling, seed=seed + index)
        for index, (prompt, held) in enumerate(zip(prompts, actions, strict=True))
    ]
    for first in range(0, len(requests), batch):
        for steps in dreamer.dream_batch(requests[first : first + batch]):
            frames = [step.frame_HWC for step in steps if step.frame_HWC is not None]
            yield DreamedStep(first, steps[0].index + 1, np.stack(frames))


def dream_all(
    dreamer: Dreamer,
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
def encode(model: Model, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.int64]:
    """Codes of any number of pictures, int64 [F, N]."""
    parts = [
        model.tokenizer.encode(torch.from_numpy(np.array(frames_FHWC[first : first + batch]))).cpu().numpy()
        for first in range(0, len(frames_FHWC), batch)
    ]
    return np.concatenate(parts)


def with_codes(model: Model, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The same prompts with their frames' codes, so that dreaming several times from them encodes once."""
    return [dataclasses.replace(prompt, codes_TN=encode(model, prompt.frames_THWC)) for prompt in prompts]


@torch.inference_mode()
def reconstruct(model: Model, frames_FHWC: NDArray[np.uint8], batch: int = 16) -> NDArray[np.uint8]:
    """Pictures through the tokenizer and back, uint8 [F, H, W, 3]: the best a dream can look."""
    parts = []
    for first in range(0, len(frames_FHWC), batch):
        codes = model.tokenizer.encode(torch.from_numpy(np.array(frames_FHWC[first : first + batch])))
        parts.append(model.tokenizer.decode(codes).cpu().numpy())
    return np.concatenate(parts)
