"""Rollout metrics: PSNR and SSIM against the recorded frames by horizon, and collapse of sharpness.

Baselines from the same segments: the last frame repeated (a model that ignores the controller) and the tokenizer's
reconstruction of the true frame (an upper bound, the ceiling). Sharpness is the mean absolute Laplacian: it falls below
the recorded figure with blur and rises above it with noise. M segments, S steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row, standard_error
from playloom.evaluation.segments import (
    EvaluationContext,
    Progress,
    Segment,
    frames_after,
    reconstruct,
    rollout_batches,
)
from playloom.inference.engine import Engine
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, sharpness, ssim

MARKS = (1, 3, 10, 30)
"""Steps of the table."""
_CEILINGS = (1, 3, 10, 20, 30)
"""Steps at which ceiling and SSIM are measured: both are slow, and change little from step to step."""
_TARGETS = (1, 3, 10)
"""Steps at which the rollout must beat the repeated frame."""
TOLERANCE = 0.3
"""Largest relative deviation from the recorded sharpness that is no collapse."""


def evaluate(run: EvaluationContext) -> None:
    """Measure long rollouts, short greedy ones, short ones of held-out episodes, and the collapse of sharpness."""
    s = run.settings
    segments = run.segments(s.horizon_segments, s.horizon_reach)
    test = measure_rollout(run.engine, run.dataset, segments, s, run.progress, steps=s.horizon_reach)
    greedy = heldout = None
    if s.greedy_segments:
        short = partial(measure_rollout, progress=run.progress, steps=s.greedy_steps, detail=False)
        cold = dataclasses.replace(s, sampling=dataclasses.replace(s.sampling, temperature=0.0))
        greedy = short(run.engine, run.dataset, segments[: s.greedy_segments], cold)
        if run.heldout:
            apart = run.segments(s.greedy_segments, s.greedy_steps, heldout=True)
            heldout = short(run.engine, run.dataset, apart, s)
    collapse = measure_collapse(run.model, run.dataset, segments, test, s.collapse_step)
    run.rows += [*rollout_rows(test, greedy, heldout), collapse_row(collapse)]
    run.curves["horizon"] = rollout_curves(test)
    run.curves["collapse"] = collapse
    run.counts["horizon_segments"] = len(segments)


@dataclass(frozen=True, eq=False)
class RolloutMetrics:
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

    def psnr_at(self, step: int) -> tuple[float, float]:
        """Return the mean PSNR of the rollout and of the repeated frame at a step."""
        return float(self.dream_MS[:, step - 1].mean()), float(self.repeat_MS[:, step - 1].mean())


def measure_rollout(
    engine: Engine,
    dataset: FrameDataset,
    segments: Sequence[Segment],
    settings: EvaluationSettings,
    progress: Progress = lambda _: None,
    *,
    steps: int,
    detail: bool = True,
) -> RolloutMetrics:
    """Generate `steps` steps from every segment and compare with the recording; SSIM and ceiling need `detail`.

    Rollout i has the seed `settings.seed + i`. `progress` is called after each step of each batch.
    """
    count = len(segments)
    dream_MS, repeat_MS, sharpness_MS = (np.empty((count, steps)) for _ in range(3))
    ceiling_M, dream_ssim_M, repeat_ssim_M = (
        {step: np.empty(count) for step in _CEILINGS if detail and step <= steps} for _ in range(3)
    )
    metrics = RolloutMetrics(dream_MS, repeat_MS, ceiling_M, dream_ssim_M, repeat_ssim_M, sharpness_MS)
    last = frames_after(dataset, segments, 0)
    prompts = [segment.prompt(dataset) for segment in segments]
    actions = [segment.future_actions(dataset, steps) for segment in segments]
    for rows, index, frames in rollout_batches(engine, prompts, actions, settings):
        step, truth = index + 1, frames_after(dataset, segments[rows], index + 1)
        dream_MS[rows, index], repeat_MS[rows, index] = (psnr(x, truth, PSNR_CAP) for x in (frames, last[rows]))
        sharpness_MS[rows, index] = sharpness(frames)
        if step in ceiling_M:
            ceiling_M[step][rows] = psnr(reconstruct(engine.model, truth, settings.batch), truth, PSNR_CAP)
            dream_ssim_M[step][rows], repeat_ssim_M[step][rows] = ssim(frames, truth), ssim(last[rows], truth)
        progress("horizon")
    return metrics


def rollout_rows(test: RolloutMetrics, greedy: RolloutMetrics | None, heldout: RolloutMetrics | None) -> list[Row]:
    """Return the report rows: metrics at the marks, the mean over 30 steps, greedy sampling, held-out episodes."""
    row, reach = partial(Row, "horizon", count=len(test.dream_MS)), min(max(MARKS), test.dream_MS.shape[1])
    marks = [step for step in MARKS if step in test.ceiling_M]
    ceiling = {step: float(value.mean()) for step, value in test.ceiling_M.items()}
    rows = []
    for step in marks:
        value, repeat = test.psnr_at(step)
        baselines = {"repeat": repeat, "ceiling": ceiling[step]}
        bar, passed = ("> repeat", value > repeat) if step in _TARGETS else ("", None)
        rows.append(row(f"PSNR at step {step}", value, "dB", baselines, bar, passed))
    baselines = {"repeat": float(test.repeat_MS[:, :reach].mean()), "ceiling": float(np.mean([*ceiling.values()]))}
    rows.append(row(f"PSNR, mean of steps 1 to {reach}", float(test.dream_MS[:, :reach].mean()), "dB", baselines))
    for step in marks:
        baselines = {"repeat": float(test.repeat_ssim_M[step].mean())}
        rows.append(row(f"SSIM at step {step}", float(test.dream_ssim_M[step].mean()), "", baselines))
    for name, other in (("greedy", greedy), ("held out", heldout)):
        for step in MARKS:
            if other is not None and step <= other.dream_MS.shape[1]:
                value, repeat = other.psnr_at(step)
                title, count = f"PSNR at step {step}, {name}", len(other.dream_MS)
                rows.append(row(title, value, "dB", {"repeat": repeat}, count=count))
    return rows


def rollout_curves(test: RolloutMetrics) -> dict[str, object]:
    """Return means over segments by step, JSON values."""
    gain_MS = test.dream_MS - test.repeat_MS
    by_step = {"ceiling_psnr": test.ceiling_M, "dream_ssim": test.dream_ssim_M, "repeat_ssim": test.repeat_ssim_M}
    return {
        "steps": list(range(1, test.dream_MS.shape[1] + 1)),
        "dream_psnr": test.dream_MS.mean(0),
        "repeat_psnr": test.repeat_MS.mean(0),
        **{
            name: {str(step): float(value.mean()) for step, value in values.items()} for name, values in by_step.items()
        },
        "gain_psnr": [gain_M.mean() for gain_M in gain_MS.T],
        "gain_psnr_standard_error": [standard_error(gain_M) for gain_M in gain_MS.T],
        "dream_sharpness": test.sharpness_MS.mean(0),
    }


def collapse_row(collapse: Mapping[str, float]) -> Row:
    """Return the report row: generated over recorded sharpness."""
    real = collapse["real"] or np.nan
    name, ratio = f"sharpness of frame {collapse['step']}, dream over real", collapse["dream"] / real
    bar = f"{100 * (1 - TOLERANCE):.0f} to {100 * (1 + TOLERANCE):.0f} %"
    baselines, count = {"reconstruction over real": collapse["reconstructed"] / real}, int(collapse["segments"])
    return Row("collapse", name, ratio, "%", baselines, bar, abs(ratio - 1) <= TOLERANCE, count)


def measure_collapse(
    model: WorldModel, dataset: FrameDataset, segments: Sequence[Segment], rollout: RolloutMetrics, step: int
) -> dict[str, float]:
    """Return the mean sharpness, in grey levels, of rollouts, recording and reconstructions at one step."""
    real = frames_after(dataset, segments, step)
    return {
        "step": step,
        "dream": float(rollout.sharpness_MS[:, step - 1].mean()),
        "real": float(sharpness(real).mean()),
        "reconstructed": float(sharpness(reconstruct(model, real)).mean()),
        "segments": len(segments),
    }
