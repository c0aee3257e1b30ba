"""Frames to codes and back: encoder, codebook and decoder.

Convolutions on the fine grids, a transformer on the code grid (alone: ViT-VQGAN, Yu et al. 2021). B batch, C channels,
H W pixels or cells of a fine grid, h w code grid, N = h*w, D width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from playloom.errors import BadInputError
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.tokenizer.quantizer import Quantizer
from playloom.models.transformer.layers import attend


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
        self.quantizer = Quantizer(config, seed=seed)
        for weight in self.parameters():
            if weight.ndim == 4:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)

    @property
    def last_layer(self) -> Tensor:
        """Weight of the decoder's last layer; the adaptive adversarial weight compares gradients there."""
        return self.decoder.to_pixels.spread.weight

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruct float pixels [B, 3, H, W] in [-1, 1], not clamped; returns the commitment loss too."""
        vectors_BhwC, _, commitment = self.quantizer(self.encoder(pixels_BCHW))
        return self.decoder(vectors_BhwC), commitment

    @torch.no_grad()
    def encode(self, frames_BHWC: Tensor) -> Tensor:
        """Encode uint8 [B, H, W, 3] of the configured size, on any device, to int64 [B, N]; changes no state."""
        self.config.check_size(frames_BHWC)
        latents_BhwC = self.encoder(to_pixels(frames_BHWC.to(self.last_layer.device)))
        return self.quantizer.nearest(latents_BhwC.float()).flatten(1)

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


def _init_weights(module: nn.Module) -> None:
    """Draw weights that keep the scale of activations, without biases; residual branches start at zero."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        fan_in = module.weight[0].numel()
        nn.init.trunc_normal_(module.weight, std=fan_in**-0.5)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, ConvBlock):
        nn.init.zeros_(module.outer.weight)
    elif isinstance(module, TransformerLayer):
        nn.init.zeros_(module.attention_out.weight)
        nn.init.zeros_(module.mlp_out.weight)


class ChannelNorm(nn.Module):
    """Layer normalisation over the channels of each cell of a [B, C, H, W] map."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Normalise each cell; float [B, C, H, W] to the same shape."""
        # A channels_last map is already [B, H, W, C] in memory: both permutes are free.
        return self.norm(x_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Residual block of two dense 3 x 3 convolutions; starts as the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map float [B, C, H, W] to the same shape."""
        return x_BCHW + self.outer(F.silu(self.inner(self.norm(x_BCHW))))


class TransformerLayer(nn.Module):
    """Pre-norm self-attention over all cells, then a GELU MLP four times as wide."""

    def __init__(self, width: int, head_width: int) -> None:
        super().__init__()
        self.heads = width // head_width
        self.attention_norm = nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_out = nn.Linear(width, width)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp_in = nn.Linear(width, 4 * width)
        self.mlp_out = nn.Linear(4 * width, width)

    def forward(self, x_BND: Tensor) -> Tensor:
        """Map float [B, N, D] to the same shape."""
        qkv = rearrange(self.query_key_value(self.attention_norm(x_BND)), "b n (t m e) -> t b m n e", t=3, m=self.heads)
        mixed = attend(qkv[0], qkv[1], qkv[2])
        x_BND = x_BND + self.attention_out(rearrange(mixed, "b m n e -> b n (m e)"))
        return x_BND + self.mlp_out(F.gelu(self.mlp_in(self.mlp_norm(x_BND))))


class GridTransformer(nn.Module):
    """Transformer layers on the code grid, with a learned position for each cell."""

    def __init__(self, config: TokenizerConfig, layers: int) -> None:
        super().__init__()
        width = config.widths[-1]
        self.grid_width = config.grid_width
        self.positions = nn.Parameter(0.02 * torch.randn(1, config.image_slots, width))
        self.layers = nn.ModuleList(TransformerLayer(width, config.head_width) for _ in range(layers))

    def forward(self, x_BDhw: Tensor) -> Tensor:
        """Map float [B, D, h, w] to the same shape."""
        x_BND = rearrange(x_BDhw, "b d h w -> b (h w) d") + self.positions
        for layer in self.layers:
            x_BND = layer(x_BND)
        return rearrange(x_BND, "b (h w) d -> b d h w", w=self.grid_width)


class TanhHead(nn.Module):
    """Layer norm, then linear, tanh, linear: the head of ViT-VQGAN on both sides of the codebook."""

    def __init__(self, width_in: int, width_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width_in)
        self.inner = nn.Linear(width_in, 2 * width_in)
        self.outer = nn.Linear(2 * width_in, width_out)

    def forward(self, x_BhwD: Tensor) -> Tensor:
        """Map float [..., width_in] to [..., width_out]."""
        return self.outer(torch.tanh(self.inner(self.norm(x_BhwD))))


class Encoder(nn.Module):
    """Pixels to one latent vector per code cell."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, config.widths[0], config.stem_patch, config.stem_patch)
        self.rungs = nn.ModuleList()
        for i, stride in enumerate(config.strides):
            width, coarser = config.widths[i], config.widths[i + 1]
            blocks = [ConvBlock(width) for _ in range(config.encoder_blocks[i])]
            self.rungs.append(nn.Sequential(*blocks, nn.Conv2d(width, coarser, stride, stride)))
        self.transformer = GridTransformer(config, config.encoder_layers)
        self.head = TanhHead(config.widths[-1], config.code_width)
        self.apply(_init_weights)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        """Map float pixels [B, 3, H, W] to latents [B, h, w, code_width]."""
        x_BCHW = self.stem(pixels_BCHW.contiguous(memory_format=torch.channels_last))
        for rung in self.rungs:
            x_BCHW = rung(x_BCHW)
        x_BDhw = self.transformer(x_BCHW)
        return self.head(x_BDhw.permute(0, 2, 3, 1))


class Decoder(nn.Module):
    """One code vector per cell to pixels."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.entry = nn.Linear(config.code_width, config.widths[-1])
        self.transformer = GridTransformer(config, config.decoder_layers)
        self.rungs = nn.ModuleList()
        for i in reversed(range(len(config.strides))):
            width, coarser, stride = config.widths[i], config.widths[i + 1], config.strides[i]
            blocks = [ConvBlock(width) for _ in range(config.decoder_blocks[i])]
            self.rungs.append(nn.Sequential(Unfold(coarser, width, (stride, stride)), *blocks))
        self.norm = ChannelNorm(config.widths[0])
        # On a fine grid a 3 x 3 kernel keeps patch borders smooth.
        self.to_pixels = Unfold(config.widths[0], 3, config.stem_patch, kernel=3 if config.strides else 1)
        self.apply(_init_weights)

    def forward(self, vectors_BhwC: Tensor) -> Tensor:
        """Map code vectors [B, h, w, code_width] to pixels [B, 3, H, W], not clamped."""
        x_BCHW = self.transformer(self.entry(vectors_BhwC).permute(0, 3, 1, 2))
        for rung in self.rungs:
            x_BCHW = rung(x_BCHW)
        return self.to_pixels(self.norm(x_BCHW))


class Unfold(nn.Module):
    """A block of finer cells from each cell: a convolution, then depth to space."""

    def __init__(self, width_in: int, width_out: int, block: tuple[int, int], kernel: int = 1) -> None:
        super().__init__()
        self.block = block
        self.spread = nn.Conv2d(width_in, width_out * block[0] * block[1], kernel, padding=kernel // 2)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        """Map float [B, C, H, W] to [B, width_out, H * rows, W * columns]."""
        rows, columns = self.block
        # Channels vary fastest, so a channels_last map stays channels_last without a copy.
        spread = self.spread(x_BCHW).permute(0, 2, 3, 1)
        return rearrange(spread, "b h w (p q c) -> b (h p) (w q) c", p=rows, q=columns).permute(0, 3, 1, 2)
