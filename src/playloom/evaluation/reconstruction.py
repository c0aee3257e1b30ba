"""Tokenizer metrics: PSNR and SSIM of reconstructed test frames, codebook use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row
from playloom.evaluation.segments import EvaluationContext, encode, episodes_of
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, sharpness, ssim
from playloom.models.tokenizer.quantizer import codebook_use

LEAST_PSNR = 24.0
"""Least PSNR of a usable tokenizer, dB."""


def evaluate(run: EvaluationContext) -> None:
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
    """Metrics of every frame."""

    psnr_F: NDArray[np.float64]
    """PSNR of the reconstruction, dB."""
    ssim_F: NDArray[np.float64]
    sharpness_F2: NDArray[np.float64]
    """Sharpness of the reconstruction and of the frame, grey levels."""
    mean_psnr_F: NDArray[np.float64]
    """PSNR of the mean frame, dB."""
    mean_ssim_F: NDArray[np.float64]
    codes_FN: NDArray[np.int64]
    episodes_F: NDArray[np.int64]


def measure_tokenizer(
    model: WorldModel, dataset: FrameDataset, episodes: Sequence[EpisodeSlice], settings: EvaluationSettings, count: int
) -> TokenizerMetrics:
    """Measure the reconstructions of `count` frames drawn from these episodes, with the mean frame as the baseline."""
    rows, batch = draw_rows(episodes, count, settings.seed), settings.batch
    average = mean_frame(dataset, rows)
    codes, metrics_6F = [], np.empty((6, len(rows)))
    for first in range(0, len(rows), batch):
        truth = np.array(dataset.frames_FHWC[rows[first : first + batch]])
        codes.append(encode(model, truth, batch))
        with torch.inference_mode():
            decoded = model.tokenizer.decode(torch.from_numpy(codes[-1])).cpu().numpy()
        mean = np.broadcast_to(average, truth.shape)
        found = [psnr(decoded, truth, PSNR_CAP), ssim(decoded, truth), psnr(mean, truth, PSNR_CAP), ssim(mean, truth)]
        metrics_6F[:, first : first + len(truth)] = np.stack(
            [*map(np.asarray, found), sharpness(decoded), sharpness(truth)]
        )
    return TokenizerMetrics(
        psnr_F=metrics_6F[0],
        ssim_F=metrics_6F[1],
        mean_psnr_F=metrics_6F[2],
        mean_ssim_F=metrics_6F[3],
        sharpness_F2=metrics_6F[4:].T,
        codes_FN=np.concatenate(codes),
        episodes_F=episodes_of(dataset, rows),
    )


def tokenizer_rows(test: TokenizerMetrics, heldout: TokenizerMetrics | None, codebook_size: int) -> list[Row]:
    """Return the report rows."""
    row = partial(Row.of, "tokenizer", episodes_M=test.episodes_F)

    def used(codes: NDArray[np.int64], index: int) -> float:
        return codebook_use(torch.from_numpy(codes), codebook_size)[index]

    average, reached = {"mean frame": float(test.mean_psnr_F.mean())}, bool(test.psnr_F.mean() >= LEAST_PSNR)
    rows = [
        row("PSNR of reconstructions", test.psnr_F, "dB", average, f">= {LEAST_PSNR:g} dB (aim 27)", reached),
        row("SSIM of reconstructions", test.ssim_F, "", {"mean frame": float(test.mean_ssim_F.mean())}),
        Row.of_ratio("tokenizer", "sharpness, reconstruction over real", test.sharpness_F2, episodes_M=test.episodes_F),
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
