"""Rollout metrics: PSNR and SSIM against the recorded frames by horizon, and collapse of sharpness.

Two baselines of the same segments stand beside them: the last frame repeated (a model that ignores the controller) and
the tokenizer's reconstruction of the true frame (an upper bound). Sharpness is the mean absolute Laplacian: a blurred
rollout falls below the recorded figure, one that breaks into noise rises above it. M segments, S steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import FrameDataset
from playloom.evaluation.report import Row
from playloom.evaluation.segments import Segment, dream_on, reconstruct
from playloom.inference.engine import Engine
from playloom.inference.sampling import Sampling
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, sharpness, ssim

MARKS = (1, 3, 10, 30)
"""Steps shown in the table."""
_CEILINGS = (1, 3, 10, 20, 30)
"""Steps at which ceiling and SSIM are measured; both change little from step to step and take time."""
_MUST_BEAT = (1, 3, 10)
"""Steps at which the rollout must beat the repeated frame."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Horizon:
    """Metrics of every segment (rows) at every step (columns; column 0 is step 1)."""

    dream_MS: NDArray[np.float64]
    """PSNR of the rollout, dB."""
    repeat_MS: NDArray[np.float64]
    """PSNR of the repeated last frame, dB."""
    ceiling_M: dict[int, NDArray[np.float64]]
    """PSNR of the reconstructed true frame, dB, by step."""
    dream_ssim_M: dict[int, NDArray[np.float64]]
    """SSIM of the rollout, by step."""
    repeat_ssim_M: dict[int, NDArray[np.float64]]
    """SSIM of the repeated frame, by step."""
    sharpness_MS: NDArray[np.float64]
    """Sharpness of the generated frames, grey levels."""

    def gain(self, step: int) -> tuple[float, float]:
        """Return the mean dB over the repeated frame at a step, and its standard error over segments."""
        gain_M = self.dream_MS[:, step - 1] - self.repeat_MS[:, step - 1]
        error = gain_M.std(ddof=1) / np.sqrt(len(gain_M)) if len(gain_M) > 1 else np.nan
        return float(gain_M.mean()), float(error)


def measure_horizon(
    model: WorldModel,
    dreamer: Engine,
    store: FrameDataset,
    moments: Sequence[Segment],
    *,
    steps: int,
    sampling: Sampling,
    seed: int,
    batch: int,
    tick: Callable[[str], None] = lambda _: None,
    detail: bool = True,
) -> Horizon:
    """Generate `steps` steps from every segment and compare with the recording.

    Args:
        model: the dreamer's model.
        dreamer: dreams.
        store: where the moments lie; their future must be at least `steps` long.
        moments: where to begin.
        steps: S.
        sampling: how tokens are drawn.
        seed: of the first dream; dream i has `seed + i`.
        batch: dreams at once.
        tick: told after each step of each batch.
        detail: whether SSIM and ceiling are measured too.
    """
    shape = (len(moments), steps)
    dream, repeat, sharp = np.empty(shape), np.empty(shape), np.empty(shape)
    ceiling, dream_ssim, repeat_ssim = (
        {s: np.empty(len(moments)) for s in _CEILINGS if detail and s <= steps} for _ in range(3)
    )
    last = np.stack([moment.last_frame(store) for moment in moments])
    prompts = [moment.prompt(store) for moment in moments]
    actions = [moment.future_actions(store, steps) for moment in moments]
    for first, step, frames in dream_on(dreamer, prompts, actions, sampling=sampling, seed=seed, batch=batch):
        rows = slice(first, first + len(frames))
        truth = np.stack([moment.future_frame(store, step) for moment in moments[rows]])
        dream[rows, step - 1], repeat[rows, step - 1] = (psnr(x, truth, PSNR_CAP) for x in (frames, last[rows]))
        sharp[rows, step - 1] = sharpness(frames)
        if step in ceiling:
            ceiling[step][rows] = psnr(reconstruct(model, truth, batch), truth, PSNR_CAP)
            dream_ssim[step][rows], repeat_ssim[step][rows] = ssim(frames, truth), ssim(last[rows], truth)
        tick("horizon")
    return Horizon(
        dream_MS=dream,
        repeat_MS=repeat,
        ceiling_M=ceiling,
        dream_ssim_M=dream_ssim,
        repeat_ssim_M=repeat_ssim,
        sharpness_MS=sharp,
    )


def horizon_rows(test: Horizon, greedy: Horizon | None, heldout: Horizon | None) -> list[Row]:
    """Return the report rows: metrics at the marks, the mean over 30 steps, greedy sampling, held-out episodes."""
    rows = [_psnr_row(test, step) for step in MARKS if step in test.ceiling_M]
    reach = min(max(MARKS), test.dream_MS.shape[1])
    means = {
        "repeat": float(test.repeat_MS[:, :reach].mean()),
        "ceiling": float(np.mean([value.mean() for value in test.ceiling_M.values()])),
    }
    mean = float(test.dream_MS[:, :reach].mean())
    rows.append(_row(test, f"PSNR, mean of steps 1 to {reach}", mean, "dB", means))
    for step in test.dream_ssim_M:
        if step in MARKS:
            beside = {"repeat": float(test.repeat_ssim_M[step].mean())}
            rows.append(_row(test, f"SSIM at step {step}", float(test.dream_ssim_M[step].mean()), "", beside))
    for name, other in (("greedy", greedy), ("held out", heldout)):
        if other is not None:
            for step in (s for s in MARKS if s <= other.dream_MS.shape[1]):
                beside = {"repeat": float(other.repeat_MS[:, step - 1].mean())}
                value = float(other.dream_MS[:, step - 1].mean())
                rows.append(_row(other, f"PSNR at step {step}, {name}", value, "dB", beside))
    return rows


def horizon_curves(test: Horizon) -> dict[str, object]:
    """Return means over segments by step, JSON values."""
    steps = range(1, test.dream_MS.shape[1] + 1)
    return {
        "steps": list(steps),
        "dream_psnr": test.dream_MS.mean(0),
        "repeat_psnr": test.repeat_MS.mean(0),
        "ceiling_psnr": {str(step): float(value.mean()) for step, value in test.ceiling_M.items()},
        "dream_ssim": {str(step): float(value.mean()) for step, value in test.dream_ssim_M.items()},
        "repeat_ssim": {str(step): float(value.mean()) for step, value in test.repeat_ssim_M.items()},
        "gain_psnr": [test.gain(step)[0] for step in steps],
        "gain_psnr_standard_error": [test.gain(step)[1] for step in steps],
        "dream_sharpness": test.sharpness_MS.mean(0),
    }


def _psnr_row(test: Horizon, step: int) -> Row:
    value, repeat = float(test.dream_MS[:, step - 1].mean()), float(test.repeat_MS[:, step - 1].mean())
    asked = step in _MUST_BEAT
    return Row(
        part="horizon",
        name=f"PSNR at step {step}",
        value=value,
        unit="dB",
        baselines={"repeat": repeat, "ceiling": float(test.ceiling_M[step].mean())},
        bar="> repeat" if asked else "",
        passed=value > repeat if asked else None,
        count=len(test.dream_MS),
    )


def _row(test: Horizon, name: str, value: float, unit: str, beside: dict[str, float]) -> Row:
    return Row(part="horizon", name=name, value=value, unit=unit, baselines=beside, count=len(test.dream_MS))


TOLERANCE = 0.3
"""Largest relative deviation from the recorded sharpness that is no collapse."""


@dataclass(frozen=True, kw_only=True)
class Collapse:
    """Mean sharpness over the segments at one step, grey levels."""

    step: int
    dream: float
    """Of generated frames."""
    real: float
    """Of recorded frames."""
    reconstructed: float
    """Of reconstructed recorded frames."""
    moments: int
    """Number of segments."""


def measure_collapse(
    model: WorldModel, store: FrameDataset, moments: Sequence[Segment], horizon: Horizon, step: int
) -> Collapse:
    """Compare sharpness of the rollouts of `horizon`, which began at these segments, at one step."""
    real = np.stack([moment.future_frame(store, step) for moment in moments])
    return Collapse(
        step=step,
        dream=float(horizon.sharpness_MS[:, step - 1].mean()),
        real=float(sharpness(real).mean()),
        reconstructed=float(sharpness(reconstruct(model, real)).mean()),
        moments=len(moments),
    )


def collapse_rows(collapse: Collapse) -> list[Row]:
    """Return the report row: generated over recorded sharpness."""
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
