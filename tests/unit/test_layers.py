"""Imports point down only: cli -> studies, deploy -> stages -> the middle, unknown to each other -> core."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "metalearn_cli"
MIDDLE = {"backbones", "models", "methods", "algorithms", "data", "engine", "records"}
BELOW = {"core": {"core"}, **{m: {m, "core"} for m in MIDDLE}, "stages": {"stages", "core", *MIDDLE}}
BELOW |= {layer: {layer, *BELOW["stages"]} for layer in ("studies", "deploy")}
ONLY_IN = {
    "hydra": ("cli/*.py",),
    "omegaconf": ("cli/*.py",),
    "rich": ("cli/telling.py",),
    "tqdm": ("cli/telling.py",),
    "lightning_fabric": ("engine/runtime.py",),
    "safetensors": ("records/checkpoint.py", "data/common/cache.py", "backbones/common/weights.py", "deploy/served.py"),
}
MODULES = sorted(PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Return the dotted names of all modules that a file imports, wherever in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    layer = path.relative_to(PACKAGE).parts[0]
    for name in imported(path):
        top, _, rest = name.partition(".")
        if top in ONLY_IN:
            places = ONLY_IN[top]
            assert any(map(path.relative_to(PACKAGE).match, places)), f"{name} belongs into {' or '.join(places)}"
        if top == "metalearn_cli" and layer in BELOW and rest != "__version__":
            assert rest.split(".")[0] in BELOW[layer], f"{layer} may not import {name}"


@pytest.mark.parametrize("path", sorted((PACKAGE / "core").glob("*.py")), ids=lambda path: path.name)
def test_core_needs_torch_at_most(path: Path) -> None:
    tops = {name.split(".")[0] for name in imported(path)}
    assert tops <= {"torch", "metalearn_cli"} | sys.stdlib_module_names


def test_the_middle_is_complete() -> None:
    assert {path.relative_to(PACKAGE).parts[0] for path in MODULES if path.parent != PACKAGE} == {
        "cli",
        "studies",
        "deploy",
        "stages",
        "core",
        *MIDDLE,
    }


@pytest.mark.medium
def test_modules_become_functions_in_one_place() -> None:
    """Whatever else would call torch for that would pass protocols and modes by."""
    callers = {path for path in MODULES if "torch.func.functional_call" in imported(path)}
    assert callers == {PACKAGE / "core" / "network.py"}
