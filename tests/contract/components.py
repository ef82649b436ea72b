"""Every component there is: the shipped ones, and those of `tests/pieces`, which is installed as a plug-in for it.

They are found by listing the folders of configs, so that a new one is held to its contract by being there.
"""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from omegaconf import OmegaConf

from metalearn_cli.core import plugins
from metalearn_cli.core.build import build

TESTS = Path(__file__).parents[1]
FOLDERS = (TESTS.parent / "configs", TESTS / "pieces" / "configs")


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Within a block, have the pieces installed, as pip would do it, into a folder that is made for it."""
    info = site / "pieces-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: pieces\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{plugins.ENTRY_POINTS}]\npieces = pieces\n")
    sys.path.append(str(site))
    importlib.invalidate_caches()
    plugins.packages.cache_clear()
    try:
        yield
    finally:
        sys.path.remove(str(site))
        plugins.packages.cache_clear()


def make(spec: dict[str, Any], group: str, **objects: Any) -> Any:
    """Build a component; if it is one of the pieces, they are installed while it is built."""
    if not spec["_target_"].startswith("pieces."):
        return build(spec, group, **objects)
    with TemporaryDirectory() as folder, installed(Path(folder) / "site"):
        return build(spec, group, **objects)


def specs(group: str) -> dict[str, dict[str, Any]]:
    """Return the settings of every component of a group, by the name of its file."""
    return copy.deepcopy(_specs(group))


def pieces(group: str) -> dict[str, dict[str, Any]]:
    """Return the settings of the plug-in's components of a group."""
    return {name: spec for name, spec in specs(group).items() if spec["_target_"].startswith("pieces.")}


def built(group: str) -> dict[str, Any]:
    """Return every component of a group, but for those that lack a package; settings are all they are made of."""
    return {name: make(spec, group) for name, spec in specs(group).items() if not lacking(spec)}


def lacking(spec: dict[str, Any]) -> str:
    """Return the name of the package that a component needs and that is not installed here, or ""."""
    try:
        importlib.import_module(spec["_target_"].rpartition(".")[0])
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package == spec["_target_"].partition(".")[0]:
            raise  # it names a module that its own package does not have
        return package
    return ""


def params(group: str) -> list[Any]:
    """Return the names of a group's components as a test's parameters; what lacks a package is skipped, and says so."""
    found = {name: lacking(spec) for name, spec in specs(group).items()}
    skipped = {name: pytest.mark.skip(reason=f"{package} is not installed") for name, package in found.items()}
    return [pytest.param(name, marks=skipped[name] if package else ()) for name, package in found.items()]


@cache
def _specs(group: str) -> dict[str, dict[str, Any]]:
    return {path.stem: _settings(path) for folder in FOLDERS for path in sorted((folder / group).glob("*.yaml"))}


def _settings(path: Path) -> dict[str, Any]:
    """Return a component's settings, with those of the files it inherits from."""
    config: Any = OmegaConf.load(path)
    parents = [parent for parent in config.pop("defaults", []) if parent != "_self_"]
    inherited = {k: v for parent in parents for k, v in _settings(path.with_name(f"{parent}.yaml")).items()}
    return inherited | OmegaConf.to_container(config)  # type: ignore[operator]
