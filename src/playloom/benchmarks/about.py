"""What the figures of a run belong to: machine, versions, date, commit, settings. JSON values."""

from __future__ import annotations

import importlib.metadata
import shutil
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

import playloom
from playloom.benchmarks.settings import BenchSettings
from playloom.device import machine

_PACKAGES = ("torch", "numpy", "transformers")


def about(settings: BenchSettings, device: torch.device, **more: Any) -> dict[str, Any]:
    """The head of a report's JSON: `more` is added as it is."""
    return {
        "playloom": playloom.__version__,
        "commit": commit(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": machine(device),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "settings": settings.to_json(),
        **more,
    }


def versions() -> dict[str, str | None]:
    """Installed versions of what the figures depend on; None where it is not installed."""
    found: dict[str, str | None] = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["cuda"] = torch.version.cuda
    return found


def commit(folder: Path = Path(playloom.__file__).parent) -> str | None:
    """The commit of a checkout that tracks this package, `-dirty` with changes; None for an installed package."""
    git = shutil.which("git")
    if git is None:
        return None

    def ask(*arguments: str) -> str | None:
        done = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        return done.stdout.strip() if done.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    return ask("describe", "--always", "--dirty", "--exclude", "*")
