"""What a tokenizer is trained to make small. Owns the parts and their weights; knows no optimiser and no
loop.

    loss = TokenizerLoss(TokenizerLossConfig())
    parts = loss(output, pixels_BCHW, update=update, last_layer=tokenizer.last_layer)
    parts.total.backward()                                               # then step the tokenizer
    loss.discriminator_loss(output, pixels_BCHW, update=update).backward()    # if loss.adversarial_on(update)

Reconstruction (Esser et al. 2021, arXiv:2012.09841, with squared error as in Yu et al. 2021), local
contrast (after Abrahamyan et al. 2022, arXiv:2202.00997), a feature distance, and an adversarial part that
starts late and is weighted by the gradient norms at the decoder's last layer (Esser et al. 2021, section
3.2). A part of weight 0 is never computed.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from playloom.errors import ConfigError
from playloom.tokenizer.discriminator import PatchDiscriminator, hinge_loss
from playloom.tokenizer.frame_tokenizer import TokenizerOutput
from playloom.tokenizer.perceptual import efficientnet_distance

_WINDOW, _STRIDE = 12, 4
"""Side of the windows of `detail_distance` and the way from one to the next, in pixels."""
_SCALES = (1, 2)
"""How coarse the pictures are that `detail_distance` looks at: as they are, and halved."""


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """The weight of each part; 0 switches a part off.

    Raises:
        ConfigError: when a weight is negative, all reconstruction weights are 0, or a size does not fit.
    """

    l1: float = 1.0
    """Mean absolute error of pixels in [-1, 1]."""
    l2: float = 1.0
    """Mean squared error of pixels in [-1, 1]."""
    edge: float = 0.0
    """Mean absolute error of the differences between neighbouring pixels."""
    detail: float = 0.0
    """Distance in the strength of edges, neighbourhood by neighbourhood (`detail_distance`)."""
    commitment: float = 0.25
    """Squared distance of latents to their codebook entries."""
    perceptual: float = 0.0
    """Feature distance, by default in EfficientNet-Lite0."""
    adversarial: float = 0.0
    """PatchGAN, on top of its adaptive weight."""
    adversarial_start: int = 0
    """The first update that trains and uses the discriminator."""
    adaptive_limit: float = 1e4
    """The adaptive weight is never larger."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer; a multiple of 8."""
    discriminator_layers: int = 3
    """Layers of the discriminator after its first: how large its patches are."""

    def __post_init__(self) -> None:
        """Impossible values raise."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not value >= 0:
                raise ConfigError(f"tokenizer loss {field.name} must be at least 0; got {value!r}")
        if not self.l1 + self.l2 + self.edge:
            raise ConfigError(
                "tokenizer loss l1, l2 and edge are all 0; give one a weight, or nothing is reconstructed"
            )
        if self.discriminator_width < 8 or self.discriminator_width % 8 or self.discriminator_layers < 1:
            raise ConfigError(
                "tokenizer loss discriminator_width must be a multiple of 8, discriminator_layers 1 or more; "
                f"got {self.discriminator_width} and {self.discriminator_layers}"
            )


@dataclass(frozen=True, kw_only=True)
class LossParts:
    """One update's loss, and what it is made of."""

    total: Tensor
    """The weighted sum, a scalar to call `backward` on."""
    parts: dict[str, Tensor]
    """Each computed part before its weight, detached, by config field; and "adaptive_weight"."""


class TokenizerLoss(nn.Module):
    """The losses of a tokenizer; its only trained part, and all its `state_dict`, is the discriminator."""

    def __init__(self, config: TokenizerLossConfig, *, perceptual: nn.Module | None = None, seed: int = 0) -> None:
        """Builds the parts whose weight is not 0.

        Args:
            config: the weights.
            perceptual: a module from two pictures, float [B, 3, H, W] in [-1, 1], to a scalar; it should be
            frozen
                and its weights are left out of checkpoints. Default: `efficientnet_distance()`.
            seed: of the discriminator's weights.

        Raises:
            MissingExtraError: when the default feature network is wanted and not installed.
        """
        super().__init__()
        self.config = config
        self.perceptual: nn.Module | None = None
        self.discriminator: PatchDiscriminator | None = None
        if config.perceptual:
            self.perceptual = perceptual or efficientnet_distance()
            self.perceptual.requires_grad_(False).eval()
        if config.adversarial:
            self.discriminator = PatchDiscriminator(
                width=config.discriminator_width, layers=config.discriminator_layers, seed=seed
            )

    def adversarial_on(self, update: int) -> bool:
        """Whether the discriminator is trained and used at this update."""
        return self.discriminator is not None and update >= self.config.adversarial_start

    def forward(self, output: TokenizerOutput, pixels_BCHW: Tensor, *, update: int, last_layer: Tensor) -> LossParts:
        """The tokenizer's loss.

        Args:
            output: what the tokenizer made of the pixels.
            pixels_BCHW: the true pixels, float [B, 3, H, W] in [-1, 1].
            update: number of this update, from 0.
            last_layer: the decoder's last weight, `FrameTokenizer.last_layer`.
        """
        config = self.config
        made_BCHW = output.pixels_BCHW.float()
        terms = _pixel_terms(config, made_BCHW, pixels_BCHW)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(made_BCHW, pixels_BCHW)
        weights = dataclasses.asdict(config)
        reconstruction = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
        total = reconstruction
        parts = {name: term.detach() for name, term in terms.items()}
        if config.commitment:
            total = total + config.commitment * output.commitment
            parts["commitment"] = output.commitment.detach()
        if self.discriminator is not None and self.adversarial_on(update):
            # Detached weights: the tokenizer must not leave gradients in the discriminator.
            frozen = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
            adversarial = -torch.func.functional_call(self.discriminator, frozen, (made_BCHW,)).mean()
            adaptive = adaptive_weight(reconstruction, adversarial, last_layer, limit=config.adaptive_limit)
            total = total + config.adversarial * adaptive * adversarial
            parts |= {"adversarial": adversarial.detach(), "adaptive_weight": adaptive}
        return LossParts(total=total, parts=parts)

    def discriminator_loss(self, output: TokenizerOutput, pixels_BCHW: Tensor, *, update: int) -> Tensor:
        """The discriminator's own loss, a scalar; 0 while it is off. Gives the tokenizer no gradient."""
        if self.discriminator is None or not self.adversarial_on(update):
            return pixels_BCHW.new_zeros(())
        return hinge_loss(self.discriminator(pixels_BCHW), self.discriminator(output.pixels_BCHW.detach().float()))


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, *, limit: float) -> Tensor:
    """Ratio of the gradient norms of two losses at the decoder's last layer: makes the second pull as hard.

    Args:
        reconstruction: scalar with a graph to `last_layer`.
        adversarial: likewise.
        last_layer: the parameter to compare at.
        limit: the largest weight returned.

    Returns:
        A detached scalar in [0, limit].
    """
    (strong,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (weak,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    ratio: Tensor = strong.norm() / (weak.norm() + 1e-4)
    return ratio.clamp(0.0, limit).detach()


def _pixel_terms(config: TokenizerLossConfig, made_BCHW: Tensor, true_BCHW: Tensor) -> dict[str, Tensor]:
    """The pixel losses that have a weight, by field name."""
    gap_BCHW = made_BCHW - true_BCHW
    terms: dict[str, Tensor] = {}
    if config.l1:
        terms["l1"] = gap_BCHW.abs().mean()
    if config.l2:
        terms["l2"] = gap_BCHW.square().mean()
    if config.edge:
        across = (gap_BCHW[..., 1:] - gap_BCHW[..., :-1]).abs().mean()
        terms["edge"] = across + (gap_BCHW[..., 1:, :] - gap_BCHW[..., :-1, :]).abs().mean()
    if config.detail:
        terms["detail"] = detail_distance(made_BCHW, true_BCHW)
    return terms


def detail_distance(made_BCHW: Tensor, true_BCHW: Tensor) -> Tensor:
    """How unlike two pictures are in the strength of their edges, neighbourhood by neighbourhood.

    Where a code does not say exactly where an edge lies, the best guess for every pixel is a blur. This loss
    asks in each window of 12 x 12 pixels for as much difference between neighbours (their root mean square) as
    the true picture has, not for the same differences: a sharp edge two pixels beside its place costs less than
    a blurred one in its place. It asks so at full and at half size, because fine grain, which is contrast without
    edges, vanishes at half size. The idea is the gradient variance loss (Abrahamyan et al. 2022,
    arXiv:2202.00997); root mean square in place of variance keeps it in the unit of the pixels.

    Args:
        made_BCHW: float [B, 3, H, W] around [-1, 1]; gradients flow here.
        true_BCHW: float [B, 3, H, W] in [-1, 1].

    Returns:
        A scalar, at least 0: the mean absolute difference, in the unit of the pixels, across plus down, mean of both
        sizes.
    """
    distances = []
    for scale in _SCALES:
        coarse_made, coarse_true = (F.avg_pool2d(x_BCHW, scale) for x_BCHW in (made_BCHW, true_BCHW))
        for axis in (-1, -2):
            made, true = (_local_contrast(x_BCHW, axis, scale) for x_BCHW in (coarse_made, coarse_true))
            distances.append((made - true).abs().mean())
    return torch.stack(distances).sum() / len(_SCALES)


def _local_contrast(x_BCHW: Tensor, axis: int, scale: int) -> Tensor:
    """Root mean square of the differences of neighbours along an axis, in overlapping windows."""
    step_BCHW = x_BCHW.diff(dim=axis)
    # The small number keeps the root's slope finite where a window is flat.
    return (F.avg_pool2d(step_BCHW.square(), _WINDOW // scale, _STRIDE // scale) + 1e-4).sqrt()
