"""Sizes of the tokenizer (no torch)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from playloom.errors import ConfigError, PictureError, check_whole
from playloom.json_io import from_mapping, plain

_LEAST = {"codebook_size": 2, "encoder_blocks": 0, "decoder_blocks": 0, "encoder_layers": 0, "decoder_layers": 0}
_MOST = {"encoder_blocks": 64, "decoder_blocks": 64, "encoder_layers": 128, "decoder_layers": 128}
_MOST |= {"frame_height": 8192, "frame_width": 8192, "code_width": 8192, "widths": 8192, "strides": 64}
_MOST |= {"codebook_size": 2**16}  # codes are stored in 16 bits
# A damaged file must not allocate all memory.
_MOST_STRIDES, _MOST_SLOTS = 8, 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Sizes of a `FrameTokenizer`; `ConfigError` for sizes that do not fit each other.

    The networks are a ladder of grids. A cell of the finest grid holds one patch of pixels. Each stride makes the grid
    coarser; the coarsest is the code grid. Convolutions work on every grid but the last, attention on the last. Without
    strides the ladder has one rung: a plain ViT (Yu et al. 2021, "ViT-VQGAN").
    """

    frame_height: int = 180
    """Rows of a frame, in pixels."""
    frame_width: int = 300
    """Columns of a frame, in pixels."""
    grid_height: int = 9
    """Rows of the code grid."""
    grid_width: int = 15
    """Columns of the code grid."""
    codebook_size: int = 1024
    """Entries of the codebook."""
    code_width: int = 16
    """Width of a codebook entry, which is a unit vector."""
    strides: tuple[int, ...] = (2, 2)
    """Stride from each grid to the next, from the finest to the code grid; empty for a plain ViT."""
    widths: tuple[int, ...] = (48, 96, 192)
    """Channels on each grid, finest first; one more than strides. The last is the transformer's width."""
    encoder_blocks: tuple[int, ...] = (0, 1)
    """Residual convolution blocks of the encoder on each grid but the last, finest first."""
    decoder_blocks: tuple[int, ...] = (1, 2)
    """Residual convolution blocks of the decoder on each grid but the last, finest first."""
    encoder_layers: int = 2
    """Transformer layers of the encoder, on the code grid."""
    decoder_layers: int = 2
    """Transformer layers of the decoder, on the code grid."""
    head_width: int = 64
    """Width of one attention head; divides the last width."""
    codebook_decay: float = 0.99
    """Decay of the moving average of a codebook entry (0 follows at once, 1 never)."""
    revive_after: int = 20
    """Updates without use after which a code is dead and moves to a recent encoder output."""
    recent_outputs: int = 4096
    """Recent encoder outputs kept for the revival of dead codes."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            for number in value if isinstance(value, list | tuple) else (value,):
                if field.name != "codebook_decay":
                    least, most = _LEAST.get(field.name, 1), _MOST.get(field.name, 2**20)
                    check_whole(f"the tokenizer's {field.name}", number, least, most)
        if not 0.0 <= self.codebook_decay < 1.0:
            raise ConfigError(f"codebook_decay is out of range: got {self.codebook_decay}, expected 0 up to below 1")
        if len(self.strides) > _MOST_STRIDES or self.image_slots > _MOST_SLOTS:
            raise ConfigError(
                f"the tokenizer is too large: got {len(self.strides)} strides and {self.image_slots:,} codes a frame, "
                f"expected at most {_MOST_STRIDES} and {_MOST_SLOTS:,}"
            )
        self._check_ladder()

    def _check_ladder(self) -> None:
        if self.frame_height % self.grid_height or self.frame_width % self.grid_width:
            raise ConfigError(
                f"a grid of {self.grid_width} x {self.grid_height} does not divide a frame of {self.frame_width} x "
                f"{self.frame_height} (width x height); choose one that does, such as 30 x 18 for 300 x 180"
            )
        stride = math.prod(self.strides)
        if self.patch_height % stride or self.patch_width % stride:
            raise ConfigError(
                f"strides {self.strides} make {stride}, which does not divide the patch of "
                f"{self.patch_width} x {self.patch_height} pixels; choose strides whose product divides it"
            )
        rungs = len(self.strides)
        lengths = [len(self.widths), len(self.encoder_blocks), len(self.decoder_blocks)]
        if lengths != [rungs + 1, rungs, rungs]:
            raise ConfigError(
                f"{rungs} strides need {rungs + 1} widths, {rungs} encoder_blocks, {rungs} decoder_blocks; "
                f"got {lengths[0]}, {lengths[1]} and {lengths[2]}"
            )
        if self.widths[-1] % self.head_width:
            raise ConfigError(f"head_width {self.head_width} does not divide the last width {self.widths[-1]}")

    @property
    def patch_height(self) -> int:
        """Pixel rows per code."""
        return self.frame_height // self.grid_height

    @property
    def patch_width(self) -> int:
        """Pixel columns per code."""
        return self.frame_width // self.grid_width

    @property
    def stem_patch(self) -> tuple[int, int]:
        """Pixel rows and columns per cell of the finest grid."""
        stride = math.prod(self.strides)
        return self.patch_height // stride, self.patch_width // stride

    @property
    def image_slots(self) -> int:
        """Codes per frame: N."""
        return self.grid_height * self.grid_width

    def check_size(self, frames_BHWC: Any) -> None:
        """Raise PictureError unless an array or tensor holds uint8 RGB frames of exactly the configured size."""
        dtype = str(frames_BHWC.dtype).removeprefix("torch.")
        if dtype != "uint8" or frames_BHWC.ndim != 4 or frames_BHWC.shape[-1] != 3:
            raise PictureError(
                f"pictures have a wrong type: got {dtype} of shape {list(frames_BHWC.shape)}, "
                "expected uint8 RGB of shape [batch, height, width, 3]; convert them to 8 bits without alpha channel"
            )
        rows, columns = frames_BHWC.shape[1:3]
        if (rows, columns) != (self.frame_height, self.frame_width):
            raise PictureError(
                f"a picture has a wrong size: got {columns} x {rows} pixels, expected {self.frame_width} x "
                f"{self.frame_height}; crop or fit it first, or choose another model or preset"
            )

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values; `from_dict` restores an equal config."""
        return dict(plain(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenizerConfig:
        """Build the config from JSON values; missing keys have their default."""
        return from_mapping(cls, values, "the tokenizer config")
