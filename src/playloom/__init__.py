"""playloom: an open world-and-human-action model. Record a game, learn it, dream on from any moment."""

__version__ = "0.1.0"
