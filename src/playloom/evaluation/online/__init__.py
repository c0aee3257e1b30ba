"""Policies in the real game: the model plays on real frames."""
