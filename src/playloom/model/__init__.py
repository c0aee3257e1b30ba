"""The decoder-only transformer and its cache. Integers in, logits out."""

from playloom.model.cache import KeyValueCache, Reach
from playloom.model.config import TransformerConfig
from playloom.model.packed import pack, pack_head
from playloom.model.transformer import StepGeometry, StepTables, Transformer

__all__ = [
    "KeyValueCache",
    "Reach",
    "StepGeometry",
    "StepTables",
    "Transformer",
    "TransformerConfig",
    "pack",
    "pack_head",
]
