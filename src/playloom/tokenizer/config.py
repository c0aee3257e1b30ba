"""The shape of a tokenizer: frame, code grid, codebook, widths. Values only; builds nothing and needs no
torch.

    >>> TokenizerConfig().image_slots
    135
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from playloom.errors import ConfigError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Every size of a `FrameTokenizer`.

    The networks are a ladder of grids. The finest grid holds one patch of pixels a cell; each stride makes
    the grid coarser; the coarsest is the code grid. Convolutions work on every grid but the last, attention
    on the last. With no strides the ladder has one rung, and the network is a plain ViT (Yu et al. 2021,
    "ViT-VQGAN").

    Raises:
        ConfigError: when a size is not positive, the grid does not divide the frame, the strides do not
        divide
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
    """Entries of the codebook: how many different codes there are."""
    code_width: int = 16
    """Numbers a codebook entry has (its direction only: entries have length 1)."""
    strides: tuple[int, ...] = (2, 2)
    """How much coarser each next grid is, from the finest to the code grid; empty for a plain ViT."""
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
    """How slowly a codebook entry follows the encoder outputs that choose it (0 at once, 1 never)."""
    revive_after: int = 20
    """A code that no frame has chosen for so many updates is dead and is put on a recent encoder output."""
    recent_outputs: int = 4096
    """How many recent encoder outputs are kept to revive dead codes from."""

    def __post_init__(self) -> None:
        """Lists (from JSON) become tuples; impossible values raise."""
        for name in ("strides", "widths", "encoder_blocks", "decoder_blocks"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        self._check_signs()
        self._check_ladder()

    def _check_signs(self) -> None:
        may_be_zero = {"encoder_layers", "decoder_layers", "encoder_blocks", "decoder_blocks"}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name == "codebook_decay":
                continue
            least = 0 if field.name in may_be_zero else 1
            for number in value if isinstance(value, tuple) else (value,):
                if isinstance(number, bool) or not isinstance(number, int) or number < least:
                    raise ConfigError(f"tokenizer {field.name} must be whole numbers from {least}; got {value!r}")
        if not 0.0 <= self.codebook_decay < 1.0:
            raise ConfigError(f"tokenizer codebook_decay must be in [0, 1); got {self.codebook_decay!r}")
        if self.codebook_size < 2:
            raise ConfigError(f"tokenizer codebook_size must be at least 2; got {self.codebook_size}")

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
        """Pixel rows one code stands for."""
        return self.frame_height // self.grid_height

    @property
    def patch_width(self) -> int:
        """Pixel columns one code stands for."""
        return self.frame_width // self.grid_width

    @property
    def stem_patch(self) -> tuple[int, int]:
        """Pixel rows and columns of one cell of the finest grid."""
        stride = math.prod(self.strides)
        return self.patch_height // stride, self.patch_width // stride

    @property
    def image_slots(self) -> int:
        """Codes a frame has: N."""
        return self.grid_height * self.grid_width

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values; `from_dict` rebuilds an equal config."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenizerConfig:
        """The config of a mapping read from JSON; missing keys take their default.

        Raises:
            ConfigError: for an unknown key, naming the nearest one, or an impossible value.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values:
            if key not in known:
                raise ConfigError(f"unknown tokenizer key {key!r}; {nearest(key, known)}")
        return cls(**values)
