"""What others rely on is a list in tests/assets/public_interface.json: names, commands, flags, routes, settings.

After a deliberate change, write it anew: `PLAYLOOM_UPDATE_GOLDEN=1 pytest tests/server/test_public_interface.py`.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import typer

import playloom
import playloom.client
import playloom.envs
from playloom.cli.app import app
from playloom.server.app import create_app
from playloom.server.settings import Settings
from serving_toys import settings

FILE = Path(__file__).parents[1] / "assets" / "public_interface.json"


def names() -> dict[str, list[str]]:
    modules = (playloom, playloom.client, playloom.envs)
    return {module.__name__: sorted(getattr(module, "__all__", ["__version__"])) for module in modules}


def flags(command: Any, name: str = "playloom") -> dict[str, list[str]]:
    """Options (and ARGUMENTS) of a command and all commands below it."""
    own = [option for parameter in command.params for option in [*parameter.opts, *parameter.secondary_opts]]
    found = {name: sorted(option if option.startswith("-") else option.upper() for option in own)}
    for below, inner in getattr(command, "commands", {}).items():
        found |= flags(inner, f"{name} {below}")
    return found


def routes() -> list[str]:
    found, routes = [], []
    for route in create_app(settings()).routes:
        router = getattr(route, "original_router", None)  # newer FastAPI keeps an included router as one route
        routes += [route] if router is None else router.routes
    for route in routes:
        methods = getattr(route, "methods", None) or {"WS" if "WebSocket" in type(route).__name__ else "MOUNT"}
        found += [f"{method} {route.path}" for method in methods - {"HEAD"}]  # type: ignore[attr-defined]
    return sorted(found)


def interface() -> dict[str, Any]:
    variables = sorted(f"PLAYLOOM_{name.upper()}" for name in Settings.model_fields)
    commands = flags(typer.main.get_command(app))
    return {"names": names(), "commands": commands, "routes": routes(), "settings": variables}


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    everything = interface()
    if os.environ.get("PLAYLOOM_UPDATE_GOLDEN"):
        FILE.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")
    return everything


@pytest.mark.parametrize("part", ["names", "commands", "routes", "settings"])
def test_the_public_interface_is_the_list(found, part):
    known = json.loads(FILE.read_text(encoding="utf-8"))
    assert found[part] == known[part], "if this is deliberate, see the first lines of this file"
