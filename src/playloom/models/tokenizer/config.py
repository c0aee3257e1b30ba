"""Sizes of the tokenizer (no torch).

>>> TokenizerConfig().image_slots
135
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from playloom.errors import ConfigError, check_whole
from playloom.json_io import from_mapping, plain

# Least and most. Beyond these nothing is a tokenizer: a file that says so must not take a machine's memory.
_RANGES = {
    "frame_height": (1, 8192),
    "frame_width": (1, 8192),
    "grid_height": (1, 1024),
    "grid_width": (1, 1024),
    "codebook_size": (2, 2**20),
    "code_width": (1, 8192),
    "strides": (1, 64),
    "widths": (1, 8192),
    "encoder_blocks": (0, 64),
    "decoder_blocks": (0, 64),
    "encoder_layers": (0, 128),
    "decoder_layers": (0, 128),
    "head_width": (1, 8192),
    "revive_after": (1, 2**40),
    "recent_outputs": (1, 2**20),
}
_MOST_STRIDES = 8
_MOST_SLOTS = 10_000


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Sizes of a `FrameTokenizer`.

    The networks are a ladder of grids. The finest grid holds one patch of pixels a cell; each stride makes
    the grid coarser; the coarsest is the code grid. Convolutions work on every grid but the last, attention
    on the last. With no strides the ladder has one rung, and the network is a plain ViT (Yu et al. 2021,
    "ViT-VQGAN").

    Raises:
        ConfigError: when a size is not positive, the grid does not divide the frame, the strides do not divide
            the patch, or a list has another length than the ladder.
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
        for name in ("strides", "widths", "encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_signs()
        self._check_ladder()

    def _check_signs(self) -> None:
        for name, (least, most) in _RANGES.items():
            value = getattr(self, name)
            for number in value if isinstance(value, tuple) else (value,):
                check_whole(f"the tokenizer's {name}", number, least, most)
        if not isinstance(self.codebook_decay, int | float) or not 0.0 <= self.codebook_decay < 1.0:
            raise ConfigError(
                f"the tokenizer's codebook_decay is {self.codebook_decay!r:.60}; expected 0 up to below 1"
            )
        if len(self.strides) > _MOST_STRIDES or self.image_slots > _MOST_SLOTS:
            raise ConfigError(
                f"the tokenizer has {len(self.strides)} strides and {self.image_slots:,} codes a frame; expected at "
                f"most {_MOST_STRIDES} and {_MOST_SLOTS:,}"
            )

    def _check_ladder(self) -> None:
        if self.frame_height % self.grid_height or self.frame_width % self.grid_width:
            raise ConfigError(
                f"a grid of {self.grid_width} x {self.grid_height} does not divide a frame of "
                f"{self.frame_width} x {self.frame_height} (width x height); choose one that does, such as "
                "30 x 18 for 300 x 180"
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

    @property
    def parameter_count(self) -> int:
        """Parameters of encoder, codebook and decoder."""
        width, slots = self.widths[-1], self.image_slots
        layer = 4 * width + 4 * (width + 1) * width + _two_linear(width, 4 * width, width)
        count = 2 * slots * width + (self.encoder_layers + self.decoder_layers) * layer
        for i, stride in enumerate(self.strides):
            fine, coarse, area = self.widths[i], self.widths[i + 1], stride * stride
            block = 2 * fine + 2 * (9 * fine + 1) * fine
            count += (self.encoder_blocks[i] + self.decoder_blocks[i]) * block
            count += (area * fine + 1) * coarse + (coarse + 1) * area * fine
        patch, seen = 3 * math.prod(self.stem_patch), 9 if self.strides else 1
        count += (patch + 1) * self.widths[0] + 2 * self.widths[0] + (seen * self.widths[0] + 1) * patch
        count += 2 * width + _two_linear(width, 2 * width, self.code_width) + (self.code_width + 1) * width
        return count + (self.codebook_size + 2) * self.code_width

    @property
    def stored_numbers(self) -> int:
        """Numbers in a weights file: parameters and codebook statistics."""
        return self.parameter_count + 2 * self.codebook_size + self.recent_outputs * self.code_width + 3

    def to_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values; `from_dict` restores an equal config."""
        return dict(plain(dataclasses.asdict(self)))

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenizerConfig:
        """Build the config from a mapping read from JSON; missing keys take their default.

        Raises:
            ConfigError: for an unknown key, naming the nearest one, or an impossible value.
        """
        return from_mapping(cls, values, "the tokenizer config")


def _two_linear(first: int, middle: int, last: int) -> int:
    return (first + 1) * middle + (middle + 1) * last
