"""What every training records on its card: data, length, machine, settings. Knows nothing of files."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

from playloom.data.stores import FrameStore, TokenStore
from playloom.training.settings import to_mapping
from playloom.training.task import Outcome


def training_facts(store: FrameStore | TokenStore, outcome: Outcome, config: Any) -> dict[str, Any]:
    """The facts of a finished training, as JSON values.

    Args:
        store: what it learned from.
        outcome: how it ended.
        config: its settings, a dataclass.
    """
    seeds = [int(span.meta["seed"]) for span in store.of_split("train") if "seed" in span.meta]
    return {
        "data": {
            "frames": len(store),
            "episodes": len(store.spans),
            "train_seeds": seeds,
            "players": players_of(store),
        },
        "updates": outcome.step,
        "training_seconds": round(outcome.elapsed, 1),
        "hardware": hardware(),
        "validation": outcome.validation,
        "settings": to_mapping(config),
    }


def players_of(store: FrameStore | TokenStore) -> dict[str, int]:
    """Training episodes by who played them, as far as that is known: what a model played should not go unseen."""
    return dict(sorted(Counter(str(s.meta["style"]) for s in store.of_split("train") if s.meta.get("style")).items()))


def hardware() -> str:
    """The machine that trains, in a few words."""
    threads = torch.get_num_threads()
    cpu = f"CPU, {threads} thread{'' if threads == 1 else 's'}"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else cpu
