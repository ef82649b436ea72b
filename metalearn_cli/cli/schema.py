"""A JSON Schema of config files, with which an editor completes keys and choices, explains them and marks mistakes.

Types and ranges are those that settings are checked against, descriptions the comments beside keys. No key is required,
as a file need not set everything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from typing import Any, get_type_hints

from metalearn_cli.cli.choices import catalogue, texts_of
from metalearn_cli.cli.words import STAGES, meant
from metalearn_cli.core import config
from metalearn_cli.core.build import PARTS, Spec, types_of
from metalearn_cli.core.check import as_schema
from metalearn_cli.core.claims import TIERS, Expectation, Tier
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.stages import TABLE, TRAINING

Schema = dict[str, Any]

_DRAFT = "http://json-schema.org/draft-07/schema#"  # the newest that editors' YAML plug-ins know well
_REFERENCE = {"type": "string", "pattern": r"^\$\{[^}]*\}$"}
_TARGET = {"type": "string", "pattern": r"^\w+(\.\w+)+$"}


def schema(name: str, extra: str = "") -> Schema:
    """Return the schema of a stage's settings, or of the files of a group; that of an experiment is that of `mlx run`.

    Args:
        name: the stage or the group.
        extra: the user's own folder of configs, or "".

    Raises:
        UserError: if there is neither.
    """
    stage = "run" if name == "experiment" else name
    if stage == "run":
        whole = _run(extra)
    elif stage in STAGES:
        whole = _settings(config.STAGES[stage], _comments(stage, extra))
    elif stage in _SECTIONS:
        found: Schema = {}
        for cls, usual in _SECTIONS[stage].items():
            for key, own in _settings(cls, _in(usual, extra))["properties"].items():
                found[key] = {"anyOf": [found[key], own]} if key in found else own
        whole = _object(found)
    elif stage in _GROUPS:
        whole = {"$ref": f"#/definitions/{stage}"}
    else:
        known = (*STAGES, *_GROUPS, *_SECTIONS, "experiment")
        raise UserError(f"there is no schema of {name!r}; there are {', '.join(known)}{meant(name, known)}")
    if "properties" in whole:
        whole["properties"]["defaults"] = _defaults(extra)
    definitions: dict[str, Schema] = {}
    for needed in dict.fromkeys(re.findall(r'"#/definitions/(\w+)"', json.dumps(whole))):
        definitions |= _components(needed, extra)
    return {"$schema": _DRAFT, "title": f"mlx {name}", **whole, "definitions": definitions}


_SECTIONS: dict[str, dict[type, str]] = {
    "runtime": {config.Runtime: "runtime/auto"},
    "sweep": {
        config.Sweep: "sweep/local",
        config.Search: "sweep/optuna",
        config.Slurm: "sweep/slurm",
        config.Ray: "sweep/ray",
    },
}
"""Groups whose files are settings of `mlx`, not of a component: their parts, each with a file that has its comments."""

_GROUPS = ("algorithm", "backbone", "data", "method", "model", "optimizer", "scheduler")


def _run(extra: str) -> Schema:
    """Return the schema of `mlx run`: settings at the top for all stages, and a section for each stage."""
    comments = _comments("run", extra)
    found: Schema = {}
    sections: Schema = {}
    for stage, cls in config.STAGES.items():
        section = TABLE[stage].section
        own = _settings(cls, _comments(stage, extra))
        del own["properties"]["ckpt" if stage == "evaluate" else "init_from"]
        sections[section] = {"description": TABLE[stage].about, **own}
        found = own["properties"] | found
    expectation = _object({name: as_schema(a) for name, a in _hints(Expectation).items()})
    tier = _object(
        {name: as_schema(a) for name, a in _hints(Tier).items()} | {"expect": {"type": "array", "items": expectation}}
    )
    experiments = list(catalogue(extra).get("experiment", {}))
    chain = {
        "stages": {"type": "array", "items": {"enum": list(TRAINING)}, "minItems": 1},
        **{name: as_schema(_hints(config.ChainConfig)[name]) for name in ("folds", "wait")},
        "seeds": as_schema(_hints(config.ChainConfig)["seeds"]) | {"minimum": 1},
        "tier": {"enum": list(TIERS)},
        "tiers": _object(dict.fromkeys(TIERS, tier)),
        "after": {"enum": [*experiments, None]},
        "init_from": as_schema(_hints(config.Training)["init_from"]),
    }
    told = {name: _described(own, comments.get(name, "")) for name, own in chain.items()}
    return _object({**found, **told, **sections})


def _settings(cls: type, comments: Mapping[str, str], prefix: str = "") -> Schema:
    """Return the schema of the settings in a dataclass, with the comments by their dotted keys."""
    found: Schema = {}
    for name, annotation in _hints(cls).items():
        key = f"{prefix}{name}"
        if is_dataclass(annotation) and isinstance(annotation, type):
            found[name] = _settings(annotation, comments, f"{key}.")
        elif annotation in (Spec, Spec | None):
            component = {"$ref": f"#/definitions/{name}"}
            found[name] = component if annotation == Spec else {"anyOf": [component, {"type": "null"}]}
        elif annotation == dict[str, Spec]:
            found[name] = {"type": "object", "additionalProperties": {"$ref": "#/definitions/data"}}
        else:
            found[name] = _described(_referring(as_schema(annotation)), comments.get(key, ""))
    return _object(found)


def _components(name: str, extra: str) -> dict[str, Schema]:
    """Return the schemas of a group's settings under its name, and of those of each class under its dotted name.

    Without `_target_`, as where an experiment changes a setting of what it chooses, the settings of all classes are
    allowed.
    """
    classes: dict[str, Schema] = {}
    for choice in catalogue(extra).get(name, {}):
        comments = _in(f"{name}/{choice}", extra)
        target = _target(name, choice, extra)
        try:
            types = types_of(target, name)
        except ValueError:  # a file of the user's own that builds nothing
            continue
        own = classes.setdefault(target, {})
        for key, annotation in types.items():
            own[key] = own.get(key) or _component_setting(name, key, annotation, comments)
    everything: dict[str, dict[str, Schema]] = {}
    for target, own in classes.items():
        for key, setting in own.items():
            everything.setdefault(key, {})[json.dumps(setting)] = {"$ref": f"#/definitions/{target}/properties/{key}"}
    settings = {
        key: next(iter(s.values())) if len(s) == 1 else {"anyOf": [*s.values()]} for key, s in everything.items()
    }
    more = {"_target_": {"anyOf": [{"enum": list(classes)}, _TARGET]}, "defaults": _DEFAULTS}
    of_class = [
        {
            "if": {"properties": {"_target_": {"const": target}}, "required": ["_target_"]},
            "then": {"$ref": f"#/definitions/{target}"},
        }
        for target in classes
    ]
    none = {"if": {"not": {"required": ["_target_"]}}, "then": {"propertyNames": {"enum": [*everything, "defaults"]}}}
    found = {
        "type": "object",
        "properties": {**more, **settings},
        "allOf": [*of_class, none],
    }
    return {name: found, **{target: _object({**more, **own}) for target, own in classes.items()}}


def _component_setting(name: str, key: str, annotation: Any, comments: Mapping[str, str]) -> Schema:
    if annotation == PARTS:
        parts = {"type": ["object", "null"], "additionalProperties": {"$ref": f"#/definitions/{name}"}}
        return _described(parts, comments.get(key, ""))
    return _described(_referring(as_schema(annotation)), comments.get(key, ""))


_DEFAULTS: Schema = {"type": "array", "description": "the configs that this one extends, and its own place (_self_)"}


def _defaults(extra: str) -> Schema:
    """Return the schema of the list of a file's choices."""
    choices = {
        f"override /{name}": {"enum": [*found, None]} for name, found in catalogue(extra).items() if name in _GROUPS
    }
    return {**_DEFAULTS, "items": {"anyOf": [{"type": "string"}, {"type": "object", "properties": choices}]}}


def _target(name: str, choice: str, extra: str) -> str:
    found = [
        line for text in texts_of(name, choice, extra) for line in re.findall(r"^_target_: (\S+)", text, re.MULTILINE)
    ]
    return found[-1] if found else ""


def _comments(stage: str, extra: str) -> dict[str, str]:
    """Return the comments beside the keys of a stage's files."""
    parts = {"evaluate": "evaluate", **{name: TABLE[name].section for name in TRAINING}}
    names = ["base", *([f"stage/{parts[stage]}"] if stage in parts else []), stage]
    runtime = {f"runtime.{key}": told for key, told in _in("runtime/auto", extra).items()}
    return runtime | {key: told for name in names for key, told in _in(name, extra).items()}


def _in(name: str, extra: str) -> dict[str, str]:
    """Return the comments beside the keys of a config and of those that it extends, by dotted keys."""
    folder, _, choice = name.rpartition("/")
    return {key: told for text in texts_of(folder, choice, extra) for key, told in _beside(text)}


def _beside(text: str) -> Iterator[tuple[str, str]]:
    """Return each dotted key of a YAML text that has a comment beside it, with the comment and the value."""
    path: list[tuple[int, str]] = []
    for line in text.splitlines():
        if not (found := re.match(r"( *)(\w+):(?: (.*?))??(?:  ?# (.*))?$", line)):
            continue
        indent, key, value, told = len(found[1]), found[2], found[3] or "", found[4]
        path = [*(entry for entry in path if entry[0] < indent), (indent, key)]
        if told:
            usual = f"; usually {value}" if value and not value.startswith("null") else ""
            yield ".".join(name for _, name in path), f"{told}{usual}"


def _described(found: Schema, told: str) -> Schema:
    return {"description": told, **found} if told else found


def _referring(found: Schema) -> Schema:
    """Return a schema that also allows a reference to another setting."""
    kinds = [option.get("type") for option in found.get("anyOf", [found])]
    return found if "string" in kinds or not found else {"anyOf": [*found.get("anyOf", [found]), _REFERENCE]}


def _object(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls, include_extras=True)
