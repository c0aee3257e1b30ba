"""Whole dreaming jobs: from what a user names (a prompt, actions, a folder of clips) to files.

The names are imported when they are first used, so that `dreams.inputs` can be used without torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playloom.dreams.batch import BatchJob, BatchSummary, dream_clips
    from playloom.dreams.one import DreamJob, DreamReport, run_dream

__all__ = ["BatchJob", "BatchSummary", "DreamJob", "DreamReport", "dream_clips", "run_dream"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "batch" if name in ("BatchJob", "BatchSummary", "dream_clips") else "one"
    return getattr(import_module(f"{__name__}.{module}"), name)
