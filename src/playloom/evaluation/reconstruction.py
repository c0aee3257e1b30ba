"""Tokenizer metrics: PSNR and SSIM of reconstructed test frames, codebook use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from playloom.data.dataset import EpisodeSlice, FrameDataset
from playloom.evaluation.report import Row
from playloom.evaluation.segments import encode
from playloom.models.checkpoint import WorldModel
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, ssim
from playloom.models.tokenizer.quantizer import codebook_use

LEAST_PSNR = 24.0
"""Least PSNR of a usable tokenizer, dB."""


@dataclass(frozen=True, kw_only=True)
class TokenizerQuality:
    """Means over the frames."""

    psnr: float
    """dB."""
    ssim: float
    mean_frame_psnr: float
    """Baseline: the mean of these frames, dB."""
    mean_frame_ssim: float
    used: int
    """Distinct codes."""
    fraction: float
    """Share of the codebook in use."""
    perplexity: float
    """exp(entropy) of the code distribution."""
    frames: int


def measure_tokenizer(
    model: WorldModel, store: FrameDataset, spans: Sequence[EpisodeSlice], *, count: int, seed: int, batch: int = 16
) -> TokenizerQuality:
    """Measure `count` frames drawn from these episodes."""
    rows = frame_rows(spans, count, seed)
    mean_frame = mean_of(store, rows)
    codes = []
    figures = np.empty((4, len(rows)))
    for first in range(0, len(rows), batch):
        truth = np.array(store.frames_FHWC[rows[first : first + batch]])
        codes.append(encode(model, truth, batch))
        with torch.inference_mode():
            again = model.tokenizer.decode(torch.from_numpy(codes[-1])).cpu().numpy()
        flat = np.broadcast_to(mean_frame, truth.shape)
        columns = slice(first, first + len(truth))
        for index, picture in enumerate((again, flat)):
            figures[2 * index, columns] = psnr(picture, truth, PSNR_CAP)
            figures[2 * index + 1, columns] = ssim(picture, truth)
    use = codebook_use(torch.from_numpy(np.concatenate(codes)), model.config.tokenizer.codebook_size)
    means = figures.mean(1)
    return TokenizerQuality(
        psnr=float(means[0]),
        ssim=float(means[1]),
        mean_frame_psnr=float(means[2]),
        mean_frame_ssim=float(means[3]),
        used=use.used,
        fraction=use.fraction,
        perplexity=use.perplexity,
        frames=len(rows),
    )


def tokenizer_rows(test: TokenizerQuality, heldout: TokenizerQuality | None) -> list[Row]:
    """Return the report rows."""
    rows = [
        Row(
            part="tokenizer",
            name="PSNR of reconstructions",
            value=test.psnr,
            unit="dB",
            baselines={"mean frame": test.mean_frame_psnr},
            bar=f">= {LEAST_PSNR:g} dB (aim 27)",
            passed=test.psnr >= LEAST_PSNR,
            count=test.frames,
        ),
        Row(
            part="tokenizer",
            name="SSIM of reconstructions",
            value=test.ssim,
            baselines={"mean frame": test.mean_frame_ssim},
            count=test.frames,
        ),
        Row(part="tokenizer", name="codebook used", value=test.fraction, unit="%", count=test.frames),
        Row(part="tokenizer", name="codebook perplexity", value=test.perplexity, unit="codes", count=test.frames),
    ]
    if heldout is not None:
        rows.append(
            Row(
                part="tokenizer",
                name="PSNR, held-out arena and style",
                value=heldout.psnr,
                unit="dB",
                baselines={"mean frame": heldout.mean_frame_psnr},
                count=heldout.frames,
            )
        )
    return rows


def frame_rows(spans: Sequence[EpisodeSlice], count: int, seed: int) -> NDArray[np.int64]:
    """Draw `count` different rows of these episodes (or all there are), in ascending order."""
    rows = np.concatenate([np.arange(span.start, span.start + span.length) for span in spans])
    source = np.random.default_rng(seed)
    return np.sort(source.choice(rows, min(count, len(rows)), replace=False))


def mean_of(store: FrameDataset, rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Return the mean picture, uint8 [H, W, 3], summed row by row to save memory."""
    total = np.zeros(store.frames_FHWC.shape[1:], np.float64)
    for row in rows:
        total += store.frames_FHWC[row]
    return (total / len(rows)).round().astype(np.uint8)
