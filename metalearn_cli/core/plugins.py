"""Components of other packages: what a pip-installed package adds, without a change here. Needs no torch.

A plug-in is a package laid out as this one: modules in the sub-packages `algorithms`, `backbones`, `models`, `methods`
and `data`, and their YAML files in a folder `configs` with the groups' names. It names itself by an entry point:

    [project.entry-points."metalearn_cli.components"]
    my_package = "my_package"

Installing it is the consent to build what its modules are named after (`my_package.algorithms.anil.Anil`).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from functools import cache
from pathlib import Path

ENTRY_POINTS = "metalearn_cli.components"


@cache
def packages() -> tuple[str, ...]:
    """Return the names of the installed plug-ins' packages; what an entry point names that is not there is none."""
    named = {point.value for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    return tuple(name for name in sorted(named) if name.isidentifier() and importlib.util.find_spec(name))


def config_dirs() -> list[Path]:
    """Return the plug-ins' folders of configs, of those that have one."""
    folders = []
    for name in packages():
        spec = importlib.util.find_spec(name)
        for place in (spec and spec.submodule_search_locations) or ():
            folders.append(Path(place) / "configs")
    return [folder for folder in folders if folder.is_dir()]
