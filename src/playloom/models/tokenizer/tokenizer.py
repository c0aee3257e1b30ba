"""Frames to codes and back."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from playloom.errors import BadInputError
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.networks import Decoder, Encoder
from playloom.models.tokenizer.quantizer import Quantizer


def to_pixels(frames_BHWC: Tensor) -> Tensor:
    """Convert uint8 [B, H, W, 3] in [0, 255] to float32 [B, 3, H, W] in [-1, 1]."""
    return frames_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_frames(pixels_BCHW: Tensor) -> Tensor:
    """Convert float [B, 3, H, W] to uint8 [B, H, W, 3]; [-1, 1] becomes [0, 255], clamped."""
    scaled_BCHW = (pixels_BCHW.float() + 1.0) * 127.5
    return scaled_BCHW.round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


class FrameTokenizer(nn.Module):
    """VQ-GAN generator: encoder, codebook, decoder (Esser et al. 2021, arXiv:2012.09841)."""

    def __init__(self, config: TokenizerConfig, *, seed: int = 0) -> None:
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
        weight = self.decoder.to_pixels.spread.weight
        assert isinstance(weight, nn.Parameter)
        return weight

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct float pixels [B, 3, H, W] in [-1, 1], not clamped; returns the commitment loss too."""
        vectors_BhwC, _, commitment = self.quantizer(self.encoder(pixels_BCHW))
        return self.decoder(vectors_BhwC), commitment

    @torch.no_grad()
    def encode(self, frames_BHWC: Tensor) -> Tensor:
        """Encode uint8 [B, H, W, 3] of the configured size, on any device, to int64 [B, N]; changes no state."""
        self.config.check_size(frames_BHWC)
        latents_BhwC = self.encoder(to_pixels(frames_BHWC.to(self.last_layer.device)))
        codes_Bhw: Tensor = self.quantizer.nearest(latents_BhwC.float())
        return codes_Bhw.flatten(1)

    @torch.no_grad()
    def decode(self, codes_BN: Tensor, *, checked: bool = True) -> Tensor:
        """Decode integers [B, N] on any device to uint8 [B, H, W, 3]; changes no state.

        `checked` raises BadInputError for codes out of range, and synchronises a GPU; False is for the model's codes.
        """
        config = self.config
        if codes_BN.ndim != 2 or codes_BN.shape[1] != config.image_slots or codes_BN.is_floating_point():
            raise BadInputError(
                f"codes have a wrong shape: got {str(codes_BN.dtype)[6:]} of shape {list(codes_BN.shape)}, expected "
                f"integers of shape [batch, {config.image_slots}]; are they from another tokenizer?"
            )
        codes_BN = codes_BN.to(self.last_layer.device, torch.int64)
        if checked and codes_BN.numel():
            least, most = int(codes_BN.min()), int(codes_BN.max())
            if least < 0 or most >= config.codebook_size:
                raise BadInputError(
                    f"codes are out of range: got {least} to {most}, expected 0 to {config.codebook_size - 1}; are "
                    "they from another tokenizer?"
                )
        codes_Bhw = rearrange(codes_BN, "b (h w) -> b h w", h=config.grid_height)
        vectors_BhwC = self.quantizer.lookup(codes_Bhw).to(self.last_layer.dtype)
        return to_frames(self.decoder(vectors_BhwC))
