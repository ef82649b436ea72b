"""Several data sets as one, for many kinds of tasks at once or for tests on another domain."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from metalearn_cli.core.build import Spec, build
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem
from metalearn_cli.core.items import joined
from metalearn_cli.data.common.cache import cached
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.findings import findings_of, shared_groups
from metalearn_cli.data.common.splits import SPLITS, Split, names_of_items, packed

MEANING = ("columns", "rate", "features", "mels", "hop", "polarity")
"""What of a data set's preprocessing says what the numbers of its items mean."""


def pooled(
    parts: dict[str, Spec] | None = None,
    train: Sequence[str] | None = None,
    val: Sequence[str] | None = None,
    test: Sequence[str] | None = None,
    within: bool = False,
) -> Dataset:
    """The classes of several data sets, each in the split that it has in its own; "crow" of birds is "birds/crow".

    Args:
        parts: the settings of two or more data sets by name; their items have the same shape and kind of values.
        train: the data sets whose training classes are used; None for all.
        val: those whose validation classes are used; None for those of `train`.
        test: those whose test classes are used; None for all.
        within: whether the classes of an episode are all of one data set.

    Raises:
        UserError: if they do not go together, or one cannot be used.
    """
    parts = parts or {}
    used = {"train": train, "val": train if val is None else val, "test": test}
    problems = [
        Problem(f"data.{split}", f"{name!r} is no part; there are {', '.join(parts)}")
        for split, names in (("train", train), ("val", val), ("test", test))
        for name in names or ()
        if name not in parts
    ]
    problems += [Problem(f"data.{s}", "names no part; null stands for all") for s in SPLITS if used[s] == []]
    problems += [Problem("data.parts", f"{name!r} contains a slash") for name in parts if "/" in name]
    if len(parts) < 2:
        told = f"has {len(parts)} data sets; choose two or more: data@data.parts.NAME=CHOICE data.parts.NAME.root=PATH"
        problems.append(Problem("data.parts", told))
    if problems:
        raise ConfigError(problems)
    data, findings = {}, []
    for name in sorted(parts):
        try:
            data[name] = _part(name, parts[name])
        except DataError as error:
            findings += [finding._replace(where=f"{name}, {finding.where}") for finding in error.findings]
    if findings:
        raise DataError(findings)
    owners = {split: sorted(set(data if names is None else names)) for split, names in used.items()}
    _check(data, owners)
    key = {"parts": {name: _key(own) for name, own in data.items()}}
    found = cached("pooled", {**key, "owners": owners}, lambda: _data(data, owners))
    return found.within_groups("data sets") if within else found


def _part(name: str, spec: Spec) -> Dataset:
    """Build a part.

    Raises:
        ConfigError: with the part's name in its keys.
    """
    if spec.get("fold"):
        told = "a part has no folds of its own; deal all parts into folds with data.fold"
        raise ConfigError([Problem(f"data.parts.{name}.fold", told)])
    try:
        data: Dataset = build(spec, "data")
    except ConfigError as error:
        moved = (p._replace(key=f"data.parts.{name}{p.key.removeprefix('data')}") for p in error.problems)
        raise ConfigError(moved) from error
    return data


def _key(data: Dataset) -> list[Any]:
    """Return what the pooled data takes from a part: a renamed file changes no fingerprint, but where items are."""
    places = hashlib.sha256(repr([names_of_items(split) for split in data.splits.values()]).encode()).hexdigest()
    return [data.fingerprint, data.protocol, dict(data.preprocessing), data.findings, places]


def _check(data: Mapping[str, Dataset], owners: Mapping[str, Sequence[str]]) -> None:
    """Check that items of the parts can be in one batch.

    Raises:
        ConfigError: naming two that cannot, and the setting that makes them equal.
    """
    first, *others = data
    facts = data[first].facts
    problems = []
    for name in data:
        place = f"data.parts.{name}"
        if missing := [split for split, names in owners.items() if name in names and split not in data[name].splits]:
            told = "has no stored items" if not data[name].splits else f"has no split {', '.join(missing)}"
            problems.append(Problem(place, f"{told}; it cannot be pooled"))
    for name in others:
        own, place = data[name].facts, f"data.parts.{name}"
        both = f"items of {first} are {_told(facts)}, those of {name} {_told(own)}"
        if (own.kind, own.values, own.outputs) != (facts.kind, facts.values, facts.outputs):
            problems.append(Problem(place, f"{both}; pool data of one kind"))
        elif own.shape != facts.shape:
            problems.append(Problem(place, f"{both}; make them equal: {_cure(facts, own, place)}"))
        elif facts.values == "ids" and data[first].preprocessing != data[name].preprocessing:
            told = f"{first} and {name} have vocabularies of their own"
            problems.append(Problem(place, f"{told}; give both data.parts.NAME.tokenizer=bytes"))
    if problems:
        raise ConfigError(problems)


def _told(facts: Any) -> str:
    targets = f" with {facts.outputs} targets" if facts.outputs else ""
    return f"{facts.kind} ({facts.values}) of shape {facts.plain_shape}{targets}"


def _cure(facts: Any, own: Any, place: str) -> str:
    """Return what to type so that items get the shape of others."""
    if facts.kind != "image" or len(facts.shape) != len(own.shape):
        return "settings of either that change the shape"
    sizes = [f"{place}.size={facts.shape[1]}"] * (facts.shape[1:] != own.shape[1:])
    return " ".join([*sizes, *[f"{place}.channels={facts.shape[0]}"] * (facts.shape[0] != own.shape[0])])


def _data(data: Mapping[str, Dataset], owners: Mapping[str, Sequence[str]]) -> Dataset:
    splits = {split: _joined({name: data[name].splits[split] for name in names}) for split, names in owners.items()}
    preprocessing = {name: dict(own.preprocessing) for name, own in data.items()}
    first = next(iter(data.values()))
    same = all(own == first.preprocessing for own in preprocessing.values())
    apart = [finding for own in data.values() for finding in shared_groups(own.splits)]
    again = [f for own in data.values() for f in findings_of(own.splits) if f not in apart]  # found once more among all
    findings = [
        finding._replace(where=f"{name}, {finding.where}")
        for name, own in data.items()
        for finding in own.findings
        if finding not in again
    ]
    for name, own in list(data.items())[1:]:
        if differ := _differing(first.preprocessing, own.preprocessing):
            told = f"has other {', '.join(differ)} than {next(iter(data))}: their numbers mean different things"
            findings.append(Finding(False, f"data.parts.{name}", told))
    told = ", ".join(f"{split} of {' and '.join(names)}" for split, names in owners.items())
    whole = all(list(names) == list(data) for names in owners.values())
    found = Dataset.of(
        "pooled",
        "; ".join(f"{name}: {own.protocol}" for name, own in data.items()) + ("" if whole else f"; {told}"),
        splits,
        first.facts.kind,
        dict(first.preprocessing) if same else {"parts": preprocessing},
        first.facts.vocabulary,
        {name: f"{own.name}, {sum(len(s.names) for s in own.splits.values())} classes" for name, own in data.items()},
        tuple(findings),
    )
    pools = shared_groups(splits)  # a part is a group of its classes, in every split on purpose
    return replace(found, findings=tuple(finding for finding in found.findings if finding not in pools))


def _differing(one: Mapping[str, Any], two: Mapping[str, Any]) -> list[str]:
    """Return what is not the same of two ways in which a file becomes an item, if it changes what numbers mean."""
    plain = [{**own, "columns": [column["name"] for column in own.get("columns", ())]} for own in (one, two)]
    return [name for name in MEANING if plain[0].get(name) != plain[1].get(name)]


def _joined(splits: Mapping[str, Split]) -> Split:
    """Return the classes of several splits as one."""
    targets = [split.targets for split in splits.values() if split.targets is not None]
    return Split(
        joined([split.items for split in splits.values()]),
        torch.cat([split.counts for split in splits.values()]),
        tuple(f"{part}/{name}" for part, split in splits.items() for name in split.names),
        torch.cat(targets) if targets else None,
        packed(f"{part}: {name}" for part, split in splits.items() for name in names_of_items(split)),
    )
