"""Drift of long dreams: sharpness, motion and codes by stretch of steps, against recorded play.

A dream can collapse and recover, so the worst stretch counts beside the slope. M dreams, D stretches of T steps, R
recorded stretches of T steps, N image slots, K codebook entries.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.evaluation.report import MOTION_TOLERANCE, TOLERANCE, Row
from playloom.evaluation.rollout import motion
from playloom.evaluation.segments import EvaluationContext, Segment, episodes_of, frames_after, segment_episodes
from playloom.models.tokenizer.metrics import sharpness
from playloom.models.tokenizer.quantizer import codebook_use

STRETCHES = 10  # stretches of a dream
_EVERY = 5  # steps from one measured frame to the next
# Names of metrics with bars or baselines of their own.
MOTION = "motion, dream over real"
DISTANCE = "distance to the nearest recorded codes"
RECORDED = "recorded distance"


def evaluate(run: EvaluationContext) -> None:
    """Measure the drift of long dreams."""
    s = run.settings
    if not s.drift_dreams:
        return
    length = max(2, s.drift_steps // STRETCHES)
    sharp, moved, codes, starts = [], [], [], []
    picked = np.arange(_EVERY - 1, length, _EVERY) if length >= _EVERY else np.arange(1, length)
    for span, codes_TN in run.encoded:
        for first in range(0, span.length - length + 1, length):
            rows = span.start + first + picked
            now, before = run.dataset.frames_FHWC[rows], run.dataset.frames_FHWC[rows - 1]
            sharp.append([sharpness(now).mean()])
            moved.append([motion(before, now).mean()])
            codes.append(codes_TN[None, first : first + length])
            starts.append(span.start + first)
    if not starts:
        return  # the test episodes are too short
    parts = {"sharpness_MD": np.array(sharp), "motion_MD": np.array(moved), "codes_MDTN": np.array(codes)}
    recorded = Stretches(**parts, episodes_M=episodes_of(run.dataset, starts))
    segments = run.segments(s.drift_dreams, 1)
    dreams = _dream(run, segments, length)
    metrics = drift_metrics(dreams, recorded, run.model.config.tokenizer.codebook_size)
    run.rows += drift_rows(metrics, dreams.episodes_M, length)
    run.curves["drift"] = {name: values_MD.mean(0) for name, values_MD in metrics.items()}
    run.counts["drift_dreams"] = len(segments)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stretches:
    """Stretches of generated or recorded play [M, D]; recorded ones have D = 1."""

    sharpness_MD: NDArray[np.float64]
    motion_MD: NDArray[np.float64]
    codes_MDTN: NDArray[np.int64]
    episodes_M: NDArray[np.int64]


def _dream(run: EvaluationContext, segments: list[Segment], length: int) -> Stretches:
    """Long dreams under the recorded inputs of the segment's episode, from the segment on, over and over."""
    dataset, steps, actions = run.dataset, STRETCHES * length, []
    episodes_M, shape = segment_episodes(dataset, segments), (len(segments), STRETCHES, length)
    for segment, episode in zip(segments, episodes_M, strict=True):
        span = dataset.spans[episode - 1]
        played = np.roll(dataset.actions_FA[span.rows], span.start - segment.row, axis=0)
        actions.append(np.resize(played, (steps, played.shape[1])))
    prompts, before = [segment.prompt(dataset) for segment in segments], frames_after(dataset, segments, 0)
    values = np.full((2, len(segments), steps), np.nan)
    codes = np.empty((len(segments), steps, run.engine.layout.image_slots), np.int64)
    for rows, index, frames, codes_BN in run.rollout_batches(prompts, actions):
        codes[rows, index] = codes_BN
        if index % length % _EVERY == min(_EVERY, length) - 1:
            values[:, rows, index] = sharpness(frames), motion(before[rows], frames)
        before[rows] = frames
        run.progress("drift")
    sharp, moved = np.nanmean(values.reshape(2, *shape), axis=-1)
    codes_MDTN = codes.reshape(*shape, -1)
    return Stretches(sharpness_MD=sharp, motion_MD=moved, codes_MDTN=codes_MDTN, episodes_M=episodes_M)


def drift_metrics(dreams: Stretches, recorded: Stretches, codebook_size: int) -> dict[str, NDArray[np.float64]]:
    """Compare dreams with recorded stretches of the same length.

    Returns, by name and per dream and stretch [M, D], sharpness, motion and perplexity of codes, each over its recorded
    mean, and `DISTANCE`: the total variation, in [0, 1], between the histograms of codes of the stretch and of the
    nearest recorded one. `RECORDED` [R] is that of recorded stretches and the nearest one of another episode.
    """
    dreamed_MDK, recorded_RK = (_histograms(x.codes_MDTN, codebook_size) for x in (dreams, recorded))
    recorded_RK = recorded_RK[:, 0]
    distance_MDR = np.stack([0.5 * np.abs(dreamed_MDK - one_K).sum(-1) for one_K in recorded_RK], axis=-1)
    distance_RR = np.stack([0.5 * np.abs(recorded_RK - one_K).sum(-1) for one_K in recorded_RK])
    distance_RR[recorded.episodes_M[:, None] == recorded.episodes_M] = np.inf
    perplexity_MD, perplexity_R1 = (_perplexity(x.codes_MDTN, codebook_size) for x in (dreams, recorded))
    return {
        "sharpness, dream over real": dreams.sharpness_MD / (recorded.sharpness_MD.mean() or np.nan),
        MOTION: dreams.motion_MD / (recorded.motion_MD.mean() or np.nan),
        "perplexity of codes, dream over real": perplexity_MD / perplexity_R1.mean(),
        DISTANCE: distance_MDR.min(-1),
        RECORDED: distance_RR.min(-1),
    }


def drift_rows(metrics: Mapping[str, NDArray[np.float64]], episodes_M: NDArray[np.int64], length: int) -> list[Row]:
    """Return the report rows: the worst stretch and the slope of every metric."""
    row, rows = partial(Row.of, "drift", episodes_M=episodes_M), []
    for name, values_MD in metrics.items():
        title = f"{name}, worst of {STRETCHES} stretches of {length} steps"
        if name == RECORDED:
            continue
        if name == DISTANCE:
            beside = {"recorded": float(metrics[RECORDED].mean())}
            rows.append(row(title, values_MD, "%", beside, statistic=lambda x_MD: float(x_MD.mean(0).max())))
        else:
            tolerance = MOTION_TOLERANCE if name == MOTION else TOLERANCE
            rows.append(row(title, values_MD, "%", statistic=_worst, tolerance=tolerance))
        rows.append(row(f"{name}, change per 100 steps", values_MD, "%", statistic=partial(_slope, length=length)))
    return rows


def _worst(values_MD: NDArray[np.float64]) -> float:
    means_D = values_MD.mean(0)
    return float(means_D[np.abs(means_D - 1).argmax()])


def _slope(values_MD: NDArray[np.float64], length: int) -> float:
    steps_D = length * np.arange(values_MD.shape[1])
    return float(100 * np.polyfit(steps_D, values_MD.mean(0), 1)[0])


def _histograms(codes_MDTN: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    flat = codes_MDTN.reshape(*codes_MDTN.shape[:2], -1)
    return np.array([[np.bincount(one, minlength=size) / one.size for one in row] for row in flat])


def _perplexity(codes_MDTN: NDArray[np.int64], size: int) -> NDArray[np.float64]:
    return np.array([[codebook_use(torch.from_numpy(one), size)[1] for one in row] for row in codes_MDTN])
