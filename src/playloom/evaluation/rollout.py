"""Frames against recorded ones: the tokenizer's reconstructions, and rollouts by horizon.

Baselines of rollouts from the same segments: the last frame repeated (a model that ignores the controller), the mean
frame, and the tokenizer's reconstruction of the true frame (an upper bound, the ceiling). Sharpness is the mean
absolute Laplacian: it falls below the recorded figure with blur and rises above it with noise. Motion is the mean
absolute change of brightness from one frame to the next: a frozen or a mean frame has none. F frames, M segments, S
steps.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import MOTION_TOLERANCE, TOLERANCE, Row, is_significant, ratio_of_means, standard_error
from playloom.evaluation.segments import (
    EvaluationContext,
    Segment,
    decode,
    encode,
    episodes_of,
    frames_after,
    reconstruct,
    segment_episodes,
    spread,
)
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.metrics import PSNR_CAP, luma, psnr, sharpness, ssim
from playloom.models.tokenizer.quantizer import codebook_use

LEAST_PSNR = 24.0  # least PSNR of a usable tokenizer, dB
MARKS = (1, 3, 10, 30)  # steps of the table
_DETAIL = (1, 3, 10, 20, 30)  # steps of ceiling and SSIM: both are slow, and change little from step to step
_TARGETS = (1, 3, 10)  # steps at which the rollout must beat the repeated frame and the mean frame
_MOTION_STEPS = 10  # over which motion is averaged


def evaluate_tokenizer(run: EvaluationContext) -> None:
    """Measure the tokenizer on test frames, and on a quarter as many held-out ones."""
    s, heldout = run.settings, None
    test = measure_tokenizer(run.model, run.dataset, run.test, s, s.frames)
    run.progress("tokenizer")
    if run.heldout:
        heldout = measure_tokenizer(run.model, run.dataset, run.heldout, s, max(1, s.frames // 4))
        run.progress("tokenizer, held out")
    run.rows += tokenizer_rows(test, heldout, run.model.config.tokenizer.codebook_size)
    run.counts["tokenizer_frames"] = len(test.psnr_F)


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizerMetrics:
    """Metrics of every frame and its reconstruction."""

    psnr_F: NDArray[np.float64]
    ssim_F: NDArray[np.float64]
    sharpness_F2: NDArray[np.float64]  # sharpness of the reconstruction and of the frame, grey levels
    mean_psnr_F: NDArray[np.float64]  # PSNR of the mean frame, dB
    mean_ssim_F: NDArray[np.float64]
    codes_FN: NDArray[np.int64]
    episodes_F: NDArray[np.int64]


def measure_tokenizer(
    model: WorldModel, dataset: FrameDataset, episodes: Sequence[EpisodeSlice], settings: EvaluationSettings, count: int
) -> TokenizerMetrics:
    """Measure the reconstructions of `count` frames drawn from these episodes, with the mean frame as the baseline."""
    rows, batch = draw_rows(episodes, count, settings.seed), settings.batch
    average = mean_frame(dataset, rows)
    codes, found = [], []
    for first in range(0, len(rows), batch):
        truth = np.array(dataset.frames_FHWC[rows[first : first + batch]])
        codes.append(encode(model, truth, batch))
        decoded, mean = decode(model, codes[-1], batch), np.broadcast_to(average, truth.shape)
        likeness = [np.asarray(x) for y in (decoded, mean) for x in (psnr(y, truth, PSNR_CAP), ssim(y, truth))]
        found.append(np.stack([*likeness, sharpness(decoded), sharpness(truth)]))
    metrics_6F = np.concatenate(found, axis=1, dtype=np.float64)
    return TokenizerMetrics(
        **dict(zip(("psnr_F", "ssim_F", "mean_psnr_F", "mean_ssim_F"), metrics_6F, strict=False)),
        sharpness_F2=metrics_6F[4:].T,
        codes_FN=np.concatenate(codes),
        episodes_F=episodes_of(dataset, rows),
    )


def tokenizer_rows(test: TokenizerMetrics, heldout: TokenizerMetrics | None, codebook_size: int) -> list[Row]:
    """Return the report rows of the tokenizer."""
    row = partial(Row.of, "tokenizer", episodes_M=test.episodes_F)
    ratio = partial(row, statistic=ratio_of_means, tolerance=TOLERANCE)

    def used(codes: NDArray[np.int64], index: int) -> float:
        return codebook_use(torch.from_numpy(codes), codebook_size)[index]

    average, reached = {"mean frame": float(test.mean_psnr_F.mean())}, bool(test.psnr_F.mean() >= LEAST_PSNR)
    rows = [
        row("PSNR of reconstructions", test.psnr_F, "dB", average, f">= {LEAST_PSNR:g} dB (aim 27)", reached),
        row("SSIM of reconstructions", test.ssim_F, "", {"mean frame": float(test.mean_ssim_F.mean())}),
        ratio("sharpness, reconstruction over real", test.sharpness_F2, "%"),
        row("codebook used", test.codes_FN, "%", statistic=partial(used, index=0)),
        row("codebook perplexity", test.codes_FN, "codes", statistic=partial(used, index=1)),
    ]
    if heldout is not None:
        average, episodes_F = {"mean frame": float(heldout.mean_psnr_F.mean())}, heldout.episodes_F
        rows.append(row("PSNR, held-out arena and style", heldout.psnr_F, "dB", average, episodes_M=episodes_F))
    return rows


def draw_rows(episodes: Sequence[EpisodeSlice], count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` different rows of these episodes (or all there are), in ascending order."""
    rows = np.concatenate([np.arange(episode.start, episode.start + episode.length) for episode in episodes])
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))


def mean_frame(dataset: FrameDataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the mean of these frames, uint8 [H, W, 3]."""
    total = np.zeros(dataset.frames_FHWC.shape[1:], np.float64)
    for row in rows:  # one by one, to save memory
        total += dataset.frames_FHWC[row]
    return (total / len(rows)).round().astype(np.uint8)


def evaluate(run: EvaluationContext) -> None:
    """Measure long rollouts, short ones (greedy, held out, with wrong actions), and the collapse of sharpness."""
    s = run.settings
    segments = run.segments(s.horizon_segments, s.horizon_reach)
    mean_HWC = mean_frame(run.dataset, draw_rows(run.test, s.frames, s.seed))
    detail = (*_DETAIL, s.collapse_step)
    test = measure_rollout(run, segments, steps=s.horizon_reach, detail=detail, mean_HWC=mean_HWC)
    shuffled = measure_rollout(run, segments, steps=min(max(_TARGETS), s.horizon_steps), shuffled=True)
    greedy = heldout = None
    if s.greedy_segments:
        cold = run.changed(sampling=dataclasses.replace(s.sampling, temperature=0.0))
        greedy = measure_rollout(cold, spread(segments, s.greedy_segments), steps=s.greedy_steps)
        if run.heldout:
            apart = run.segments(s.greedy_segments, s.greedy_steps, heldout=True)
            heldout = measure_rollout(run, apart, steps=s.greedy_steps)
    run.rows += [*rollout_rows(test, greedy, heldout, s.horizon_steps), *action_rows(test, shuffled)]
    run.rows += quality_rows(test, s.collapse_step)
    run.curves["horizon"] = rollout_curves(test)
    run.counts["horizon_segments"] = len(segments)
    run.dreams = (segments, test.codes_MSN)


@dataclass(frozen=True, kw_only=True, eq=False)
class RolloutMetrics:
    """Metrics of every segment (rows) at every step (columns; column 0 is step 1); NaN where not measured."""

    episodes_M: NDArray[np.int64]  # number of each segment's episode
    dream_MS: NDArray[np.float64]  # PSNR of the rollout, dB
    repeat_MS: NDArray[np.float64]  # PSNR of the repeated last frame, dB
    mean_MS: NDArray[np.float64]  # PSNR of the mean frame, dB
    sharpness_MS2: NDArray[np.float64]  # sharpness of the generated and of the recorded frames, grey levels
    motion_MS2: NDArray[np.float64]
    """Motion up to the generated and the recorded frames, grey levels; both from the last recorded frame at step 1."""
    codes_MSN: NDArray[np.int32]
    detail: Sequence[int]  # steps of the slow metrics below
    ceiling_MS: NDArray[np.float64]  # PSNR of the reconstructed true frame, dB
    model_MS: NDArray[np.float64]
    """PSNR of the rollout against the reconstructed true frame, dB: the model's own part of the error."""
    ssim_MS: NDArray[np.float64]
    repeat_ssim_MS: NDArray[np.float64]
    ceiling_sharpness_MS: NDArray[np.float64]  # of the reconstructed true frame, grey levels


def measure_rollout(
    run: EvaluationContext,
    segments: Sequence[Segment],
    *,
    steps: int,
    detail: Sequence[int] = (),
    mean_HWC: NDArray[np.uint8] | None = None,
    shuffled: bool = False,
) -> RolloutMetrics:
    """Generate `steps` steps from every segment and compare with the recording; slow metrics at the steps `detail`.

    `mean_HWC` is the mean frame of the recordings. `shuffled` gives every rollout the recorded actions of another
    segment, half the set away.
    """
    count, dataset = len(segments), run.dataset

    slow = ("ceiling_MS", "model_MS", "ssim_MS", "repeat_ssim_MS", "ceiling_sharpness_MS")
    found = RolloutMetrics(
        episodes_M=segment_episodes(dataset, segments),
        **{name: np.full((count, steps), np.nan) for name in ("dream_MS", "repeat_MS", "mean_MS", *slow)},
        **{name: np.full((count, steps, 2), np.nan) for name in ("sharpness_MS2", "motion_MS2")},
        codes_MSN=np.empty((count, steps, run.model.config.layout.image_slots), np.int32),
        detail=[step for step in dict.fromkeys(detail) if step <= steps],
    )
    last = frames_after(dataset, segments, 0)
    before = np.stack([last, last])
    prompts = [segment.prompt(dataset) for segment in segments]
    actions = np.stack([segment.future_actions(dataset, steps) for segment in segments])
    actions = np.roll(actions, count // 2, axis=0) if shuffled else actions
    for rows, index, frames, codes in run.rollout_batches(prompts, list(actions)):
        truth, at = frames_after(dataset, segments[rows], index + 1), (rows, index)
        both = np.stack([frames, truth])
        found.codes_MSN[at] = codes
        found.dream_MS[at], found.repeat_MS[at] = (psnr(x, truth, PSNR_CAP) for x in (frames, last[rows]))
        if mean_HWC is not None:
            found.mean_MS[at] = psnr(np.broadcast_to(mean_HWC, frames.shape), truth, PSNR_CAP)
        found.sharpness_MS2[at], found.motion_MS2[at] = sharpness(both).T, motion(before[:, rows], both).T
        before[:, rows] = both
        if index + 1 in found.detail:
            again = reconstruct(run.model, truth)
            found.ceiling_MS[at], found.model_MS[at] = psnr(again, truth, PSNR_CAP), psnr(frames, again, PSNR_CAP)
            found.ssim_MS[at], found.repeat_ssim_MS[at] = ssim(frames, truth), ssim(last[rows], truth)
            found.ceiling_sharpness_MS[at] = sharpness(again)
        run.progress("horizon")
    return found


def motion(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return the mean absolute change of brightness between pictures [..., H, W, 3], grey levels [...]."""
    return np.abs(luma(after) - luma(before)).mean((-2, -1)).astype(np.float64)


def rollout_rows(
    test: RolloutMetrics, greedy: RolloutMetrics | None, heldout: RolloutMetrics | None, steps: int = max(MARKS)
) -> list[Row]:
    """Return the report rows: metrics at the marks up to `steps`, their mean, greedy sampling, held-out episodes."""
    row, reach = partial(Row.of, "horizon", episodes_M=test.episodes_M), min(max(MARKS), steps, test.dream_MS.shape[1])
    marks, rows = [step for step in MARKS if step in test.detail and step <= reach], []
    compared = (test.dream_MS, test.repeat_MS, test.mean_MS, test.ceiling_MS)
    for step in marks:
        value, repeat, mean, ceiling = (x_MS[:, step - 1].mean() for x_MS in compared)
        beside = {"repeat": repeat, "mean frame": mean, "ceiling": ceiling}
        bar, passed = ("> repeat, > mean frame", bool(value > max(repeat, mean))) if step in _TARGETS else ("", None)
        rows.append(row(f"PSNR at step {step}", test.dream_MS[:, step - 1], "dB", beside, bar, passed))
    beside = {"repeat": test.repeat_MS[:, :reach].mean()}
    beside["ceiling"] = np.mean([test.ceiling_MS[:, step - 1].mean() for step in test.detail if step <= reach])
    rows.append(row(f"PSNR, mean of steps 1 to {reach}", test.dream_MS[:, :reach].mean(1), "dB", beside))
    for step in marks:
        beside = {"repeat": test.repeat_ssim_MS[:, step - 1].mean()}
        rows.append(row(f"SSIM at step {step}", test.ssim_MS[:, step - 1], "", beside))
    rows += quality_rows(test, min(max(_TARGETS), reach), "horizon")
    for name, other in (("greedy", greedy), ("held out", heldout)):
        for step in MARKS:
            if other is not None and step <= other.dream_MS.shape[1]:
                values_M, beside = other.dream_MS[:, step - 1], {"repeat": other.repeat_MS[:, step - 1].mean()}
                title = f"PSNR at step {step}, {name}"
                rows.append(row(title, values_M, "dB", beside, episodes_M=other.episodes_M))
    return rows


def quality_rows(test: RolloutMetrics, step: int, part: str = "collapse") -> list[Row]:
    """Return the report rows of sharpness at a step, and of motion over ten steps up to it."""
    row = partial(Row.of, part, unit="%", episodes_M=test.episodes_M, statistic=ratio_of_means)
    first = max(0, step - _MOTION_STEPS)
    pairs_M2, again_M = test.sharpness_MS2[:, step - 1], test.ceiling_sharpness_MS[:, step - 1]
    beside = {"reconstruction over real": again_M.mean() / pairs_M2[:, 1].mean()} if step in test.detail else {}
    moved_M2 = test.motion_MS2[:, first:step].mean(1)
    return [
        row(f"sharpness of frame {step}, dream over real", pairs_M2, baselines=beside, tolerance=TOLERANCE),
        row(f"motion of steps {first + 1} to {step}, dream over real", moved_M2, tolerance=MOTION_TOLERANCE),
    ]


def action_rows(test: RolloutMetrics, shuffled: RolloutMetrics) -> list[Row]:
    """Return the report rows: the part of the error that the actions explain, and the model's own part of it."""
    row, rows = partial(Row.of, "horizon", episodes_M=test.episodes_M), []
    marks = [step for step in _TARGETS if step in test.detail and step <= shuffled.dream_MS.shape[1]]
    for step in marks if len(test.episodes_M) > 1 else ():  # one segment has no actions of another
        psnr_M3 = np.stack([x_MS[:, step - 1] for x_MS in (test.dream_MS, shuffled.dream_MS, test.repeat_MS)], -1)
        errors_M3 = 10 ** (-psnr_M3 / 10)  # mean squared errors over 255²
        passed = is_significant(errors_M3[:, 1] - errors_M3[:, 0], test.episodes_M) and _share_of_actions(errors_M3) > 0
        name = f"share of the gain over repeat due to actions, step {step}"
        rows.append(row(name, errors_M3, "%", {}, "> 0 by 2 SE", passed, statistic=_share_of_actions))
    for step in marks:
        real, ceiling = (x_MS[:, step - 1].mean() for x_MS in (test.dream_MS, test.ceiling_MS))
        beside = {"against real": real, "tokenizer": ceiling}
        rows.append(row(f"PSNR against the reconstruction at step {step}", test.model_MS[:, step - 1], "dB", beside))
    return rows


def _share_of_actions(errors_M3: NDArray[np.float64]) -> float:
    """(shuffled - own) over (repeat - own); NaN where the dream is not better than the repeated frame."""
    own, shuffled, repeat = errors_M3.mean(0)
    return float((shuffled - own) / (repeat - own)) if repeat > own else np.nan


def rollout_curves(test: RolloutMetrics) -> dict[str, object]:
    """Return means over segments by step, JSON values."""
    gain_MS = test.dream_MS - test.repeat_MS
    names = ("ceiling_psnr", "model_psnr", "dream_ssim", "repeat_ssim")
    slow = zip(names, (test.ceiling_MS, test.model_MS, test.ssim_MS, test.repeat_ssim_MS), strict=True)
    return {
        "steps": list(range(1, test.dream_MS.shape[1] + 1)),
        "dream_psnr": test.dream_MS.mean(0),
        "repeat_psnr": test.repeat_MS.mean(0),
        **{name: {str(step): x_MS[:, step - 1].mean() for step in test.detail} for name, x_MS in slow},
        "gain_psnr": gain_MS.mean(0),
        "gain_psnr_standard_error": [standard_error(gain_M, test.episodes_M) for gain_M in gain_MS.T],
        "sharpness": dict(zip(("dream", "real"), test.sharpness_MS2.mean(0).T, strict=True)),
        "motion": dict(zip(("dream", "real"), test.motion_MS2.mean(0).T, strict=True)),
    }
