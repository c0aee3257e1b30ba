"""Settings as environment variables, for processes of Ray's that read them from there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from playloom.checkpoint import bundled_models
from playloom.cluster.layers import CALLBACK, VARIABLE
from playloom.serving.settings import Settings


def environment_of(settings: Settings) -> dict[str, str]:
    """What Ray's proxies are to find in their environment: the layers, and each setting that is not its default."""
    return {
        VARIABLE: CALLBACK,
        **{f"PLAYLOOM_{name.upper()}": _text(value) for name, value in values_of(settings).items()},
    }


def values_of(settings: Settings) -> dict[str, Any]:
    """The settings that are not their defaults, by name, as plain values; a model's folder by its whole path."""
    fields = type(settings).model_fields
    found = {name: getattr(settings, name) for name in fields if getattr(settings, name) != fields[name].default}
    if settings.key is not None:
        found["api_key"] = settings.key
    if settings.model is not None and settings.model not in bundled_models():
        found["model"] = str(Path(settings.model).resolve())
    return found


def _text(value: Any) -> str:
    return json.dumps(list(value)) if isinstance(value, (tuple, list)) else str(value)
