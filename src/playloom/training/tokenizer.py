"""Training of the tokenizer, a VQ-GAN on single pictures.

>>> train_tokenizer(preset("tiny").tokenizer, config, FrameDataset.open(folder), out=Path("runs/tokenizer"))
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from playloom.data.dataset import FrameDataset
from playloom.data.sampler import WindowSampler, brightness, brightness_factors, frame_batch
from playloom.errors import ConfigError, RecordingError
from playloom.json_io import to_mapping
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.losses import TokenizerLoss, TokenizerLossConfig, hinge_loss
from playloom.models.tokenizer.metrics import psnr, ssim
from playloom.models.tokenizer.quantizer import codebook_use
from playloom.models.tokenizer.tokenizer import FrameTokenizer, to_pixels
from playloom.training.artifacts import PretrainedModel, load_tokenizer, save_tokenizer, training_facts
from playloom.training.config import LoopConfig
from playloom.training.distributed import dist_info
from playloom.training.logger import strip
from playloom.training.loop import Loop, Report
from playloom.training.task import Batch, LoopResult, ModuleLoss, StepContext

STRIP_WIDTH = 6
"""Pictures per row of a preview."""


@dataclass(frozen=True, kw_only=True)
class GanConfig:
    """Settings shared by tokenizer and decoder training.

    Raises:
        ConfigError: when a value is out of range.
    """

    loop: LoopConfig
    loss: TokenizerLossConfig = field(default_factory=TokenizerLossConfig)
    """Weights of the losses."""
    adversarial_from: float = 0.5
    """Part of the run, in [0, 1], after which the discriminator starts (if its loss has a weight)."""
    discriminator_rate: float = 1.0
    """Discriminator learning rate over the generator's."""
    validation_pictures: int = 64
    """Pictures of the "validation" split per validation."""

    def __post_init__(self) -> None:
        if not 0 <= self.adversarial_from <= 1:
            raise ConfigError(f"adversarial_from is out of range: got {self.adversarial_from}, expected 0 to 1")
        for name in ("validation_pictures", "discriminator_rate"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is out of range: got {getattr(self, name)}, expected more than 0")


@dataclass(frozen=True, kw_only=True)
class TokenizerTrainingConfig(GanConfig):
    """Settings of a tokenizer training."""

    brightness: float = 0.0
    """Largest relative change of brightness, as augmentation."""
    mirror: bool = False
    """Mirror half of the pictures."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.brightness <= 1:
            raise ConfigError(f"brightness is out of range: got {self.brightness}, expected 0 to 1")


@dataclass(frozen=True)
class TokenizerRun:
    """Result of `train_tokenizer`."""

    tokenizer: FrameTokenizer
    """As exported: rounded to float16, in eval mode on the CPU."""
    fingerprint: str
    outcome: LoopResult


def train_tokenizer(
    tokenizer: TokenizerConfig,
    config: TokenizerTrainingConfig,
    store: FrameDataset,
    out: Path,
    *,
    start: PretrainedModel | None = None,
    perceptual: nn.Module | None = None,
    report: Report | None = None,
) -> TokenizerRun:
    """Train or resume a tokenizer in the folder `out`, and export it there.

    Args:
        tokenizer: sizes; the frame size must be the store's.
        config: how.
        store: pictures; those of the split "train" are learned, those of "validation" judged.
        out: checkpoints, log, previews and `tokenizer.safetensors` go here; a run found here is resumed.
        start: a tokenizer of the very sizes whose weights to begin with; None: random ones.
        perceptual: a feature distance of one's own, see `TokenizerLoss`.
        report: told about progress.

    Raises:
        RecordingError: when the store's pictures have another size, or none are for training.
        CheckpointError: when `out` holds another run.
    """
    task = TokenizerTask(tokenizer, config, store, perceptual, start)
    loop = Loop(task, config.loop, out, report)
    outcome = loop.run()
    if loop.fabric.is_global_zero:
        with loop.averaged():
            before = () if start is None else (*start.ancestors, start.name)
            save_tokenizer(out, task.tokenizer, before, training_facts(store, outcome, config))
    loop.fabric.barrier()
    exported, name = load_tokenizer(out)
    return TokenizerRun(tokenizer=exported, fingerprint=name, outcome=outcome)


class GanOutput(NamedTuple):
    """Output of a generator's training pass; a tuple, because wrappers look for tensors in those."""

    loss: Tensor
    made_BCHW: Tensor
    """Reconstruction, float around [-1, 1], detached."""
    parts: dict[str, Tensor]
    """Every part of the loss, detached."""


class GanTask:
    """Players and losses of a GAN: a generator, and a discriminator if its loss has a weight.

    Subclasses set `tokenizer` and `identity`, and read data.
    """

    tokenizer: FrameTokenizer
    identity: dict[str, Any]

    def __init__(self, name: str, generator: nn.Module, loss: TokenizerLoss, config: GanConfig) -> None:
        self._generator, self.loss, self._adversarial_from = name, loss, config.adversarial_from
        self.players: dict[str, nn.Module] = {name: generator}
        self.averaged = frozenset[str]()
        self.rates = {name: 1.0}
        if loss.discriminator is not None:
            self.players["discriminator"] = loss.discriminator
            self.rates["discriminator"] = config.discriminator_rate
        self.units = {"pictures": 1}

    def generator_inputs(self, batch: Batch, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Return the generator's arguments; the last one is the true pixels, float [B, 3, H, W] in [-1, 1]."""
        raise NotImplementedError

    def losses(self, players: Mapping[str, nn.Module], batch: Batch, moment: StepContext) -> Iterator[ModuleLoss]:
        """Yield the generator's loss, then the discriminator's on the same pictures once it has started."""
        inputs = self.generator_inputs(batch, moment.random)
        pixels = inputs[-1]
        # The discriminator starts at a part of the run, which only the loop knows; -1 is before every start.
        update = moment.step if moment.fraction >= self._adversarial_from else -1
        self._freeze_discriminator(True)
        passed: GanOutput = players[self._generator](*inputs, update)
        ratio = 10 * torch.log10(4 / (passed.made_BCHW.float() - pixels).square().mean())
        yield ModuleLoss(self._generator, passed.loss, {"loss": passed.loss.detach(), **passed.parts, "psnr": ratio})
        if self.loss.adversarial_on(update):
            self._freeze_discriminator(False)
            scores = players["discriminator"](torch.cat([pixels, passed.made_BCHW.float()]))
            judged = hinge_loss(*scores.float().chunk(2))
            yield ModuleLoss("discriminator", judged, {"discriminator": judged.detach()})

    def _freeze_discriminator(self, frozen: bool) -> None:
        if self.loss.discriminator is not None:
            self.loss.discriminator.requires_grad_(not frozen)


class ReconstructionLoss(nn.Module):
    """The tokenizer and its loss as one module. The loss holds the discriminator, which is not trained here."""

    def __init__(self, tokenizer: FrameTokenizer, loss: TokenizerLoss) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self._loss = [loss]  # in a list, so that its weights do not become this module's

    def forward(self, pixels_BCHW: Tensor, update: int) -> GanOutput:
        """Reconstruct pixels float [B, 3, H, W] in [-1, 1] and compute the loss."""
        output = self.tokenizer(pixels_BCHW)
        last = self.tokenizer.last_layer
        judged = self._loss[0](output, pixels_BCHW, update=update, last_layer=last)
        return GanOutput(judged.total, output.pixels_BCHW.detach(), judged.parts)


class TokenizerTask(GanTask):
    """Train the tokenizer, and the discriminator if its loss has a weight.

    Weights are not averaged: an averaged encoder beside a live codebook names the wrong codes (measured at the end of a
    run: 12.8 dB where the live weights had 22.8). See `Quantizer` for the state that an average would need.
    """

    def __init__(
        self,
        tokenizer: TokenizerConfig,
        config: TokenizerTrainingConfig,
        store: FrameDataset,
        perceptual: nn.Module | None,
        start: PretrainedModel | None = None,
    ) -> None:
        check_frame_size(tokenizer, store)
        self._config, self._store = config, store
        self.tokenizer = FrameTokenizer(tokenizer, seed=config.loop.seed)
        if start is not None:
            self.tokenizer.load_state_dict(start.tokenizer.state_dict())
        loss = TokenizerLoss(config.loss, perceptual=perceptual, seed=config.loop.seed)
        super().__init__("tokenizer", ReconstructionLoss(self.tokenizer, loss), loss, config)
        training = {k: v for k, v in to_mapping(config).items() if k != "loop"}
        self.identity = {"tokenizer": tokenizer.to_dict(), "training": training, "data": {"rows": len(store)}}
        if start is not None:
            self.identity["start"] = {"tokenizer": start.name}
        rank, ranks = dist_info()
        loop = config.loop
        self._train = WindowSampler(
            spans=store.of_split("train"), steps=1, batch=loop.batch, seed=loop.seed, rank=rank, ranks=ranks
        )
        judged = store.of_split("validation") or store.of_split("train")
        self._judged = WindowSampler(spans=judged, steps=1, batch=min(loop.batch, 16), seed=0)

    def to(self, device: torch.device) -> None:
        """Move the networks of the losses."""
        self.loss.to(device)

    def batch(self, index: int) -> Batch:
        """Return batch `index`: pictures uint8 [B, H, W, 3]."""
        return {"frames": frame_batch(self._store, self._train.rows(index))}

    def generator_inputs(self, batch: Batch, random: np.random.Generator) -> tuple[Tensor, ...]:
        """Return augmented pixels."""
        return (to_pixels(self._augmented(batch["frames"], random)),)

    def validate(self) -> dict[str, float]:
        """Return PSNR and SSIM of reconstructions, and codebook use."""
        ratios, likenesses, codes = [], [], []
        for index in range(max(1, self._config.validation_pictures // self._judged.batch)):
            frames = frame_batch(self._store, self._judged.rows(index)).to(self._device)
            codes.append(self.tokenizer.encode(frames))
            made = self.tokenizer.decode(codes[-1])
            ratios.append(psnr(made, frames))
            likenesses.append(ssim(made, frames))
        use = codebook_use(torch.cat(codes), self.tokenizer.config.codebook_size)
        return {
            "psnr": float(torch.cat(ratios).mean()),
            "ssim": float(torch.cat(likenesses).mean()),
            "codes_used": use.fraction,
            "code_perplexity": use.perplexity,
        }

    def preview(self) -> NDArray[np.uint8]:
        """Return real pictures above their reconstructions."""
        frames = frame_batch(self._store, self._judged.rows(0)[:STRIP_WIDTH])
        made = self.tokenizer.decode(self.tokenizer.encode(frames.to(self._device)))
        return strip([frames.numpy(), made.cpu().numpy()])

    @property
    def _device(self) -> torch.device:
        return self.tokenizer.last_layer.device

    def _augmented(self, frames_BHWC: Tensor, random: np.random.Generator) -> Tensor:
        count = len(frames_BHWC)
        if self._config.brightness:
            frames_BHWC = brightness(frames_BHWC, brightness_factors(count, self._config.brightness, random))
        if self._config.mirror:
            flipped = torch.from_numpy(random.random(count) < 0.5).to(frames_BHWC.device)
            frames_BHWC = torch.where(flipped[:, None, None, None], frames_BHWC.flip(2), frames_BHWC)
        return frames_BHWC


def check_frame_size(tokenizer: TokenizerConfig, store: FrameDataset) -> None:
    """Raise RecordingError unless the dataset has pictures of the tokenizer's size."""
    height, width = store.frames_FHWC.shape[1:3]
    if (height, width) != (tokenizer.frame_height, tokenizer.frame_width):
        raise RecordingError(
            f"{store.folder} has pictures of another size: got {width} x {height}, expected "
            f"{tokenizer.frame_width} x {tokenizer.frame_height}; choose another preset, or prepare the data again"
        )
