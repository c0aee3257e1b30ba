"""Whole dreaming jobs: from what a user names (a prompt, actions, a folder of clips) to files."""

from playloom.dreams.batch import BatchJob, BatchSummary, dream_clips
from playloom.dreams.one import DreamJob, DreamReport, run_dream

__all__ = ["BatchJob", "BatchSummary", "DreamJob", "DreamReport", "dream_clips", "run_dream"]
