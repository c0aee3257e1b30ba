"""Named sizes, and the parts of one model built from one config."""

from playloom.presets.build import build_tokenizer, build_transformer, step_geometry
from playloom.presets.memory import cache_bytes, require_memory, transformer_parameters, weight_bytes
from playloom.presets.model_config import ModelConfig
from playloom.presets.table import PRESETS, preset

__all__ = [
    "PRESETS",
    "ModelConfig",
    "build_tokenizer",
    "build_transformer",
    "cache_bytes",
    "preset",
    "require_memory",
    "step_geometry",
    "transformer_parameters",
    "weight_bytes",
]
