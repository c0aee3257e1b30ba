"""Recordings, datasets and prompts on disk."""
