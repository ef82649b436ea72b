"""What components are called: as they are typed, by the name of a config. Needs no torch."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from metalearn_cli.core import plugins
from metalearn_cli.core.places import config_dir


@cache
def choices(group: str) -> dict[str, dict[str, Any]]:
    """Return the configs of a group, ours and those of plug-ins, each with the settings of those that it extends.

    Those that extend none come first. A file that is damaged is left out.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in (path for folder in (config_dir(), *plugins.config_dirs()) for path in _files(folder / group)):
        with suppress(OSError, ValueError, yaml.YAMLError):
            if isinstance(values := yaml.safe_load(path.read_text("utf-8")), dict):
                found.setdefault(path.stem, values)
    whole = {name: _with_bases(name, found) for name in sorted(found, key=lambda name: "defaults" in found[name])}
    return {name: values for name, values in whole.items() if isinstance(values.get("_target_"), str)}


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.yaml"))


def _with_bases(name: str, configs: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    own = dict(configs[name])
    bases = [base for base in own.pop("defaults", ()) if isinstance(base, str) and base in configs and base != name]
    return {key: value for base in bases for key, value in _with_bases(base, configs).items()} | own


def name_of(setting: str, spec: Mapping[str, Any]) -> str:
    """Return what a component is called: the config of its class that is nearest to its settings, or its class.

    Words and switches decide before numbers: fomaml is maml with one switch, whatever its step size.

    Args:
        setting: which one it is, dotted: its group is the last part that is one, as in "backbone.parts.image".
        spec: its settings.
    """
    target = str(spec.get("_target_"))
    parts = reversed(setting.replace("also", "data").split("."))
    group = next((own for own in parts if own.isidentifier() and choices(own)), None)
    same = {name: own for name, own in choices(group).items() if own["_target_"] == target} if group else {}
    if not same:
        return target.rpartition(".")[2]

    def distance(name: str) -> tuple[int, int]:
        differing = [value for key, value in same[name].items() if spec.get(key) != value]
        numbers = sum(isinstance(value, int | float) and not isinstance(value, bool) for value in differing)
        return len(differing) - numbers, numbers

    return min(same, key=distance)


def recorded_name(learner: str) -> str:
    """Return the name of a learner in a record, where one of an earlier version has the name of the class."""
    by_class = {values["_target_"].rpartition(".")[2]: name for name, values in reversed(choices("algorithm").items())}
    return by_class.get(learner, learner)
