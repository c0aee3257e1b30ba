"""Dreaming on: sampling, decoding with and without a cache, and the three modes as one loop."""

from playloom.engine.cached import CachedDecoder
from playloom.engine.dreamer import Dreamer
from playloom.engine.naive import NaiveDecoder
from playloom.engine.requests import DreamRequest, DreamStep, Mode, Prompt
from playloom.engine.sampling import Draws, Sampling, noise
from playloom.engine.session import Session, Turn

__all__ = [
    "CachedDecoder",
    "Draws",
    "DreamRequest",
    "DreamStep",
    "Dreamer",
    "Mode",
    "NaiveDecoder",
    "Prompt",
    "Sampling",
    "Session",
    "Turn",
    "noise",
]
