"""The levels as data: a module imports lower levels and its own package, never up, never sideways."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parent.parent / "src" / "playloom"
LEVELS = [
    ["errors"],
    ["attention", "files", "runtime"],
    ["actions", "provenance"],
    ["tokenizer", "sequence", "model", "media", "upscaling"],
    ["presets", "client"],
    ["checkpoint", "data"],
    ["engine", "games"],
    ["training", "evaluation", "dreams", "live", "env", "acting", "stories"],
    ["recipes", "benchmarks", "serving"],
    ["cluster"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
FENCES = {
    "torch": {"actions", "provenance", "media", "games", "client", "stories"},  # packages that must not know it
    "gymnasium": set(LEVEL) - {"games", "env"},
    "vizdoom": set(LEVEL) - {"games"},
    "lightning": set(LEVEL) - {"training"},
    "lightning_fabric": set(LEVEL) - {"training"},
    "fastapi": set(LEVEL) - {"serving", "cluster"},
    "starlette": set(LEVEL) - {"serving", "cluster"},
    "uvicorn": set(LEVEL) - {"serving"},
    "pydantic": set(LEVEL) - {"serving"},
    "pydantic_settings": set(LEVEL) - {"serving"},
    "prometheus_client": set(LEVEL) - {"serving"},
    "ray": set(LEVEL) - {"cluster"},
    "httpx": set(LEVEL) - {"client"},
    "typer": set(LEVEL) - {"cli"},
    "rich": set(LEVEL) - {"cli"},
}


def imports(path: Path) -> list[tuple[str, int]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.append((node.module, node.lineno))
    return found


def package_of(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    here = package_of(path)
    assert here in LEVEL, f"{here} has no level; give it one"
    for module, line in imports(path):
        parts = module.split(".")
        if parts[0] == "playloom" and len(parts) > 1 and parts[1] != here:
            assert LEVEL[parts[1]] < LEVEL[here], f"{path.name}:{line} imports {module}"
        assert here not in FENCES.get(parts[0], set()), f"{path.name}:{line}: {here} must not know {parts[0]}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_that_runs_code_from_files(path):
    """No eval, exec or pickle anywhere: loading a file never runs code."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"eval", "exec"}
    assert not {"pickle", "marshal", "shelve"} & {module.split(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_text_files_are_utf8(path):
    """Without an encoding Python takes the machine's own. `runtime` reads only what the kernel writes."""
    for call in (n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if name in {"read_text", "write_text"} or (name == "open" and first in {"r", "w", "a", "x"}):
            named = {keyword.arg for keyword in call.keywords}
            assert "encoding" in named or path.name == "runtime.py", f"{path.name}:{call.lineno}: {name} of no encoding"


def test_help_does_not_wait_for_torch():
    code = "import sys, playloom.cli.app; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_base_install_brings_no_torchvision_and_no_cuda():
    """torchvision breaks beside a CPU torch; CUDA packages are gigabytes. Checked where torch is a CPU build."""
    import importlib.metadata as metadata

    import torch

    assert metadata.requires("playloom") is not None
    base = [r for r in metadata.requires("playloom") or [] if "extra ==" not in r]
    assert not [r for r in base if r.lower().startswith(("torchvision", "torchaudio", "nvidia"))]
    if torch.version.cuda is None:
        names = {(d.metadata["Name"] or "").lower() for d in metadata.distributions()}
        assert not [n for n in names if n.startswith(("torchvision", "torchaudio", "nvidia-"))]
