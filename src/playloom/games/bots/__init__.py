"""Scripted players of the arena."""
