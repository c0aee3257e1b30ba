"""Named model sizes: the published ones, those of a third-party guide, and our own.

The published rows keep the chain sequence, absolute positions and full context in every layer. Ours have rows for exact
parallel decoding, rolling positions and local layers (see docs/model.md).
"""

from __future__ import annotations

from typing import Any

from playloom.errors import ConfigError, did_you_mean
from playloom.models.config import ModelConfig
from playloom.models.tokenizer.config import TokenizerConfig
from playloom.models.transformer.config import TransformerConfig

_PAPER_GRID = TokenizerConfig(frame_height=128, frame_width=128, grid_height=16, grid_width=16, codebook_size=4096)


def _vit(height: int, width: int, *, channels: int, layers: int, **sizes: Any) -> TokenizerConfig:
    sizes |= {"strides": (), "widths": (channels,), "encoder_blocks": (), "decoder_blocks": ()}
    return TokenizerConfig(grid_height=height, grid_width=width, encoder_layers=layers, decoder_layers=layers, **sizes)


_LARGE_GRID = _vit(18, 30, channels=1024, layers=12, codebook_size=16384, code_width=32)
_GUIDE_GRID = _vit(45, 75, channels=256, layers=4, code_width=256)


def _published(
    name: str, tokenizer: TokenizerConfig, layers: int, width: int, heads: int, *, dropout: float = 0.0
) -> ModelConfig:
    sizes = TransformerConfig(layers=layers, width=width, heads=heads, positions="absolute", dropout=dropout)
    return ModelConfig(name=name, tokenizer=tokenizer, transformer=sizes, rows=False)


def _own(name: str, tokenizer: TokenizerConfig, layers: int, width: int, heads: int, **changes: Any) -> ModelConfig:
    sizes = TransformerConfig(
        layers=layers,
        width=width,
        heads=heads,
        **{"local_steps": 3, "global_every": 3, "action_condition": True, "qk_norm": True, **changes},
    )
    return ModelConfig(name=name, tokenizer=tokenizer, transformer=sizes)


_SMALL_GRID = TokenizerConfig()
_LIVE_GRID = TokenizerConfig(codebook_size=2048, decoder_blocks=(2, 3), decoder_layers=3)
_ARENA_GRID = TokenizerConfig(
    grid_height=18,
    grid_width=30,
    codebook_size=2048,
    strides=(2,),
    widths=(96, 256),
    encoder_blocks=(2,),
    decoder_blocks=(3,),
    encoder_layers=1,
)
_TINY = TokenizerConfig(
    frame_height=16,
    frame_width=24,
    grid_height=4,
    grid_width=6,
    codebook_size=16,
    code_width=4,
    strides=(2,),
    widths=(8, 16),
    encoder_blocks=(1,),
    decoder_blocks=(1,),
    encoder_layers=1,
    decoder_layers=1,
    head_width=8,
    recent_outputs=64,
)

_ROWS = (
    _published("paper-27m", _PAPER_GRID, 8, 512, 8),
    _published("paper-52m", _PAPER_GRID, 10, 640, 10),
    _published("paper-110m", _PAPER_GRID, 15, 768, 12),
    _published("paper-206m", _PAPER_GRID, 16, 1024, 16),
    _published("paper-894m", _PAPER_GRID, 23, 1792, 14),
    _published("200m", _LARGE_GRID, 16, 1024, 16),
    _published("1.6b", _LARGE_GRID, 24, 2304, 18),
    _published("guide", _GUIDE_GRID, 16, 1024, 16, dropout=0.1),
    _published("guide-48x2048", _LARGE_GRID, 48, 2048, 16, dropout=0.1),
    _own("tiny", _TINY, 2, 32, 4),
    _own("arena-small", _SMALL_GRID, 6, 192, 3),
    # For a CPU, where the number of products counts, not their size: few and wide layers (docs/speed.md).
    _own("arena-live", _LIVE_GRID, 4, 256, 4, kv_heads=2, global_every=2, keyframes=5, keyframe_every=6, parallel=True),
    _own("arena", _ARENA_GRID, 9, 256, 4),
)

PRESETS: dict[str, ModelConfig] = {row.name: row for row in _ROWS}
"""Presets by name. `paper-*`, `200m`, `1.6b` are as published, `guide*` as in a guide; the rest are our own."""


def preset(name: str) -> ModelConfig:
    """Return the preset of a name; `ConfigError` with the nearest one for an unknown name."""
    if name not in PRESETS:
        raise ConfigError(f"unknown preset {name!r}; {did_you_mean(name, PRESETS)}")
    return PRESETS[name]
