"""playloom: learn a video game from recordings, then generate it frame by frame while you play.

    model = playloom.load("arena-live")
    clip = model.dream("plaza-explorer", actions="turn_right for 10", seed=0)
    clip.save("dream.gif")

Names are imported on first use, so that `import playloom` is fast. Types are in `__init__.pyi`.
"""

import importlib
import importlib.util
import sys
from typing import Any

__version__ = "0.1.0"
_HOMES = {
    "ControllerState": "playloom.actions.controller",
    "Engine": "playloom.inference.engine",
    "GeneratedClip": "playloom.media.output_folder",
    "Model": "playloom.api",
    "PlayloomError": "playloom.errors",
    "Prompt": "playloom.inference.session",
    "Sampling": "playloom.inference.sampling",
    "Session": "playloom.inference.session",
    "StepInput": "playloom.inference.session",
    "StepResult": "playloom.inference.session",
    "WorldModelEnv": "playloom.envs",
    "WorldModelVectorEnv": "playloom.envs",
    "bundled_models": "playloom.models.folder",
    "list_prompts": "playloom.data.prompts",
    "load": "playloom.api",
    "load_model": "playloom.models.checkpoint",
}
__all__ = [*_HOMES, "__version__", "envs"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'playloom' has no attribute {name!r}")
    importlib.import_module("playloom.device").limit_spinning()  # before torch is imported
    home = importlib.import_module(_HOMES.get(name, f"playloom.{name}"))
    found = globals()[name] = getattr(home, name) if name in _HOMES else home
    return found


def __dir__() -> list[str]:
    return sorted(__all__)


def _register(gymnasium: Any) -> None:
    gymnasium.register(
        "playloom/Dream-v0",
        entry_point="playloom.envs:WorldModelEnv",
        vector_entry_point="playloom.envs:WorldModelVectorEnv",
    )


class _GymnasiumHook:
    """Registers the environments when Gymnasium is imported later: it has no plug-ins, and is slow to import."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name != "gymnasium" or self not in sys.meta_path:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def exec_module(module: Any) -> None:
                run(module)
                _register(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


if sys.modules.get("gymnasium") is None:
    sys.meta_path.insert(0, _GymnasiumHook())
else:
    _register(sys.modules["gymnasium"])
