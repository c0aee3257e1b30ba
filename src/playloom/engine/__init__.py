"""Dreaming on: sampling, decoding with and without a cache, and the three modes as one loop."""

from playloom.engine.context import Context
from playloom.engine.dreamer import Dreamer, DreamRequest, DreamStep, Mode, Prompt
from playloom.engine.runners import CachedRunner, NaiveRunner, Runner
from playloom.engine.sampling import Sampling, sample

__all__ = [
    "CachedRunner",
    "Context",
    "DreamRequest",
    "DreamStep",
    "Dreamer",
    "Mode",
    "NaiveRunner",
    "Prompt",
    "Runner",
    "Sampling",
    "sample",
]
