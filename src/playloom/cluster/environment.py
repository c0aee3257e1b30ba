"""What Ray and its processes read from their environment: the settings, and how Ray is to behave.

prepare(settings, os.environ)       # before `ray` is imported; what is begun from then on inherits it
"""

from __future__ import annotations

import json
import secrets
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from playloom.cluster.layers import CALLBACK, VARIABLE
from playloom.models.checkpoint import bundled_models
from playloom.server.settings import Settings

ADDRESS = "RAY_ADDRESS"
"""The environment variable that names a cluster to join."""
_OWN_CLUSTER = {
    # Ray listens on loopback only: whoever reaches its ports can run code.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_AUTH_MODE": "token",  # and nobody else on this machine can use them
    # A proxy that takes longer to start is killed and begun again; Ray's five seconds are few on a busy machine.
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
}


def prepare(settings: Settings, environment: MutableMapping[str, str]) -> None:
    """Put what Ray needs into an environment such as `os.environ`.

    Args:
        settings: what is to be served.
        environment: is changed; whether it names a cluster to join decides what Ray's own ports are open to.
    """
    environment.update({"RAY_USAGE_STATS_ENABLED": "0", **environment_of(settings)})
    if not environment.get(ADDRESS):
        environment.update({**_OWN_CLUSTER, "RAY_AUTH_TOKEN": secrets.token_hex(32)})


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
