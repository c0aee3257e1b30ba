"""Whole recipes: one command from nothing to shipped weights, in pieces that can be stopped at any moment."""
