"""The levels of the rooms as data: imports point down, and no two modules import each other."""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

SOURCE = Path(__file__).resolve().parents[2] / "src" / "playloom"
LEVELS = [
    ["errors"],
    ["atomic_io", "device"],
    ["json_io"],
    ["actions", "provenance"],
    ["media", "models"],
    ["data", "client"],
    ["inference", "games"],
    ["training", "evaluation", "envs", "server", "api"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LEVELS) for name in names}
ROOMS = [path.parent.name for path in SOURCE.glob("*/__init__.py")]
FENCES = {
    "torch": {"actions", "provenance", "media", "games", "client", "envs", "server"},  # rooms that must not know it
    "gymnasium": set(LEVEL) - {"games", "envs"},
    "vizdoom": set(LEVEL) - {"games"},
    "scipy": set(LEVEL) - {"games", "evaluation"},
    "matplotlib": set(LEVEL) - {"evaluation"},
    "lightning": set(LEVEL) - {"training"},
    "lightning_fabric": set(LEVEL) - {"training"},
    "fastapi": set(LEVEL) - {"server"},
    "starlette": set(LEVEL) - {"server"},
    "uvicorn": set(LEVEL) - {"server"},
    "pydantic": set(LEVEL) - {"server"},
    "pydantic_settings": set(LEVEL) - {"server"},
    "prometheus_client": set(LEVEL) - {"server"},
    "ray": set(LEVEL) - {"server", "data"},
    "httpx": set(LEVEL) - {"client"},
    "tenacity": set(LEVEL) - {"client"},
    "typer": set(LEVEL) - {"cli"},
    "rich": set(LEVEL) - {"cli"},
}
NETWORKS = {"torch", "einops", "jaxtyping", "safetensors", "onnx"}
"""Packages that only trainings, evaluations and exports need, and the backend torch."""
WITH_NETWORKS = (
    r"training\..+|evaluation\.(?!online|config|report)\w+|models\.(checkpoint|heads_network)"
    r"|models\.tokenizer\.(?!config)\w+|models\.transformer\.(?!config|kv_cache)\w+|models\.onnx\.\w+"
    r"|inference\.(torch_\w+|cuda_graphs|features)"
)
"""Modules that may import them; every other module works without."""
FILES = sorted(SOURCE.rglob("*.py"))
SAME_NAME: set[str] = set()
"""Classes that two modules may both define, each with its reason."""


def name_of(path: Path) -> str:
    parts = path.relative_to(SOURCE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> list[tuple[str, int]]:
    """Modules that a file imports anywhere, inside functions and under TYPE_CHECKING too."""
    found = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name if name in MODULES else node.module, node.lineno) for name in names]
    return found


def imports_of_body(body: list[ast.stmt]) -> set[str]:
    """Modules imported when a module is imported: not in functions, nor under TYPE_CHECKING."""
    found: set[str] = set()
    for node in body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in names}
        elif isinstance(node, ast.Try | ast.If) and "TYPE_CHECKING" not in ast.unparse(node)[:20]:
            found |= imports_of_body([*node.body, *node.orelse])
    return found


@cache
def imported_with(module: str) -> frozenset[str]:
    """Everything outside the package that is imported with a module, by its own imports or those of others."""
    seen, waiting = {module}, [module]
    while waiting:
        name = waiting.pop()
        parents = {name.rpartition(".")[0]} - {""}
        new = (imports_of_body(tree_of(MODULES[name]).body) | parents) - seen
        seen |= new
        waiting += [name for name in new if name in MODULES]
    return frozenset(name.split(".")[0] for name in seen)


@pytest.mark.parametrize("module", MODULES)
def test_only_networks_need_torch(module):
    if re.fullmatch(WITH_NETWORKS, module.removeprefix("playloom.")):
        return
    assert not imported_with(module) & NETWORKS


def room_of(module: str) -> str:
    return (module.split(".") + [""])[1]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_imports_point_down(path):
    here = room_of(name_of(path))
    assert not here or here in LEVEL, f"{here} has no level; give it one"
    for module, line in imports(path):
        there = room_of(module) if module.split(".")[0] == "playloom" else ""
        if here and there and there != here:
            assert LEVEL[there] < LEVEL[here], f"{path.name}:{line} imports {module}"
        fenced = here in FENCES.get(module.split(".")[0], set())
        assert not fenced, f"{path.name}:{line}: {here} must not know {module}"
        has_ray = path.name in ("ray.py", "parallel.py")
        assert module.split(".")[0] != "ray" or has_ray, f"{path.name}:{line}: only server/ray.py, data/parallel.py"


def test_no_modules_import_each_other():
    graph = {name: {module for module, _ in imports(path)} & set(MODULES) - {name} for name, path in MODULES.items()}
    while leaves := {name for name, needed in graph.items() if not needed & set(graph)}:
        graph = {name: needed for name, needed in graph.items() if name not in leaves}
    assert not graph, f"import cycle among {sorted(graph)}"


def test_no_two_classes_have_one_name():
    where: dict[str, list[str]] = {}
    for name, path in MODULES.items():
        for node in tree_of(path).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                where.setdefault(node.name, []).append(name)
    twice = {name: places for name, places in where.items() if len(places) > 1 and name not in SAME_NAME}
    assert not twice


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_nothing_that_runs_code_from_files(path):
    """No eval, exec or pickle anywhere: loading a file never runs code."""
    tree = tree_of(path)
    called = {n.func.id for n in ast.walk(tree) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & {"eval", "exec"}
    assert not {"pickle", "marshal", "shelve"} & {module.split(".")[0] for module, _ in imports(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(SOURCE)))
def test_text_files_are_utf8(path):
    """Without an encoding Python takes the machine's own. `device` reads only what the kernel writes."""
    for call in (n for n in ast.walk(tree_of(path)) if isinstance(n, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        first = call.args[0].value if call.args and isinstance(call.args[0], ast.Constant) else None
        if name in {"read_text", "write_text"} or (name == "open" and first in {"r", "w", "a", "x"}):
            named = {keyword.arg for keyword in call.keywords}
            assert "encoding" in named or path.name == "device.py", f"{path.name}:{call.lineno}: {name} of no encoding"


def test_the_base_install_brings_no_torch_and_no_cuda():
    """torchvision breaks beside a CPU torch; CUDA packages are gigabytes. Checked where torch is a CPU build."""
    import importlib.metadata as metadata

    import torch

    project = tomllib.loads((SOURCE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    base = {Requirement(line).name for line in project["dependencies"] if "< '3.11'" not in line}
    assert base and not base & {*NETWORKS, "torchvision", "torchaudio"}
    if torch.version.cuda is None:
        names = {(d.metadata["Name"] or "").lower() for d in metadata.distributions()}
        assert not [n for n in names if n.startswith(("torchvision", "torchaudio", "nvidia-"))]
