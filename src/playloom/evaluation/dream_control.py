"""The control protocol in dreams: every input of `control` held from the same moments, in one decoding order.

Owns the dreaming; what the pictures say is `control`'s business.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from playloom.checkpoint import Model
from playloom.data.stores import FrameStore
from playloom.engine import Dreamer, Sampling
from playloom.evaluation.control import Control, measure_control
from playloom.evaluation.dreams import dream_all, reconstruct, with_codes
from playloom.evaluation.moments import Moment
from playloom.evaluation.motion import Camera


def dream_control(
    model: Model,
    dreamer: Dreamer,
    store: FrameStore,
    moments: Sequence[Moment],
    *,
    steps: int,
    sampling: Sampling,
    seed: int,
    batch: int,
    camera: Camera,
    tick: Callable[[str], None] = lambda _: None,
) -> Control:
    """Hold every input for `steps` steps from every moment, and judge the dreamed pictures.

    Args:
        model: the dreamer's model.
        dreamer: dreams, in its order.
        store: where the moments lie.
        moments: where to begin.
        steps: how long an input is held.
        sampling: how tokens are drawn.
        seed: of the first dream; dream i has `seed + i`.
        batch: dreams at once.
        camera: of the game whose pictures these are.
        tick: told after every input.
    """
    prompts = with_codes(model, [moment.prompt(store) for moment in moments])
    seen = reconstruct(model, np.stack([moment.last_frame(store) for moment in moments]), batch)

    def pictures(name: str, held_SA: NDArray[np.uint8]) -> NDArray[np.uint8]:
        held = [held_SA] * len(prompts)
        frames = dream_all(dreamer, prompts, held, sampling=sampling, seed=seed, batch=batch)
        tick(f"control, {name}")
        return np.concatenate([seen[:, None], frames], axis=1)

    return measure_control(pictures, steps, camera)
