"""Plug-ins: components of other packages that are installed with pip. Needs no torch.

A plug-in is a package with the same layout as this one: modules in the sub-packages `algorithms`, `backbones`,
`models`, `methods` and `data`, and YAML files in a folder `configs` with the groups' names. It registers itself by an
entry point:

    [project.entry-points."metalearn_cli.components"]
    my_package = "my_package"

Installing it is the consent to build its components (`my_package.algorithms.anil.Anil`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

ENTRY_POINTS = "metalearn_cli.components"


@cache
def packages() -> tuple[str, ...]:
    """Return the names of the installed plug-ins' packages; entry points of packages that do not exist are ignored."""
    named = {point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return tuple(name for name in sorted(named) if name.isidentifier() and importlib.util.find_spec(name))


def config_dirs() -> list[Path]:
    """Return the folders of configs of the plug-ins that have one."""
    folders = []
    for name in packages():
        spec = importlib.util.find_spec(name)
        for place in (spec and spec.submodule_search_locations) or ():
            folders.append(Path(place) / "configs")
    return [folder for folder in folders if folder.is_dir()]
