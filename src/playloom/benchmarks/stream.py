"""The clock beside a dream: from an action handed in to the frame in hand, frame by frame.

Owns the measuring and its sums; knows neither bars nor floors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.benchmarks.rates import now
from playloom.data.prompts import find_prompt, list_prompts, load_bundled_prompt
from playloom.errors import BadInputError
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.inference.types import Prompt
from playloom.models.checkpoint import WorldModel

Tick = Callable[[str], None]
"""Told what is being measured."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FrameTimes:
    """Times of one dream, in seconds."""

    first: float
    """From the prompt to its first frame: encode, prefill, decode, pixels."""
    frames_F: NDArray[np.float64]
    """Of every frame after the first, from the action to the uint8 picture."""

    @property
    def rate(self) -> float:
        """Frames a second, sustained: all frames but the first over their time."""
        return len(self.frames_F) / float(self.frames_F.sum())

    def quantile(self, share: float) -> float:
        """The time that this share of frames stays within."""
        return float(np.quantile(self.frames_F, share))


def time_dream(
    dreamer: Engine,
    prompt: Prompt,
    actions_TA: NDArray[np.uint8],
    frames: int,
    *,
    sampling: Sampling,
    seed: int = 0,
) -> FrameTimes:
    """Dream one frame, then `frames` more, and time each.

    Args:
        dreamer: dreams; what it computes on decides how the clock waits.
        prompt: where the dream begins; its encoding is part of the first frame unless it brings codes.
        actions_TA: uint8 [T, 16], taken in turn, again from the start when they end.
        frames: how many after the first.
        sampling: how tokens are drawn.
        seed: of the dream.
    """
    device = dreamer.model.device
    held = actions_TA[np.arange(frames + 1) % len(actions_TA)]
    stamps = [now(device)]
    for _ in dreamer.dream(prompt, steps=frames + 1, actions_SA=held, sampling=sampling, seed=seed):
        stamps.append(now(device))
    spans = np.diff(stamps)
    return FrameTimes(first=float(spans[0]), frames_F=spans[1:])


def bundled_prompt(model: WorldModel, name: str | None = None) -> tuple[Prompt, NDArray[np.uint8]]:
    """A bundled moment's pictures, as many as the context takes, fitted to the model; and the play of all moments.

    Returns:
        The prompt, and action values uint8 [T, 16] as really played: varied, the same every time.

    Raises:
        BadInputError: when no moment is bundled.
    """
    names = list_prompts()
    if not names:
        raise BadInputError("this installation bundles no moment to dream on from; install the whole package")
    moment = load_bundled_prompt(find_prompt(name or names[0]))
    steps = model.config.transformer.context_steps
    pictures = torch.from_numpy(np.ascontiguousarray(moment.frames_THWC[:steps]))
    frames_THWC = model.tokenizer.fit(pictures).cpu().numpy()
    played = np.concatenate([load_bundled_prompt(find_prompt(each)).actions_TA for each in names])
    return Prompt(frames_THWC=frames_THWC, actions_TA=moment.actions_TA[: len(frames_THWC) - 1]), played


def median(values: Sequence[float]) -> float:
    """The middle value."""
    return float(np.median(values))
