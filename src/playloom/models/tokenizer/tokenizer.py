"""Frames to codes and back.

tokenizer = FrameTokenizer(TokenizerConfig()).eval()
codes_BN = tokenizer.encode(frames_BHWC)       # uint8 [B, 180, 300, 3] -> int64 [B, 135]
frames_BHWC = tokenizer.decode(codes_BN)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from playloom.errors import BadInputError, PictureError
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.networks import Decoder, Encoder
from playloom.models.tokenizer.quantizer import Quantizer

FitMode = Literal["crop", "fit"]
"""crop: cut out the middle, then resize. fit: resize the whole picture and pad with black."""


def check_frames(frames_BHWC: Tensor) -> None:
    """Raise PictureError unless the tensor is uint8 [B, H, W, 3]."""
    if not isinstance(frames_BHWC, Tensor):
        raise PictureError(
            f"pictures must be a torch tensor; got {type(frames_BHWC).__name__}: torch.from_numpy makes one"
        )
    if frames_BHWC.dtype != torch.uint8 or frames_BHWC.ndim != 4 or frames_BHWC.shape[-1] != 3:
        raise PictureError(
            "pictures must be uint8 RGB of shape [batch, height, width, 3]; got "
            f"{str(frames_BHWC.dtype)[6:]} of shape {list(frames_BHWC.shape)}; drop the "
            "alpha channel and convert to 8 bits first"
        )


def fit_frames(frames_BHWC: Tensor, *, height: int, width: int, mode: FitMode = "crop") -> Tensor:
    """Resize pictures to exactly `height` x `width`, keeping their aspect ratio.

    Args:
        frames_BHWC: uint8 [B, H, W, 3], range [0, 255].
        height: rows wanted.
        width: columns wanted.
        mode: "crop" cuts the largest centred part of the wanted aspect; "fit" keeps all, in a black border.

    Returns:
        uint8 [B, height, width, 3]; the input itself when it has that size.

    Raises:
        PictureError: when the tensor is not uint8 [B, H, W, 3], has no pixels, or the mode is unknown.
    """
    check_frames(frames_BHWC)
    rows, columns = frames_BHWC.shape[1:3]
    if not rows or not columns:
        raise PictureError(f"a picture of {columns} x {rows} pixels has nothing to see; give one with pixels")
    if mode not in ("crop", "fit"):
        raise PictureError(f"unknown way to fit a picture: {mode!r}; choose 'crop' or 'fit'")
    if (rows, columns) == (height, width):
        return frames_BHWC
    if mode == "crop":
        return _resize(_crop_to_aspect(frames_BHWC, height, width), height, width)
    scale = min(height / rows, width / columns)
    inner_height, inner_width = max(1, round(rows * scale)), max(1, round(columns * scale))
    top, left = (height - inner_height) // 2, (width - inner_width) // 2
    fitted_BHWC = frames_BHWC.new_zeros((len(frames_BHWC), height, width, 3))
    inner_BHWC = _resize(frames_BHWC, inner_height, inner_width)
    fitted_BHWC[:, top : top + inner_height, left : left + inner_width] = inner_BHWC
    return fitted_BHWC


def _crop_to_aspect(frames_BHWC: Tensor, height: int, width: int) -> Tensor:
    rows, columns = frames_BHWC.shape[1:3]
    kept_rows = min(rows, max(1, round(columns * height / width)))
    kept_columns = min(columns, max(1, round(rows * width / height)))
    top, left = (rows - kept_rows) // 2, (columns - kept_columns) // 2
    return frames_BHWC[:, top : top + kept_rows, left : left + kept_columns]


def _resize(frames_BHWC: Tensor, height: int, width: int) -> Tensor:
    x_BCHW = frames_BHWC.permute(0, 3, 1, 2).float()
    x_BCHW = F.interpolate(x_BCHW, (height, width), mode="bilinear", antialias=True, align_corners=False)
    return x_BCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def to_pixels(frames_BHWC: Tensor) -> Tensor:
    """Convert uint8 [B, H, W, 3] in [0, 255] to float32 [B, 3, H, W] in [-1, 1]."""
    return frames_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_frames(pixels_BCHW: Tensor) -> Tensor:
    """Convert float [B, 3, H, W] to uint8 [B, H, W, 3]; [-1, 1] becomes [0, 255], clamped."""
    scaled_BCHW = (pixels_BCHW.float() + 1.0) * 127.5
    return scaled_BCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@dataclass(frozen=True, kw_only=True)
class TokenizerOutput:
    """Output of a training pass."""

    pixels_BCHW: Tensor
    """Reconstruction, float [B, 3, H, W] around [-1, 1], not clamped."""
    codes_BN: Tensor
    """Codes, int64 [B, N] in [0, codebook_size), row-major."""
    commitment: Tensor
    """Mean squared distance of latents to their codebook entries, a scalar in [0, 4]."""


class FrameTokenizer(nn.Module):
    """VQ-GAN generator: encoder, codebook, decoder (Esser et al. 2021, arXiv:2012.09841)."""

    def __init__(self, config: TokenizerConfig, *, seed: int = 0) -> None:
        """Build the networks from `seed`, without the global generator."""
        super().__init__()
        self.config = config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = Encoder(config)
            self.decoder = Decoder(config)
        self.quantizer = Quantizer(
            size=config.codebook_size,
            width=config.code_width,
            decay=config.codebook_decay,
            revive_after=config.revive_after,
            recent_outputs=config.recent_outputs,
            seed=seed,
        )
        for weight in self.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    @property
    def last_layer(self) -> nn.Parameter:
        """Weight of the decoder's last layer; the adaptive adversarial weight compares gradients there."""
        return self.decoder.last_layer

    def forward(self, pixels_BCHW: Tensor) -> TokenizerOutput:
        """Encode and decode; in training mode update the codebook.

        Args:
            pixels_BCHW: float [B, 3, H, W] in [-1, 1], as `to_pixels` makes them.
        """
        quantized = self.quantizer(self.encoder(pixels_BCHW))
        return TokenizerOutput(
            pixels_BCHW=self.decoder(quantized.vectors_BhwC),
            codes_BN=quantized.codes_Bhw.flatten(1),
            commitment=quantized.commitment,
        )

    @torch.no_grad()
    def encode(self, frames_BHWC: Tensor) -> Tensor:
        """Encode frames; changes no state, in training mode too.

        Args:
            frames_BHWC: uint8 [B, H, W, 3], range [0, 255], of exactly the configured size, on any device.

        Returns:
            int64 [B, N], range [0, codebook_size), row-major, on the tokenizer's device.

        Raises:
            PictureError: when dtype, channels or size are wrong.
        """
        self.check_size(frames_BHWC)
        latents_BhwC = self.encoder(to_pixels(frames_BHWC.to(self.last_layer.device)))
        codes_Bhw: Tensor = self.quantizer.nearest(latents_BhwC.float())
        return codes_Bhw.flatten(1)

    @torch.no_grad()
    def decode(self, codes_BN: Tensor, *, checked: bool = True) -> Tensor:
        """Decode codes; changes no state.

        Args:
            codes_BN: integer [B, N], range [0, codebook_size), row-major, on any device.
            checked: look whether every code is in range, for which a GPU has to be waited for. False only for codes
                that cannot be others, as a dream's own.

        Returns:
            uint8 [B, H, W, 3], range [0, 255], on the tokenizer's device.

        Raises:
            BadInputError: when the number of codes or a code is out of range.
        """
        config = self.config
        if codes_BN.ndim != 2 or codes_BN.shape[1] != config.image_slots or codes_BN.is_floating_point():
            raise BadInputError(
                f"codes must be integers of shape [batch, {config.image_slots}]; got "
                f"{str(codes_BN.dtype)[6:]} of shape {list(codes_BN.shape)}; are they from another tokenizer?"
            )
        codes_BN = codes_BN.to(self.last_layer.device, torch.int64)
        if checked and codes_BN.numel():
            self._check_range(codes_BN)
        codes_Bhw = rearrange(codes_BN, "b (h w) -> b h w", h=config.grid_height)
        vectors_BhwC = self.quantizer.lookup(codes_Bhw).to(self.last_layer.dtype)
        return to_frames(self.decoder(vectors_BhwC))

    def _check_range(self, codes_BN: Tensor) -> None:
        least, most = int(codes_BN.min()), int(codes_BN.max())
        if least < 0 or most >= self.config.codebook_size:
            raise BadInputError(
                f"codes must be in 0 to {self.config.codebook_size - 1}; got {least} to {most}; are they from another "
                "tokenizer?"
            )

    def check_size(self, frames_BHWC: Tensor) -> None:
        """Raise PictureError unless the frames are uint8 RGB of exactly the configured size."""
        check_frames(frames_BHWC)
        rows, columns = frames_BHWC.shape[1:3]
        config = self.config
        if (rows, columns) != (config.frame_height, config.frame_width):
            raise PictureError(
                f"a picture of {columns} x {rows} pixels came; this model takes {config.frame_width} x "
                f"{config.frame_height}; crop or fit it first"
            )

    def fit(self, frames_BHWC: Tensor, mode: FitMode = "crop") -> Tensor:
        """Resize uint8 [B, any, any, 3] to the configured size; see `fit_frames`."""
        return fit_frames(frames_BHWC, height=self.config.frame_height, width=self.config.frame_width, mode=mode)
