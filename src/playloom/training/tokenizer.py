"""Training of the tokenizer, a VQ-GAN on single pictures."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.data.dataset import FrameDataset
from playloom.data.sampler import WindowSampler
from playloom.errors import ConfigError
from playloom.json_io import plain
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.losses import TokenizerLoss, TokenizerLossConfig, hinge_loss
from playloom.models.tokenizer.metrics import PSNR_CAP, psnr, sharpness, ssim
from playloom.models.tokenizer.quantizer import codebook_use
from playloom.models.tokenizer.tokenizer import FrameTokenizer, to_pixels
from playloom.training.artifacts import PretrainedModel, save_tokenizer, training_facts
from playloom.training.distributed import dist_info
from playloom.training.loop import Loop, Report
from playloom.training.task import Batch, LoopConfig, ModuleLoss, StepContext, TrainingResult

_STRIP_WIDTH = 6


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig:
    """Settings of a tokenizer training."""

    loop: LoopConfig
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    """Weights of the losses."""
    adversarial_from: float = 0.5
    """Part of the run, in [0, 1], after which the discriminator starts (if its loss has a weight)."""
    discriminator_rate: float = 1.0
    """Discriminator learning rate over the generator's."""
    validation_pictures: int = 64
    """Pictures of the "validation" split per validation."""
    brightness: float = 0.0
    """Largest relative change of brightness, as augmentation."""
    mirror: bool = False
    """Mirror half of the pictures."""

    def __post_init__(self) -> None:
        if self.loop.strategy == "fsdp":
            raise ConfigError("strategy fsdp shards a world model only; leave it out for a tokenizer")
        for name in ("adversarial_from", "brightness"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is out of range: got {getattr(self, name)}, expected 0 to 1")
        for name in ("validation_pictures", "discriminator_rate"):
            if not 0 < (value := getattr(self, name)) < math.inf:
                raise ConfigError(f"{name} is out of range: got {value}, expected a finite number above 0")


def train_tokenizer(
    sizes: TokenizerConfig,
    config: TokenizerTrainingConfig,
    dataset: FrameDataset,
    out: Path,
    *,
    start: PretrainedModel | None = None,
    report: Report | None = None,
) -> TrainingResult:
    """Train or resume a tokenizer, from `start` or random weights, and export it into `out`, rounded to float16."""
    task = TokenizerTask(sizes, config, dataset, start=start)
    loop = Loop(task, config.loop, out, report)
    result = loop.run()
    ancestors = () if start is None else (*start.ancestors, start.name)
    loop.export(lambda: save_tokenizer(out, task.tokenizer, ancestors, training_facts(dataset, result, config)))
    return result


class GeneratorLoss(nn.Module):
    """A tokenizer with its loss, as one module. The discriminator in the loss is not trained here."""

    def __init__(self, tokenizer: FrameTokenizer, loss: TokenizerLoss) -> None:
        super().__init__()
        self.tokenizer = tokenizer  # the name is part of checkpoints
        self._loss = (loss,)  # in a tuple, so that the loss's weights do not become this module's

    def forward(self, pixels_BCHW: Tensor, update: int) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Reconstruct pictures; returns the loss, and detached the pictures and every part."""
        made, commitment = self.tokenizer(pixels_BCHW)
        total, parts = self._loss[0](
            made, pixels_BCHW, update=update, last_layer=self.tokenizer.last_layer, commitment=commitment
        )
        return total, made.detach(), parts


class TokenizerTask:
    """Train a tokenizer, and a discriminator if its loss has a weight, on single pictures.

    The tokenizer is not averaged: an averaged encoder with a live codebook gives wrong codes.
    """

    def __init__(
        self,
        sizes: TokenizerConfig,
        config: TokenizerTrainingConfig,
        frames: FrameDataset,
        *,
        start: PretrainedModel | None = None,
    ) -> None:
        sizes.check_size(frames.frames_FHWC[:1])
        loop, self._config, self._frames = config.loop, config, frames
        self.tokenizer = tokenizer = FrameTokenizer(sizes, seed=loop.seed)
        if start is not None:
            tokenizer.load_state_dict(start.tokenizer.state_dict())
        held_out = frames.of_split("validation") or frames.of_split("train")
        sampler = WindowSampler(spans=held_out, steps=1, batch=min(loop.batch, 16), seed=0)
        count = max(1, config.validation_pictures // sampler.batch)
        self._validation_batches = [sampler.rows(index * sampler.batch) for index in range(count)]
        self.loss = TokenizerLoss(config.loss, seed=loop.seed)
        self.modules: dict[str, nn.Module] = {"tokenizer": GeneratorLoss(tokenizer, self.loss)}
        self.rates = {"tokenizer": 1.0}
        if self.loss.discriminator is not None:
            self.modules["discriminator"] = self.loss.discriminator
            self.rates["discriminator"] = config.discriminator_rate
        self.averaged = frozenset[str]()
        self.units = {"pictures": 1}
        settings = {name: value for name, value in plain(dataclasses.asdict(config)).items() if name != "loop"}
        self.run_config: dict[str, Any] = {"tokenizer": tokenizer.config.to_dict(), "training": settings}
        self.run_config["data"] = {"rows": len(frames)}
        if start is not None:
            self.run_config["start"] = {"tokenizer": start.name}
        rank = dist_info()[0]
        spans = frames.of_split("train")
        self._train = WindowSampler(spans=spans, steps=1, batch=loop.batch, seed=loop.seed, rank=rank)

    def to(self, device: torch.device) -> None:
        """Move the frozen networks and those of the losses."""
        self.tokenizer.to(device)
        self.loss.to(device)

    def batch(self, seen: int) -> Batch:
        """Return a batch: frames uint8 [B, H, W, 3]."""
        return self._gather(self._train.rows(seen))

    def _gather(self, rows_B1: NDArray[np.int64]) -> Batch:
        rows = np.sort(rows_B1[:, 0])  # ascending rows read the disk forwards; the order inside a batch means nothing
        return {"frames": torch.from_numpy(np.asarray(self._frames.frames_FHWC[rows]))}

    def losses(self, modules: Mapping[str, nn.Module], batch: Batch, context: StepContext) -> Iterator[ModuleLoss]:
        """Yield the tokenizer's loss, then the discriminator's on the same pictures once it has started."""
        pixels = to_pixels(self.augmented(batch["frames"], context.random))
        # -1 is before every `adversarial_start`.
        update = context.step if context.fraction >= self._config.adversarial_from else -1
        loss, made_BCHW, parts = modules["tokenizer"](pixels, update)
        ratio = 10 * torch.log10(4 / (made_BCHW.float() - pixels).square().mean())
        yield ModuleLoss("tokenizer", loss, {"loss": loss, **parts, "psnr": ratio})
        if self.loss.adversarial_on(update):
            scores = modules["discriminator"](torch.cat([pixels, made_BCHW.float()]))
            loss = hinge_loss(*scores.float().chunk(2))
            yield ModuleLoss("discriminator", loss, {"discriminator": loss})

    def validate(self) -> dict[str, float]:
        """Return PSNR (at most 50 dB) and SSIM of reconstructions, their sharpness over the true one, and codebook use.

        Sharpness is left out where all pictures are of one colour, SSIM where they are smaller than 11 pixels.
        """
        metrics, codes = [], []
        for rows in self._validation_batches:
            batch = self._gather(rows)
            codes.append(self.tokenizer.encode(batch["frames"]))
            truth, made = batch["frames"], self.tokenizer.decode(codes[-1]).cpu()
            sharp = (torch.from_numpy(sharpness(pictures)).float() for pictures in (made, truth))
            metrics.append(torch.stack([psnr(made, truth, PSNR_CAP), ssim(made, truth), *sharp]))
        ratio, similarity, sharp_made, sharp_true = torch.cat(metrics, dim=1).mean(1).tolist()
        used, perplexity = codebook_use(torch.cat(codes), self.tokenizer.config.codebook_size)
        found = {
            "psnr": ratio,
            "ssim": similarity,
            "sharpness": sharp_made / sharp_true if sharp_true else math.nan,
            "codes_used": used,
            "code_perplexity": perplexity,
        }
        return {name: value for name, value in found.items() if not math.isnan(value)}

    def preview(self) -> NDArray[np.uint8]:
        """Return real pictures above their reconstructions."""
        rows = np.concatenate(self._validation_batches)
        places = np.linspace(0, len(rows) - 1, min(_STRIP_WIDTH, len(rows))).astype(int)
        frames = self._gather(rows[places])["frames"]
        made = self.tokenizer.decode(self.tokenizer.encode(frames)).cpu()
        return rearrange([frames.numpy(), made.numpy()], "r n h w c -> (r h) (n w) c")

    def augmented(self, frames_BHWC: Tensor, random: np.random.Generator) -> Tensor:
        """Return frames with random brightness and mirroring."""
        count = len(frames_BHWC)
        brightness = self._config.brightness
        if brightness:
            factors_B = torch.from_numpy(random.uniform(1 - brightness, 1 + brightness, count).astype(np.float32))
            scaled_BHWC = frames_BHWC.float() * factors_B.to(frames_BHWC.device)[:, None, None, None]
            frames_BHWC = scaled_BHWC.round_().clamp_(0, 255).to(torch.uint8)
        if self._config.mirror:
            flipped = torch.from_numpy(random.random(count) < 0.5).to(frames_BHWC.device)
            frames_BHWC = torch.where(flipped[:, None, None, None], frames_BHWC.flip(2), frames_BHWC)
        return frames_BHWC
