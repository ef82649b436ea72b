"""Build components, and nothing else, from their settings (`_target_` and keyword arguments).

A config may come from an untrusted source. So each group of components has one package for its modules, and only what
has its module's name and is defined there can be built, neither aliases nor helpers. Settings are checked against the
component's source; only a component that is built is imported.
"""

from __future__ import annotations

import collections.abc
import importlib
import inspect
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from metalearn_cli.core import plugins
from metalearn_cli.core.check import OnDisk, Range, meant, mismatch, shown
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.source import Parameter, parameters

FOLDERS = {"backbone": "backbones", "model": "models", "method": "methods", "algorithm": "algorithms", "data": "data"}
"""The folder of each group's components, in this package and in plug-ins: `maml.Maml`, one per module."""

OF_TORCH = {"optimizer": ("torch.optim", "Optimizer"), "scheduler": ("torch.optim.lr_scheduler", "LRScheduler")}
"""The groups that torch provides: the module, and the base class of the group."""

LIMITS = {"optimizer": {"lr": Annotated[float, Range(0)]}}
"""What settings of torch's components may be, where torch says so only once they are built."""

PASSED_IN = {
    "backbone": frozenset({"facts", "shape"}),
    "model": frozenset({"backbone", "facts", "shape", "value_range", "vocabulary", "classes"}),
    "optimizer": frozenset({"params", "fused"}),
    "scheduler": frozenset({"optimizer"}),
}
"""Arguments that stages pass to a component (facts about the data, other objects): no config sets them."""

SHARED = {
    "backbone": {"train": Parameter(required=False, annotation=str)},
    "data": {"fold": Parameter(required=False, annotation=str | None)},
}
"""Settings that each component of a group has: stages act on them, and no constructor gets them."""

Spec = Mapping[str, Any]
"""A component's settings: `_target_` (dotted name) and the constructor's keyword arguments."""

PARTS = dict[str, Spec] | None
"""The annotation of a setting that has the settings of other components of the same group, by name; each is checked."""


def locate(target: str, key: str) -> Any:
    """Import what `target` names.

    Args:
        target: the dotted name of a class or function.
        key: the group that it must belong to ("algorithm").

    Raises:
        ValueError: if it does not exist, or does not belong to that group.
    """
    _permit(target, key)
    module, _, name = target.rpartition(".")
    try:
        within = importlib.import_module(module)
        found = getattr(within, name)
    except ModuleNotFoundError as error:
        told = "does not exist" if error.name and module.startswith(error.name) else "cannot be imported"
        raise ValueError(f"{target!r} {told}: {error}") from error
    except ImportError as error:
        raise ValueError(f"{target!r} cannot be imported: {error}") from error
    except AttributeError as error:
        raise ValueError(f"{target!r} does not exist: {error}") from error
    if key in OF_TORCH:
        kind = getattr(within, OF_TORCH[key][1])
        fits = inspect.isclass(found) and issubclass(found, kind) and found is not kind
    else:
        fits = (inspect.isclass(found) or inspect.isfunction(found)) and found.__module__ == module
    if not fits:
        raise ValueError(f"{target!r} is not a valid {key}; allowed is {_allowed(key)}")
    return found


def problems_of(spec: object, key: str) -> list[Problem]:
    """Check a component's settings against its constructor's signature, without importing it if its source is enough.

    Args:
        spec: the settings from the config.
        key: their key in the config ("algorithm").
    """
    if isinstance(spec, Mapping) and spec and "_target_" not in spec:
        told = ", ".join(map(str, spec))
        are = "is a setting" if len(spec) == 1 else "are settings"
        return [Problem(key, f"{told} {are} of what {key}=NAME chooses, which is not typed; type it, too")]
    if not isinstance(spec, Mapping) or not isinstance(spec.get("_target_"), str):
        return [Problem(key, f"must name its class in `_target_`, got {shown(spec)}; choose one with {key}=NAME")]
    try:
        taken = _parameters(spec["_target_"], key) | SHARED.get(key, {})
    except ValueError as error:
        return [Problem(f"{key}._target_", str(error))]
    name = spec["_target_"].rpartition(".")[2]
    problems = []
    for setting, value in spec.items():
        if setting == "_target_":
            continue
        if setting not in taken:
            hint = next(iter(get_close_matches(str(setting), taken)), "")
            problems.append(Problem(f"{key}.{setting}", f"no such setting of {name}", hint))
        elif taken[setting].annotation == PARTS and isinstance(value, Mapping):
            found = {part: problems_of(own, key) for part, own in value.items()}
            inner = f"{key}.{setting}"
            problems += [p._replace(key=f"{inner}.{n}{p.key[len(key) :]}") for n, own in found.items() for p in own]
        elif wrong := mismatch(value, allowed := LIMITS.get(key, {}).get(setting, taken[setting].annotation)):
            problems.append(Problem(f"{key}.{setting}", wrong, meant(value, allowed)))
    missing = [setting for setting, parameter in taken.items() if parameter.required and setting not in spec]
    return problems + [Problem(f"{key}.{setting}", f"{name} needs this setting") for setting in missing]


def mapped(value: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """Return settings in which the settings of each component, also of one within another, are changed."""
    if not isinstance(value, Mapping):
        return value
    inner = {name: mapped(own, change) for name, own in value.items()}
    return change(inner) if "_target_" in inner else inner


def _allowed(key: str) -> str:
    if key in OF_TORCH:
        return f"{OF_TORCH[key][0]}.*"
    return " or ".join(f"{package}.NAME.Name" for package in packages(key))


def packages(key: str) -> list[str]:
    """Return the packages with the components of a group: ours, and those of plug-ins."""
    return [f"{package}.{FOLDERS[key]}" for package in ("metalearn_cli", *plugins.packages())]


def _permit(target: str, key: str) -> None:
    """Refuse a name that is not a component of a group.

    Raises:
        ValueError: with what is allowed.
    """
    module, _, name = target.rpartition(".")
    package, _, own = module.rpartition(".")
    reachable = module == OF_TORCH[key][0] if key in OF_TORCH else package in packages(key) and own[:1] != "_"
    if not reachable or name.startswith("_"):
        other, _, folder = package.partition(".")
        hint = f"; if {other} is a plug-in, it is not installed here" if folder == FOLDERS.get(key) else ""
        raise ValueError(f"{target!r} may not be built from a config; allowed is {_allowed(key)}{hint}")
    if key in FOLDERS and name.lower().replace("_", "") != own.replace("_", ""):
        rule = "a component has the name of its module, as in maml.Maml"
        raise ValueError(f"{target!r} is not a valid {key}; allowed is {_allowed(key)}: {rule}")


def _parameters(target: str, key: str) -> dict[str, Parameter]:
    """Return the parameters of a component that a config may set, by name.

    Raises:
        ValueError: if it does not exist, or does not belong to that group.
    """
    _permit(target, key)
    module, _, name = target.rpartition(".")
    passed_in = PASSED_IN.get(key, frozenset())
    try:
        told = parameters(module, name, passed_in)
    except LookupError as error:
        raise ValueError(f"{target!r} does not exist: {error}") from error
    if told is not None:
        return told
    found = locate(target, key)
    # torch imports some names of its annotations only for type checkers
    names = vars(collections.abc)
    hints = get_type_hints(found.__init__ if inspect.isclass(found) else found, localns=names, include_extras=True)
    return {
        p.name: Parameter(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD, hints.get(p.name, Any))
        for p in inspect.signature(found).parameters.values()
        if p.name not in passed_in
    }


def types_of(target: str, key: str) -> dict[str, Any]:
    """Return the type of each setting of a component, by name.

    Raises:
        ValueError: if it does not exist, or does not belong to that group.
    """
    taken = _parameters(target, key) | SHARED.get(key, {})
    return {name: parameter.annotation for name, parameter in taken.items()} | LIMITS.get(key, {})


def files_of(spec: Spec, key: str) -> dict[str, str]:
    """Return the settings of a component that name files or folders (`core.check.OnDisk`) and do."""
    taken = _parameters(spec["_target_"], key)
    marked = [name for name, p in taken.items() if any(isinstance(m, OnDisk) for m in get_args(p.annotation))]
    return {name: spec[name] for name in marked if spec.get(name) and Path(spec[name]).exists()}


def build(spec: Spec, key: str, **objects: Any) -> Any:
    """Build a component; of `objects`, its constructor gets those that it takes.

    Raises:
        ConfigError: if the settings do not fit its constructor, or the constructor refuses them.
    """
    constructor = bind(spec, key, **objects)
    with blamed_on(spec, key):
        return constructor()


def bind(spec: Spec, key: str, **objects: Any) -> partial[Any]:
    """Return a component's constructor with its arguments: the settings, and those of `objects` that it takes.

    Raises:
        ConfigError: if the settings do not fit the constructor.
    """
    problems = problems_of(spec, key)
    if not problems:
        try:
            found = locate(spec["_target_"], key)
        except ValueError as error:
            problems = [Problem(f"{key}._target_", str(error))]
    if problems:
        raise ConfigError(problems)
    settings = {name: value for name, value in spec.items() if name not in ("_target_", *SHARED.get(key, {}))}
    taken = inspect.signature(found).parameters
    return partial(found, **{name: o for name, o in objects.items() if name in taken}, **settings)


def _names(word: str, setting: str, key: str) -> bool:
    """Whether a word of an error names a setting: ours are named as they are, torch's as in "epsilon" for eps."""
    alike = key in OF_TORCH and min(len(word), len(setting)) > 2 and word[:3] == setting[:3].lower()
    return alike or word == setting


@contextmanager
def blamed_on(spec: Spec, key: str) -> Iterator[None]:
    """Within a block, report errors of a component as problems of its settings, as only these can be the cause.

    Raises:
        ConfigError: for a ValueError, which names the setting, and for errors of torch, or lack of memory, with values
            that no annotation excludes.
    """
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        words = re.findall(r"\w+", str(error).lower() if key in OF_TORCH else str(error).partition(" ")[0])
        told = [name for word in words for name in spec if _names(word, name, key)]
        raise ConfigError([Problem(f"{key}.{told[0]}" if told else key, str(error))]) from error
    except (TypeError, ArithmeticError, LookupError, AttributeError, RuntimeError, MemoryError) as error:
        name = spec["_target_"].rpartition(".")[2]
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".rstrip(": ")
        raise ConfigError([Problem(key, f"{name} cannot be used with these settings ({reason})")]) from error
