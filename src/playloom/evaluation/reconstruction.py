"""Tokenizer metrics: PSNR and SSIM of reconstructed test frames, codebook use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.evaluation.config import EvaluationSettings
from playloom.evaluation.report import Row
from playloom.evaluation.segments import EvaluationContext, encode
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, ssim
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
    run.rows += tokenizer_rows(test, heldout)
    run.counts["tokenizer_frames"] = int(test["frames"])


@torch.inference_mode()
def measure_tokenizer(
    model: WorldModel, dataset: FrameDataset, episodes: Sequence[EpisodeSlice], settings: EvaluationSettings, count: int
) -> dict[str, float]:
    """Return means over `count` frames drawn from these episodes, with the mean frame as the baseline."""
    rows, batch = draw_rows(episodes, count, settings.seed), settings.batch
    mean_frame = _mean_frame(dataset, rows)
    codes, metrics = [], np.empty((4, len(rows)))
    for first in range(0, len(rows), batch):
        truth = np.array(dataset.frames_FHWC[rows[first : first + batch]])
        codes.append(torch.from_numpy(encode(model, truth, batch)))
        columns = slice(first, first + len(truth))
        pictures = (model.tokenizer.decode(codes[-1]).cpu().numpy(), np.broadcast_to(mean_frame, truth.shape))
        for index, picture in enumerate(pictures):
            metrics[2 * index, columns] = psnr(picture, truth, PSNR_CAP)
            metrics[2 * index + 1, columns] = ssim(picture, truth)
    used, perplexity = codebook_use(torch.cat(codes), model.config.tokenizer.codebook_size)
    names = ("psnr", "ssim", "mean_frame_psnr", "mean_frame_ssim")
    means = dict(zip(names, metrics.mean(1).tolist(), strict=True))
    return {**means, "codes_used": used, "perplexity": perplexity, "frames": len(rows)}


def tokenizer_rows(test: Mapping[str, float], heldout: Mapping[str, float] | None) -> list[Row]:
    """Return the report rows."""
    row = partial(Row, "tokenizer", count=int(test["frames"]))
    mean_frame, reached = {"mean frame": test["mean_frame_psnr"]}, test["psnr"] >= LEAST_PSNR
    rows = [
        row("PSNR of reconstructions", test["psnr"], "dB", mean_frame, f">= {LEAST_PSNR:g} dB (aim 27)", reached),
        row("SSIM of reconstructions", test["ssim"], "", {"mean frame": test["mean_frame_ssim"]}),
        row("codebook used", test["codes_used"], "%"),
        row("codebook perplexity", test["perplexity"], "codes"),
    ]
    if heldout is not None:
        mean_frame, count = {"mean frame": heldout["mean_frame_psnr"]}, int(heldout["frames"])
        rows.append(row("PSNR, held-out arena and style", heldout["psnr"], "dB", mean_frame, count=count))
    return rows


def draw_rows(episodes: Sequence[EpisodeSlice], count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` different rows of these episodes (or all there are), in ascending order."""
    rows = np.concatenate([np.arange(episode.start, episode.start + episode.length) for episode in episodes])
    return np.sort(np.random.default_rng(seed).choice(rows, min(count, len(rows)), replace=False))


def _mean_frame(dataset: FrameDataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Mean picture, uint8 [H, W, 3], summed row by row to save memory."""
    total = np.zeros(dataset.frames_FHWC.shape[1:], np.float64)
    for row in rows:
        total += dataset.frames_FHWC[row]
    return (total / len(rows)).round().astype(np.uint8)
