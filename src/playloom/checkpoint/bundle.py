"""The models that come inside the package, and how a model is named on the command line."""

from __future__ import annotations

from pathlib import Path

from playloom.errors import CheckpointError, nearest

_BUNDLE = Path(__file__).parent.parent / "models"


def bundled_models() -> list[str]:
    """Names of the models inside the package."""
    return sorted(path.parent.name for path in _BUNDLE.glob("*/model.json"))


def model_folder(name: str | None = None) -> Path:
    """The folder of a bundled model's name, or of a path that holds `model.json`; None: the first bundled model.

    Raises:
        CheckpointError: when there is no such model; names the nearest one.
    """
    names = bundled_models()
    if name is None:
        if not names:
            raise CheckpointError("this installation bundles no model; name a model folder")
        return _BUNDLE / names[0]
    if name in names:
        return _BUNDLE / name
    if (Path(name) / "model.json").is_file():
        return Path(name)
    raise CheckpointError(f"{name!r} is neither a folder with model.json nor a bundled model; {nearest(name, names)}")
