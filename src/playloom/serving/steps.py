"""Predicted steps as the published interfaces mean them: a frame, and the action taken after seeing it.

A context's last action closes its last step, so the engine first dreams the frame that follows it. A result is
complete when the action that answers its frame is known, which comes with the engine's next turn; the last turn dreams
no frame.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from playloom.engine import DreamStep, Prompt, Sampling
from playloom.serving.broker import Frame
from playloom.serving.studio import Studio


class Predicted(NamedTuple):
    """One predicted step."""

    number: int
    """From 1."""
    step: DreamStep
    """Its frame and tokens (and the action before it)."""
    action_A: NDArray[np.uint8]
    """The action taken after seeing that frame, values uint8 [16]."""


async def predict(
    studio: Studio,
    prompt: Prompt,
    *,
    closing_A: NDArray[np.uint8] | None,
    count: int,
    forced: Sequence[NDArray[np.uint8] | None] = (),
    sampling: Sampling,
    seed: int,
) -> AsyncGenerator[Predicted, None]:
    """Predict steps one by one.

    Args:
        studio: dreams.
        prompt: the context; its last frame is open.
        closing_A: the action that closes it; None: dreamed.
        count: how many steps.
        forced: the actions of the first predicted steps where they are given; None or beyond: dreamed.
        sampling: how tokens are drawn.
        seed: same context, same seed: same steps.
    """
    actions = [closing_A, *(forced[i] if i < len(forced) else None for i in range(count))]
    turns: list[tuple[NDArray[np.uint8] | None, Frame]] = [(action_A, "dream") for action_A in actions[:-1]]
    turns.append((actions[-1], None))
    before: DreamStep | None = None
    number = 0
    async with aclosing(studio.dream(prompt, turns, sampling, seed)) as steps:
        async for step in steps:
            if before is not None:
                number += 1
                yield Predicted(number, before, step.action_A)
            before = step
