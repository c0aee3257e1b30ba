"""Fine-tuning of a tokenizer's decoder on fixed codes: sharper pictures from a trained model.

Encoder and codebook stay bit for bit the same, so a transformer trained on the codes stays valid.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from playloom.data.dataset import EpisodeSlice, FrameDataset, TokenDataset
from playloom.device import pick_device
from playloom.errors import RecordingError
from playloom.models.tokenizer.tokenizer import FrameTokenizer, to_pixels
from playloom.training.artifacts import PretrainedModel, load_origin, save_model_like, save_tokenizer, training_facts
from playloom.training.data_source import FinetuneJob, frames_from, tokens_from
from playloom.training.distributed import dist_info
from playloom.training.loop import Loop, Report
from playloom.training.task import Batch, Say, TrainingResult
from playloom.training.tokenizer import GanConfig, GanTask, check_frame_size


@dataclass(frozen=True, kw_only=True)
class DecoderTrainingConfig(GanConfig):
    """Settings of a decoder training. The decoder's weights are averaged; there is no commitment loss."""

    decoder_blocks: tuple[int, ...] | None = None
    """Residual convolution blocks on each grid but the last, finest first; None: unchanged."""
    decoder_layers: int | None = None
    """Transformer layers; None: unchanged."""


DecoderJob: TypeAlias = FinetuneJob[DecoderTrainingConfig]


def run_decoder(job: DecoderJob, *, report: Report | None = None, say: Say = print) -> TrainingResult:
    """Run or resume a job, and export: a tokenizer into `out`, a model into `out/model`."""
    source, frames, codes = prepare_decoder(job, say)
    config = job.config
    tokenizer = deepen_decoder(
        source.tokenizer, blocks=config.decoder_blocks, layers=config.decoder_layers, seed=config.loop.seed
    )
    loop = Loop(DecoderTask(tokenizer, config, frames, codes), config.loop, job.out, report)
    result = loop.run()
    path = job.out if source.model is None else job.out / "model"
    loop.export(lambda: _export(path, source, tokenizer.cpu(), _card(job, source, codes, result)))
    return dataclasses.replace(result, path=path)


def prepare_decoder(job: DecoderJob, say: Say = print) -> tuple[PretrainedModel, FrameDataset, TokenDataset]:
    """Prepare pictures and codes, once, in `out`. Arguments as in `run_decoder`."""
    source = load_origin(job.source)
    frames = frames_from(job.data, job.out / "frames", job.prepare)
    check_frame_size(source.tokenizer.config, frames)
    encoder = source.tokenizer.to(pick_device(job.config.loop.device))
    codes = tokens_from(frames.folder, job.out / "codes", job.prepare, encoder, source.name)
    encoder.cpu()
    if dist_info()[0] == 0:
        say(f"{len(codes)} frames in {len(codes.spans)} episodes, tokenizer {codes.tokenizer}")
    return source, frames, codes


def deepen_decoder(
    tokenizer: FrameTokenizer, *, blocks: Sequence[int] | None, layers: int | None, seed: int
) -> FrameTokenizer:
    """Return a frozen copy with a deeper decoder (None: unchanged) to train; added parts start as the identity."""
    old = tokenizer.config
    config = dataclasses.replace(
        old,
        decoder_blocks=old.decoder_blocks if blocks is None else tuple(blocks),
        decoder_layers=old.decoder_layers if layers is None else layers,
    )
    grown = FrameTokenizer(config, seed=seed)
    known = tokenizer.state_dict()
    grown.load_state_dict({name: known.get(name, fresh) for name, fresh in grown.state_dict().items()})
    grown.requires_grad_(False).decoder.requires_grad_(True)
    return grown.eval()


class DecoderTask(GanTask):
    """Train the decoder of a tokenizer (see `deepen_decoder`) in place, on codes made once."""

    def __init__(
        self, tokenizer: FrameTokenizer, config: DecoderTrainingConfig, frames: FrameDataset, codes: TokenDataset
    ) -> None:
        if frames.spans != codes.spans:
            raise RecordingError(
                f"{codes.folder} holds codes of other episodes ({len(codes)} steps) than {frames.folder} has pictures "
                f"of ({len(frames)} steps); remove the codes and start again, or give their recordings"
            )
        spans = codes.of_split("validation") or codes.of_split("train")
        rows_B1 = _spread_rows(spans, config.validation_pictures)[:, None]
        batches = [rows_B1[first : first + 16] for first in range(0, len(rows_B1), 16)]
        super().__init__(tokenizer, config, frames, decoder_only=True, validation_batches=batches)
        self._codes = codes
        self.averaged = frozenset({"decoder"})
        self.run_config["data"]["codes"] = codes.tokenizer

    def gather(self, rows_B1: NDArray[np.int64]) -> Batch:
        """Read frames and codes of rows."""
        codes_BN = self._codes.tokens_FN[np.sort(rows_B1[:, 0])].astype(np.int64)
        return {**super().gather(rows_B1), "codes": torch.from_numpy(codes_BN)}

    def codes(self, batch: Batch) -> Tensor:
        """Return the stored codes."""
        return batch["codes"]

    def inputs(self, batch: Batch, random: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Return codebook entries, float [B, h, w, C], and pixels."""
        codes_Bhw = rearrange(batch["codes"], "b (h w) -> b h w", h=self.tokenizer.config.grid_height)
        return self.tokenizer.quantizer.lookup(codes_Bhw), to_pixels(batch["frames"])


def _spread_rows(spans: Sequence[EpisodeSlice], count: int) -> NDArray[np.int64]:
    rows = np.concatenate([np.arange(span.start, span.start + span.length) for span in spans])
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def _card(job: DecoderJob, source: PretrainedModel, codes: TokenDataset, result: TrainingResult) -> dict[str, Any]:
    decoder = {
        "note": "Only the decoder was trained again, on codes made once; encoder, codebook, transformer are unchanged.",
        "before": source.name,
        **training_facts(codes, result, job.config),
    }
    kept = source.model.card if source.model is not None else {}
    rest = {name: value for name, value in kept.items() if name not in ("evaluation", "decoder")}
    return {**rest, "decoder": [*kept.get("decoder", []), decoder]}


def _export(folder: Path, source: PretrainedModel, tokenizer: FrameTokenizer, card: dict[str, Any]) -> None:
    model = source.model
    if model is None:
        save_tokenizer(folder, tokenizer, card=card)
        return
    config = dataclasses.replace(model.config, tokenizer=tokenizer.config)
    refined = dataclasses.replace(model, config=config, tokenizer=tokenizer, card=card)
    save_model_like(folder, refined, source)
