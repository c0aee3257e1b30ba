"""Rollout metrics by horizon: PSNR, SSIM, sharpness and motion against the recorded frames, and the use of actions.

Baselines from the same segments: the last frame repeated (a model that ignores the controller), the mean frame, and the
tokenizer's reconstruction of the true frame (an upper bound, the ceiling). Sharpness is the mean absolute Laplacian: it
falls below the recorded figure with blur and rises above it with noise. Motion is the mean absolute change of
brightness from one frame to the next: a frozen or a mean frame has none. M segments, S steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from playloom.data.dataset import FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.reconstruction import draw_rows, mean_frame
from playloom.evaluation.report import MOTION_TOLERANCE, Row, is_significant, standard_error
from playloom.evaluation.segments import (
    EvaluationContext,
    Progress,
    Segment,
    frames_after,
    reconstruct,
    rollout_batches,
    segment_episodes,
)
from playloom.inference.engine import Engine
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.metrics import PSNR_CAP, luma, psnr, sharpness, ssim

MARKS = (1, 3, 10, 30)
"""Steps of the table."""
_DETAIL = (1, 3, 10, 20, 30)
"""Steps at which ceiling and SSIM are measured: both are slow, and change little from step to step."""
_TARGETS = (1, 3, 10)
"""Steps at which the rollout must beat the repeated frame and the mean frame."""
_MOTION_STEPS = 10
"""Steps over which motion is averaged."""


def evaluate(run: EvaluationContext) -> None:
    """Measure long rollouts, short ones (greedy, held out, with wrong actions), and the collapse of sharpness."""
    s = run.settings
    segments = run.segments(s.horizon_segments, s.horizon_reach)
    measure = partial(measure_rollout, run.engine, run.dataset, progress=run.progress)
    mean_HWC = mean_frame(run.dataset, draw_rows(run.test, s.frames, s.seed))
    test = measure(segments, s, steps=s.horizon_reach, detail=(*_DETAIL, s.collapse_step), mean_HWC=mean_HWC)
    shuffled = measure(segments, s, steps=min(max(_TARGETS), s.horizon_steps), shuffled=True)
    greedy = heldout = None
    if s.greedy_segments:
        cold = dataclasses.replace(s, sampling=dataclasses.replace(s.sampling, temperature=0.0))
        greedy = measure(segments[: s.greedy_segments], cold, steps=s.greedy_steps)
        if run.heldout:
            apart = run.segments(s.greedy_segments, s.greedy_steps, heldout=True)
            heldout = measure(apart, s, steps=s.greedy_steps)
    run.rows += [
        *rollout_rows(test, greedy, heldout),
        *action_rows(test, shuffled),
        *collapse_rows(test, s.collapse_step),
    ]
    run.curves["horizon"] = rollout_curves(test)
    run.counts["horizon_segments"] = len(segments)
    run.dreams = (segments, test.codes_MSN)


@dataclass(frozen=True, eq=False)
class Detail:
    """Slow metrics of every segment at one step."""

    ceiling_M: NDArray[np.float64]
    """PSNR of the reconstructed true frame, dB."""
    model_M: NDArray[np.float64]
    """PSNR of the rollout against the reconstructed true frame, dB: the model's own part of the error."""
    ssim_M: NDArray[np.float64]
    """SSIM of the rollout."""
    repeat_ssim_M: NDArray[np.float64]
    """SSIM of the repeated frame."""
    ceiling_sharpness_M: NDArray[np.float64]
    """Sharpness of the reconstructed true frame, grey levels."""

    def put(
        self,
        rows: slice,
        frames: NDArray[np.uint8],
        truth: NDArray[np.uint8],
        last: NDArray[np.uint8],
        model: WorldModel,
    ) -> None:
        """Measure the rollouts of these rows: frames, recorded frames and repeated frames, [B, H, W, 3] each."""
        again = reconstruct(model, truth)
        self.ceiling_M[rows], self.model_M[rows] = psnr(again, truth, PSNR_CAP), psnr(frames, again, PSNR_CAP)
        self.ssim_M[rows], self.repeat_ssim_M[rows] = ssim(frames, truth), ssim(last, truth)
        self.ceiling_sharpness_M[rows] = sharpness(again)


@dataclass(frozen=True, kw_only=True, eq=False)
class RolloutMetrics:
    """Metrics of every segment (rows) at every step (columns; column 0 is step 1)."""

    episodes_M: NDArray[np.int64]
    """Number of each segment's episode."""
    dream_MS: NDArray[np.float64]
    """PSNR of the rollout, dB."""
    repeat_MS: NDArray[np.float64]
    """PSNR of the repeated last frame, dB."""
    mean_MS: NDArray[np.float64]
    """PSNR of the mean frame, dB; NaN where not measured."""
    sharpness_MS2: NDArray[np.float64]
    """Sharpness of the generated and of the recorded frames, grey levels."""
    motion_MS2: NDArray[np.float64]
    """Motion up to the generated and the recorded frames, grey levels; both from the last recorded frame at step 1."""
    codes_MSN: NDArray[np.int32]
    """Codes of the generated frames."""
    detail: dict[int, Detail]
    """Slow metrics by step."""


def measure_rollout(
    engine: Engine,
    dataset: FrameDataset,
    segments: Sequence[Segment],
    settings: EvaluationSettings,
    progress: Progress = lambda _: None,
    *,
    steps: int,
    detail: Sequence[int] = (),
    mean_HWC: NDArray[np.uint8] | None = None,
    shuffled: bool = False,
) -> RolloutMetrics:
    """Generate `steps` steps from every segment and compare with the recording; `detail` has the steps of `Detail`.

    `mean_HWC` is the mean frame of the recordings. `shuffled` gives every rollout the recorded actions of another
    segment, half the set away. Rollout i has the seed `settings.seed + i`. `progress` is called after each step of each
    batch.
    """
    count = len(segments)
    dream_MS, repeat_MS, mean_MS = (np.full((count, steps), np.nan) for _ in range(3))
    sharpness_MS2, motion_MS2 = (np.empty((count, steps, 2)) for _ in range(2))
    metrics = RolloutMetrics(
        episodes_M=segment_episodes(dataset, segments),
        dream_MS=dream_MS,
        repeat_MS=repeat_MS,
        mean_MS=mean_MS,
        sharpness_MS2=sharpness_MS2,
        motion_MS2=motion_MS2,
        codes_MSN=np.empty((count, steps, engine.model.config.layout.image_slots), np.int32),
        detail={step: Detail(*(np.empty(count) for _ in range(5))) for step in detail if step <= steps},
    )
    last = frames_after(dataset, segments, 0)
    before = np.stack([last, last])
    prompts = [segment.prompt(dataset) for segment in segments]
    actions = np.stack([segment.future_actions(dataset, steps) for segment in segments])
    actions = np.roll(actions, count // 2, axis=0) if shuffled else actions
    for rows, index, frames, codes in rollout_batches(engine, prompts, list(actions), settings):
        both = np.stack([frames, frames_after(dataset, segments[rows], index + 1)])
        metrics.codes_MSN[rows, index] = codes
        dream_MS[rows, index], repeat_MS[rows, index] = (psnr(x, both[1], PSNR_CAP) for x in (frames, last[rows]))
        if mean_HWC is not None:
            mean_MS[rows, index] = psnr(np.broadcast_to(mean_HWC, frames.shape), both[1], PSNR_CAP)
        sharpness_MS2[rows, index] = sharpness(both).T
        motion_MS2[rows, index] = motion(before[:, rows], both).T
        before[:, rows] = both
        if index + 1 in metrics.detail:
            metrics.detail[index + 1].put(rows, frames, both[1], last[rows], engine.model)
        progress("horizon")
    return metrics


def motion(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean absolute change of brightness between pictures [..., H, W, 3], grey levels [...]."""
    return np.abs(luma(after) - luma(before)).mean((-2, -1)).astype(np.float64)


def rollout_rows(test: RolloutMetrics, greedy: RolloutMetrics | None, heldout: RolloutMetrics | None) -> list[Row]:
    """Return the report rows: metrics at the marks, the mean over 30 steps, greedy sampling, held-out episodes."""
    row, reach = partial(Row.of, "horizon", episodes_M=test.episodes_M), min(max(MARKS), test.dream_MS.shape[1])
    marks = [step for step in MARKS if step in test.detail]
    rows = []
    for step in marks:
        value, repeat, mean = (x_MS[:, step - 1].mean() for x_MS in (test.dream_MS, test.repeat_MS, test.mean_MS))
        baselines = {"repeat": repeat, "mean frame": mean, "ceiling": test.detail[step].ceiling_M.mean()}
        bar, passed = ("> repeat, > mean frame", bool(value > max(repeat, mean))) if step in _TARGETS else ("", None)
        rows.append(row(f"PSNR at step {step}", test.dream_MS[:, step - 1], "dB", baselines, bar, passed))
    baselines = {
        "repeat": test.repeat_MS[:, :reach].mean(),
        "ceiling": np.mean([one.ceiling_M.mean() for one in test.detail.values()]),
    }
    rows.append(row(f"PSNR, mean of steps 1 to {reach}", test.dream_MS[:, :reach].mean(1), "dB", baselines))
    for step in marks:
        one = test.detail[step]
        rows.append(row(f"SSIM at step {step}", one.ssim_M, "", {"repeat": one.repeat_ssim_M.mean()}))
    rows += _quality_rows("horizon", test, min(max(_TARGETS), reach))
    for name, other in (("greedy", greedy), ("held out", heldout)):
        for step in MARKS:
            if other is not None and step <= other.dream_MS.shape[1]:
                values_M, repeat = other.dream_MS[:, step - 1], {"repeat": other.repeat_MS[:, step - 1].mean()}
                title = f"PSNR at step {step}, {name}"
                rows.append(row(title, values_M, "dB", repeat, episodes_M=other.episodes_M))
    return rows


def collapse_rows(test: RolloutMetrics, step: int) -> list[Row]:
    """Return the report rows of sharpness and motion far from the prompt."""
    return _quality_rows("collapse", test, step)


def _quality_rows(part: str, test: RolloutMetrics, step: int) -> list[Row]:
    """Sharpness at a step, and motion over ten steps up to it. Blur fails the one, a frozen or mean frame the other."""
    row, first = partial(Row.of_ratio, part, episodes_M=test.episodes_M), max(0, step - _MOTION_STEPS)
    pairs_M2, one = test.sharpness_MS2[:, step - 1], test.detail.get(step)
    beside = {} if one is None else {"reconstruction over real": one.ceiling_sharpness_M.mean() / pairs_M2[:, 1].mean()}
    moved_M2 = test.motion_MS2[:, first:step].mean(1)
    return [
        row(f"sharpness of frame {step}, dream over real", pairs_M2, beside),
        row(f"motion of steps {first + 1} to {step}, dream over real", moved_M2, tolerance=MOTION_TOLERANCE),
    ]


def action_rows(test: RolloutMetrics, shuffled: RolloutMetrics) -> list[Row]:
    """Return the report rows: the part of the error that the actions explain, and the model's own part of it."""
    row, rows = partial(Row.of, "horizon", episodes_M=test.episodes_M), []
    marks = [step for step in _TARGETS if step in test.detail and step <= shuffled.dream_MS.shape[1]]
    for step in marks:
        errors_M3 = _errors(np.stack([x[:, step - 1] for x in (test.dream_MS, shuffled.dream_MS, test.repeat_MS)], -1))
        bar, passed = "> 0 by 2 SE", is_significant(errors_M3[:, 1] - errors_M3[:, 0], test.episodes_M)
        passed = passed and _share_of_actions(errors_M3) > 0
        name = f"share of the gain over repeat due to actions, step {step}"
        rows.append(row(name, errors_M3, "%", {}, bar, passed, statistic=_share_of_actions))
    for step in marks:
        one = test.detail[step]
        beside = {"against real": test.dream_MS[:, step - 1].mean(), "tokenizer": one.ceiling_M.mean()}
        rows.append(row(f"PSNR against the reconstruction at step {step}", one.model_M, "dB", beside))
    return rows


def _errors(psnr_M: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean squared errors from PSNR, over 255²."""
    return 10 ** (-psnr_M / 10)


def _share_of_actions(errors_M3: NDArray[np.float64]) -> float:
    """(shuffled - own) over (repeat - own); NaN where the dream is not better than the repeated frame."""
    own, shuffled, repeat = errors_M3.mean(0)
    return float((shuffled - own) / (repeat - own)) if repeat > own else np.nan


def rollout_curves(test: RolloutMetrics) -> dict[str, object]:
    """Return means over segments by step, JSON values."""
    gain_MS = test.dream_MS - test.repeat_MS
    by_step = {
        "ceiling_psnr": "ceiling_M",
        "model_psnr": "model_M",
        "dream_ssim": "ssim_M",
        "repeat_ssim": "repeat_ssim_M",
    }
    return {
        "steps": list(range(1, test.dream_MS.shape[1] + 1)),
        "dream_psnr": test.dream_MS.mean(0),
        "repeat_psnr": test.repeat_MS.mean(0),
        **{
            name: {str(step): float(getattr(one, field).mean()) for step, one in test.detail.items()}
            for name, field in by_step.items()
        },
        "gain_psnr": gain_MS.mean(0),
        "gain_psnr_standard_error": [standard_error(gain_M, test.episodes_M) for gain_M in gain_MS.T],
        "sharpness": {"dream": test.sharpness_MS2[..., 0].mean(0), "real": test.sharpness_MS2[..., 1].mean(0)},
        "motion": {"dream": test.motion_MS2[..., 0].mean(0), "real": test.motion_MS2[..., 1].mean(0)},
    }
