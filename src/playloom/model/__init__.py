"""The decoder-only transformer and its cache. Integers in, logits out."""

from playloom.model.cache import KeyValueCache
from playloom.model.config import TransformerConfig
from playloom.model.transformer import StepGeometry, Transformer

__all__ = ["KeyValueCache", "StepGeometry", "Transformer", "TransformerConfig"]
