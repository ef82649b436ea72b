"""From a component's settings (`_target_` and keyword arguments) to the object, and nothing else can be built.

A config may come from a stranger, so each group of components has one package that its names may lie in, and of a
module there only what bears the module's name and is defined in it: neither aliases nor helpers can be reached.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any, get_type_hints

from metalearn_cli.core import plugins
from metalearn_cli.core.check import mismatch, shown
from metalearn_cli.core.errors import ConfigError, Problem, UserError

FOLDERS = {"backbone": "backbones", "model": "models", "method": "methods", "algorithm": "algorithms", "data": "data"}
"""Where the components of each group are, in this package and in plug-ins: `maml.Maml`, one to a module."""

OF_TORCH = {"optimizer": ("torch.optim", "Optimizer"), "scheduler": ("torch.optim.lr_scheduler", "LRScheduler")}
"""The groups that torch brings: the module, and the class in it that all of them derive from."""

PASSED_IN = {
    "backbone": frozenset({"shape"}),
    "model": frozenset({"backbone", "shape", "value_range", "classes"}),
    "optimizer": frozenset({"params", "fused"}),
    "scheduler": frozenset({"optimizer"}),
}
"""Arguments that stages pass to a component, facts about the data and objects built before: no config sets them."""

Spec = Mapping[str, Any]
"""A component's settings: `_target_` (dotted name) and the constructor's keyword arguments."""


def locate(target: str, key: str) -> Any:
    """Import what `target` names.

    Args:
        target: the dotted name of a class or function.
        key: the group that it must be of ("algorithm").

    Raises:
        ValueError: if it is not of that group, or is not there.
    """
    module_name, _, attribute = target.rpartition(".")
    group, base = OF_TORCH.get(key) or (f"metalearn_cli.{FOLDERS[key]}", "")
    groups = (group, *(f"{package}.{FOLDERS[key]}" for package in plugins.packages() if not base))
    parent, _, module = module_name.rpartition(".")
    reachable = module_name == group if base else parent in groups and not module.startswith("_")
    allowed = f"allowed is {group}.{'*' if base else 'NAME.Name'}"
    if not reachable or attribute.startswith("_"):
        raise ValueError(f"{target!r} may not be built from a config; {allowed}")
    try:
        within = importlib.import_module(module_name)
        found = getattr(within, attribute)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{target!r} does not exist: {error}") from error
    if base:
        kind = getattr(within, base)
        fits = inspect.isclass(found) and issubclass(found, kind) and found is not kind
    else:
        own = (inspect.isclass(found) or inspect.isfunction(found)) and found.__module__ == module_name
        fits = own and attribute.lower() == module.replace("_", "")
    if not fits:
        raise ValueError(f"{target!r} is no {key}; {allowed}")
    return found


def problems_of(spec: object, key: str) -> list[Problem]:
    """Check a component's settings against its constructor's signature, without building it.

    Args:
        spec: the settings as they came from the config.
        key: where they stand in the config ("algorithm").
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_target_"), str):
        return [Problem(key, f"must name what to build by `_target_`, got {shown(spec)}; choose one with {key}=NAME")]
    try:
        found = locate(spec["_target_"], key)
    except ValueError as error:
        return [Problem(f"{key}._target_", str(error))]
    name = spec["_target_"].rpartition(".")[2]
    passed_in = PASSED_IN.get(key, frozenset())
    parameters = {p.name: p for p in inspect.signature(found).parameters.values() if p.name not in passed_in}
    # torch imports some names of its annotations for type checkers alone
    names = vars(collections.abc)
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found, localns=names, include_extras=True)
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
        ConfigError: if the settings do not fit its constructor, or the constructor refuses them.
    """
    if problems := problems_of(spec, key):
        raise ConfigError(problems)
    found = locate(spec["_target_"], key)
    settings = {name: value for name, value in spec.items() if name != "_target_"}
    parameters = inspect.signature(found).parameters
    with blamed_on(spec, key):
        return found(**{name: o for name, o in objects.items() if name in parameters}, **settings)


@contextmanager
def blamed_on(spec: Spec, key: str) -> Iterator[None]:
    """Tell what goes wrong in a component as a problem of its settings: only they can be at fault.

    Raises:
        ConfigError: for a ValueError, which names the setting, and for what torch, or the lack of memory, comes to
            with values that no annotation excludes.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        first = str(error).split(" ", 1)[0]
        raise ConfigError([Problem(f"{key}.{first}" if first in spec else key, str(error))]) from error
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        name = spec["_target_"].rpartition(".")[2]
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")
        raise ConfigError([Problem(key, f"{name} cannot be used with these settings ({reason})")]) from error
