"""From a component's settings (`_target_` and keyword arguments) to the object, and nothing else can be built.

A config may come from a stranger, so only names inside this package and `torch.optim` resolve, and the resolved object
itself must be defined there: an alias inside an allowed module does not open the door to another one.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, get_type_hints

from metalearn_cli.core.check import mismatch
from metalearn_cli.core.errors import ConfigError, Problem, UserError

ALLOWED = ("metalearn_cli.", "torch.optim.")

PASSED_IN = {
    "backbone": frozenset({"shape"}),
    "model": frozenset({"backbone", "shape", "value_range", "classes"}),
    "optimizer": frozenset({"params", "fused"}),
    "scheduler": frozenset({"optimizer"}),
}
"""Arguments that stages pass to a component, facts about the data and objects built before: no config sets them."""

Spec = Mapping[str, Any]
"""A component's settings: `_target_` (dotted name) and the constructor's keyword arguments."""


def locate(target: str) -> Any:
    """Import what `target` names.

    Raises:
        ValueError: if it lies outside the allowed packages, or is not there.
    """
    allowed = " or ".join(f"{prefix}*" for prefix in ALLOWED)
    if not target.startswith(ALLOWED):
        raise ValueError(f"{target!r} may not be built from a config; allowed is {allowed}")
    module_name, _, attribute = target.rpartition(".")
    try:
        found = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{target!r} does not exist: {error}") from error
    if not (inspect.isclass(found) or inspect.isfunction(found)) or not f"{found.__module__}.".startswith(ALLOWED):
        raise ValueError(f"{target!r} is not a class or function of {allowed}")
    return found


def problems_of(spec: object, key: str) -> list[Problem]:
    """Check a component's settings against its constructor's signature, without building it.

    Args:
        spec: the settings as they came from the config.
        key: where they stand in the config ("algorithm").
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_target_"), str):
        return [Problem(key, f"must name what to build by `_target_`, got {spec!r}; choose one with {key}=NAME")]
    try:
        found = locate(spec["_target_"])
    except ValueError as error:
        return [Problem(f"{key}._target_", str(error))]
    name = spec["_target_"].rpartition(".")[2]
    passed_in = PASSED_IN.get(key, frozenset())
    parameters = {p.name: p for p in inspect.signature(found).parameters.values() if p.name not in passed_in}
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found, include_extras=True)
    problems = []
    for setting, value in spec.items():
        if setting == "_target_":
            continue
        if setting not in parameters:
            hint = next(iter(get_close_matches(str(setting), parameters)), "")
            problems.append(Problem(f"{key}.{setting}", f"no such setting of {name}", hint))
        elif wrong := mismatch(value, hints.get(setting, Any)):
            problems.append(Problem(f"{key}.{setting}", wrong))
    for p in parameters.values():
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in spec:
            problems.append(Problem(f"{key}.{p.name}", f"{name} needs this setting"))
    return problems


def build(spec: Spec, key: str, **objects: Any) -> Any:
    """Build a component, passing those of `objects` that its constructor takes.

    Raises:
        ConfigError: if the constructor refuses a value (its ValueError), with the setting's key.
    """
    settings = {name: value for name, value in spec.items() if name != "_target_"}
    try:
        found = locate(spec["_target_"])
        parameters = inspect.signature(found).parameters
        return found(**{name: o for name, o in objects.items() if name in parameters}, **settings)
    except UserError:
        raise
    except ValueError as error:
        first = str(error).split(" ", 1)[0]
        raise ConfigError([Problem(f"{key}.{first}" if first in settings else key, str(error))]) from error
