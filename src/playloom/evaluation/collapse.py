"""Does a long dream blur or break up? Sharpness far into it, against real frames and their reconstructions.

Sharpness is the mean absolute Laplacian (see `pictures.sharpness`): a blurred dream falls below the real figure,
one that breaks into noise rises above it. Compared over the same moments at the same step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from playloom.checkpoint import Model
from playloom.data.stores import FrameStore
from playloom.evaluation.dreams import reconstruct
from playloom.evaluation.horizon import Horizon
from playloom.evaluation.moments import Moment
from playloom.evaluation.pictures import sharpness
from playloom.evaluation.report import Row

TOLERANCE = 0.3
"""How far from the real sharpness is still no collapse, as a share of it."""


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Mean sharpness over the moments at one step, grey levels."""

    step: int
    """Steps since the prompt."""
    dream: float
    """Of the dreamed frames."""
    real: float
    """Of the frames that really followed."""
    reconstructed: float
    """Of those, through the tokenizer."""
    moments: int
    """How many."""


def measure_collapse(
    model: Model, store: FrameStore, moments: Sequence[Moment], horizon: Horizon, step: int
) -> Collapse:
    """Compare the dreams of `horizon`, which began at these moments, at one step."""
    real = np.stack([moment.future_frame(store, step) for moment in moments])
    return Collapse(
        step=step,
        dream=float(horizon.sharpness_MS[:, step - 1].mean()),
        real=float(sharpness(real).mean()),
        reconstructed=float(sharpness(reconstruct(model, real)).mean()),
        moments=len(moments),
    )


def collapse_rows(collapse: Collapse) -> list[Row]:
    """The table's line: dreamed over real sharpness."""
    ratio = collapse.dream / collapse.real if collapse.real else float("nan")
    return [
        Row(
            part="collapse",
            name=f"sharpness of frame {collapse.step}, dream over real",
            value=ratio,
            unit="%",
            baselines={"reconstruction over real": collapse.reconstructed / collapse.real if collapse.real else np.nan},
            bar=f"{100 * (1 - TOLERANCE):.0f} to {100 * (1 + TOLERANCE):.0f} %",
            passed=abs(ratio - 1) <= TOLERANCE,
            count=collapse.moments,
        )
    ]
