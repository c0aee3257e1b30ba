"""Fine-tuning of a tokenizer's decoder on fixed codes: sharper pictures from a trained model.

Encoder and codebook stay bit for bit the same, so a transformer trained on the codes stays valid.

    >>> run_decoder(DecoderJob(source="arena-live", data=Path("recordings"), out=Path("runs/decoder"), ...))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.data.dataset import EpisodeSlice, FrameDataset, TokenDataset
from playloom.data.sampler import WindowSampler
from playloom.device import pick_device
from playloom.errors import CheckpointError, RecordingError
from playloom.json_io import to_mapping
from playloom.models.checkpoint import fingerprint, save_model
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.losses import TokenizerLoss
from playloom.models.tokenizer.metrics import psnr, sharpness, ssim
from playloom.models.tokenizer.networks import Decoder
from playloom.models.tokenizer.tokenizer import FrameTokenizer, TokenizerOutput, to_pixels
from playloom.training.artifacts import TRANSFORMER_FILE, PretrainedModel, hardware, load_origin, save_tokenizer
from playloom.training.data_source import Preparation, frames_from, tokens_from
from playloom.training.distributed import dist_info
from playloom.training.logger import strip
from playloom.training.loop import Loop, Report
from playloom.training.task import Batch, LoopResult
from playloom.training.tokenizer import STRIP_WIDTH, GanConfig, GanOutput, GanTask, check_frame_size


@dataclass(frozen=True, kw_only=True)
class DecoderTrainingConfig(GanConfig):
    """Settings of a decoder training. The decoder's weights are averaged; the commitment loss is ignored."""

    decoder_blocks: tuple[int, ...] | None = None
    """Residual convolution blocks on each grid but the last, finest first; None: unchanged."""
    decoder_layers: int | None = None
    """Transformer layers; None: unchanged."""


def deepen_decoder(
    tokenizer: FrameTokenizer, *, blocks: Sequence[int] | None, layers: int | None, seed: int
) -> FrameTokenizer:
    """Return the tokenizer with a decoder of another depth.

    Encoder and codebook are copied bit for bit, and so is all of the old decoder that has a place in the new one. Added
    blocks and layers start as the identity, so a deeper decoder begins with the very pictures of the old one.

    Args:
        tokenizer: the trained one; stays as it is.
        blocks: `decoder_blocks` of the new config, finest grid first; None: unchanged.
        layers: `decoder_layers` of the new config; None: unchanged.
        seed: of the added weights.

    Returns:
        In eval mode, on the CPU; only the decoder wants gradients.

    Raises:
        ConfigError: when the depths are impossible.
    """
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


class DecodingLoss(nn.Module):
    """A decoder and its loss as one module. The loss holds the discriminator, which is not trained here."""

    def __init__(self, decoder: Decoder, loss: TokenizerLoss) -> None:
        super().__init__()
        self.decoder = decoder
        self._loss = [loss]  # in a list, so that its weights do not become this module's

    def forward(self, vectors_BhwC: Tensor, pixels_BCHW: Tensor, update: int) -> GanOutput:
        """Decode codebook entries float [B, h, w, C] and compare with pixels float [B, 3, H, W] in [-1, 1]."""
        made_BCHW = self.decoder(vectors_BhwC)
        # No loss of a decoder looks at codes or commitment: the encoder rests.
        no_codes_BN = torch.empty((len(made_BCHW), 0), dtype=torch.int64)
        output = TokenizerOutput(pixels_BCHW=made_BCHW, codes_BN=no_codes_BN, commitment=pixels_BCHW.new_zeros(()))
        judged = self._loss[0](output, pixels_BCHW, update=update, last_layer=self.decoder.last_layer)
        return GanOutput(judged.total, made_BCHW.detach(), judged.parts)


class DecoderTask(GanTask):
    """Train the decoder, and the discriminator if its loss has a weight."""

    def __init__(
        self,
        tokenizer: FrameTokenizer,
        config: DecoderTrainingConfig,
        frames: FrameDataset,
        codes: TokenDataset,
        *,
        perceptual: nn.Module | None = None,
    ) -> None:
        """Train the decoder of `tokenizer` (see `deepen_decoder`) in place.

        Raises:
            RecordingError: when the codes are not those of the frames, row for row.
        """
        _check_same_rows(frames, codes)
        self.tokenizer, self._frames, self._codes = tokenizer, frames, codes
        loop = config.loop
        # The commitment is between encoder and codebook, and both rest.
        weights = dataclasses.replace(config.loss, commitment=0.0)
        loss = TokenizerLoss(weights, perceptual=perceptual, seed=loop.seed)
        super().__init__("decoder", DecodingLoss(tokenizer.decoder, loss), loss, config)
        self.averaged = frozenset({"decoder"})
        self.identity = _identity(tokenizer.config, config, codes)
        rank, ranks = dist_info()
        learned, judged = codes.of_split("train"), codes.of_split("validation") or codes.of_split("train")
        self._train = WindowSampler(spans=learned, steps=1, batch=loop.batch, seed=loop.seed, rank=rank, ranks=ranks)
        self._judged_rows = _spread_rows(judged, config.validation_pictures)

    def to(self, device: torch.device) -> None:
        """Move the frozen networks and those of the losses."""
        self.tokenizer.to(device)
        self.loss.to(device)

    def batch(self, index: int) -> Batch:
        """Return batch `index`: pictures uint8 [B, H, W, 3] and codes int64 [B, N]."""
        return self._gather(np.sort(self._train.rows(index)[:, 0]))

    def generator_inputs(self, batch: Batch, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Return codebook entries, float [B, h, w, C], and pixels."""
        height = self.tokenizer.config.grid_height
        codes_Bhw = rearrange(batch["codes"], "b (h w) -> b h w", h=height)
        return self.tokenizer.quantizer.lookup(codes_Bhw), to_pixels(batch["frames"])

    def validate(self) -> dict[str, float]:
        """Return PSNR and SSIM of decoded codes, and their sharpness over that of the true pictures."""
        figures = []
        for first in range(0, len(self._judged_rows), 16):
            batch = self._gather(self._judged_rows[first : first + 16])
            truth = batch["frames"]
            made = self.tokenizer.decode(batch["codes"]).cpu()
            sharp = (torch.from_numpy(sharpness(picture)).float() for picture in (made, truth))
            figures.append(torch.stack([psnr(made, truth), ssim(made, truth), *sharp]))
        ratio, likeness, sharp, true_sharp = torch.cat(figures, dim=1).mean(1).tolist()
        return {"psnr": ratio, "ssim": likeness, "sharpness": sharp / true_sharp if true_sharp else float("nan")}

    def preview(self) -> NDArray[np.uint8]:
        """Return real pictures above their decoded codes."""
        places = np.linspace(0, len(self._judged_rows) - 1, min(STRIP_WIDTH, len(self._judged_rows))).astype(int)
        batch = self._gather(self._judged_rows[places])
        return strip([batch["frames"].numpy(), self.tokenizer.decode(batch["codes"]).cpu().numpy()])

    def _gather(self, rows_B: NDArray[np.int64]) -> Batch:
        frames = torch.from_numpy(self._frames.frames_FHWC[rows_B])
        return {"frames": frames, "codes": torch.from_numpy(self._codes.tokens_FN[rows_B].astype(np.int64))}


def _identity(tokenizer: TokenizerConfig, config: DecoderTrainingConfig, codes: TokenDataset) -> dict[str, Any]:
    training = {k: v for k, v in to_mapping(config).items() if k != "loop"}
    return {
        "tokenizer": tokenizer.to_dict(),
        "training": {k: list(v) if isinstance(v, tuple) else v for k, v in training.items()},
        "data": {"rows": len(codes), "codes": codes.tokenizer},
    }


def _spread_rows(spans: Sequence[EpisodeSlice], count: int) -> NDArray[np.int64]:
    rows = np.concatenate([np.arange(span.start, span.start + span.length) for span in spans])
    return rows[np.linspace(0, len(rows) - 1, min(count, len(rows))).astype(int)]


def _check_same_rows(frames: FrameDataset, codes: TokenDataset) -> None:
    if frames.spans != codes.spans:
        raise RecordingError(
            f"{codes.folder} holds codes of other episodes ({len(codes)} steps) than {frames.folder} has pictures of "
            f"({len(frames)} steps); remove the codes and start again, or give the recordings they were made of"
        )


Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class DecoderJob:
    """Inputs and outputs of a decoder training."""

    source: str
    """A bundled model's name, a model's folder, or the run's folder of any training."""
    data: Path
    """Recordings or a frame dataset."""
    out: Path
    """Folder of the run."""
    config: DecoderTrainingConfig
    preparation: Preparation


@dataclass(frozen=True)
class DecoderResult:
    """Result of a decoder training."""

    outcome: LoopResult
    path: Path
    """Folder of the exported model; for a tokenizer alone, the run's folder."""


def run_decoder(
    job: DecoderJob, *, perceptual: nn.Module | None = None, report: Report | None = None, say: Say = print
) -> DecoderResult:
    """Run or resume a job, and export: a tokenizer into `out`, a model into `out/model`.

    Args:
        job: what.
        perceptual: a feature distance of one's own, see `TokenizerLoss`.
        report: told about progress.
        say: told one sentence about the data.

    Raises:
        CheckpointError: when the source cannot be read, or `out` holds another run.
        RecordingError: when the data do not fit.
        ConfigError: when the decoder's depths are impossible.
    """
    source, frames, codes = prepare_decoder(job, say)
    config, loop = job.config, job.config.loop
    tokenizer = deepen_decoder(
        source.tokenizer, blocks=config.decoder_blocks, layers=config.decoder_layers, seed=loop.seed
    )
    training = Loop(DecoderTask(tokenizer, config, frames, codes, perceptual=perceptual), loop, job.out, report)
    outcome = training.run()
    path = job.out if source.model is None else job.out / "model"
    if training.fabric.is_global_zero:
        with training.averaged():
            _export(path, source, tokenizer.cpu(), refinement_card(job, source, codes, outcome))
    training.fabric.barrier()
    return DecoderResult(outcome, path)


def prepare_decoder(job: DecoderJob, say: Say = print) -> tuple[PretrainedModel, FrameDataset, TokenDataset]:
    """Prepare pictures and codes, once, in `out`. Arguments as in `run_decoder`."""
    source = load_origin(job.source)
    frames = frames_from(job.data, job.out / "frames", job.preparation)
    check_frame_size(source.tokenizer.config, frames)
    device = pick_device(job.config.loop.device)
    encoder = source.tokenizer.to(device)
    how = dataclasses.replace(job.preparation, mirror=False)
    codes = tokens_from(frames.folder, job.out / "codes", how, encoder, source.name)
    encoder.cpu()
    if dist_info()[0] == 0:
        say(f"{len(codes)} frames in {len(codes.spans)} episodes, tokenizer {codes.tokenizer}")
    return source, frames, codes


def refinement_card(
    job: DecoderJob, source: PretrainedModel, codes: TokenDataset, outcome: LoopResult
) -> dict[str, Any]:
    """Return the model's card with this training added to its list `decoder`, without the old decoder's metrics."""
    seeds = {
        split: [int(span.meta["seed"]) for span in codes.of_split(split) if "seed" in span.meta]
        for split in ("train", "validation")
    }
    decoder = {
        "note": "Only the decoder was trained again, on codes made once; encoder, codebook, transformer are unchanged.",
        "before": source.name,
        "updates": outcome.step,
        "training_seconds": round(outcome.elapsed, 1),
        "data": {"frames": len(codes), "episodes": len(codes.spans), "seeds": seeds},
        "validation": outcome.validation,
        "hardware": hardware(),
        "settings": to_mapping(job.config),
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
    # Written as the source was stored, so that the transformer's file comes out byte for byte.
    for dtype in (torch.float16, None):
        save_model(folder, refined, dtype)
        if fingerprint(folder / TRANSFORMER_FILE) == source.transformer:
            return
    raise CheckpointError(f"{folder / TRANSFORMER_FILE} differs from the source's, which is stored in an unusual type")
