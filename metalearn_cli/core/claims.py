"""What an experiment claims, as its config file writes it: tiers of different cost, each with expected results.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass
from typing import Annotated, Any, Literal

from metalearn_cli.core.check import Above, Range, meant, mismatch, shown
from metalearn_cli.core.config import parse
from metalearn_cli.core.errors import ConfigError, Problem

TierName = Literal["smoke", "short", "full"]
TIERS = ("smoke", "short", "full")
"""smoke: everything runs, in less than a minute; short: the settings as the file has them; full: the paper's."""


@dataclass(frozen=True)
class Expectation:
    """An expected result of the last checkpoint of a chain."""

    learner: str
    """Its name in the table of `mlx run`."""
    normalisation: Literal["transductive", "inductive", "none"]
    metric: Literal["accuracy", "mse"]
    value: float
    """In percent for an accuracy."""
    tolerance: Annotated[float, Range(0)]
    """How much worse a result may be, in the unit of `value`."""
    source: str
    """Paper and table, a URL, or "measured here"."""
    reruns: str | None = None
    """What others measured when they ran it again."""
    drawn: Literal["pooled", "within one group"] = "pooled"
    """Where `evaluate.also_within` scores both: from which classes those of an episode are drawn."""


@dataclass(frozen=True)
class Tier:
    """One version of an experiment."""

    settings: list[str]
    """What differs from the file, as it is typed."""
    minutes: Annotated[float, Above(0)]
    """Time on 2 cores, without that of an experiment that runs before."""
    expect: list[Expectation]
    bound: str | None = None
    """What keeps results from the expected ones, where they fail."""


OPTIONAL = {
    name: field.default for name, field in Expectation.__dataclass_fields__.items() if field.default is not MISSING
}
"""Entries of an expectation that need not be written, with their values."""


def parse_tiers(values: Any) -> dict[str, Tier]:
    """Turn the plain values of `tiers` into tiers; what a tier does not name is empty.

    Raises:
        ConfigError: with every problem, under the keys of `mlx run`.
    """
    if not isinstance(values, Mapping):
        raise ConfigError([Problem("tiers", f"must be a group of {', '.join(TIERS)}, got {shown(values)}")])
    problems: list[Problem] = []
    found = {}
    for name, own in values.items():
        try:
            found[name] = _tier(name, own)
        except ConfigError as error:
            problems += [p._replace(key=f"tiers.{name}.{p.key}".rstrip(".")) for p in error.problems]
    if problems:
        raise ConfigError(problems)
    return found


def check_tier(name: Any, tiers: Mapping[str, Tier]) -> None:
    """Check that a tier can be run; without tiers, short is the settings as they are.

    Raises:
        ConfigError: if it cannot.
    """
    if name in [*(tiers or ("short",))]:
        return
    if not tiers and (wrong := mismatch(name, TierName)):
        raise ConfigError([Problem("tier", wrong, meant(name, TierName))])
    there = f"the experiment has only {', '.join(tiers)}" if tiers else "only an experiment has it: experiment=NAME"
    raise ConfigError([Problem("tier", f"there is no tier {name}; {there}")])


def _tier(name: str, values: Any) -> Tier:
    if name not in TIERS:
        raise ConfigError([Problem("", f"no such tier; there are {', '.join(TIERS)}")])
    if not isinstance(values, Mapping):
        raise ConfigError([Problem("", f"must be a group of settings, minutes and expect, got {shown(values)}")])
    expected = values.get("expect", [])
    tier = parse(Tier, {"settings": [], "bound": None, **values, "expect": []})
    if not isinstance(expected, list):
        raise ConfigError([Problem("expect", f"must be a list of expectations, got {shown(expected)}")])
    if name == "smoke" and expected:
        raise ConfigError([Problem("expect", "has nothing to meet: smoke only shows that everything runs")])
    if name == "short" and tier.settings:
        raise ConfigError([Problem("settings", "must be empty: short is the file as it is")])
    problems: list[Problem] = []
    for word in tier.settings:
        if not word.partition("=")[1]:
            problems.append(Problem("settings", f"are words of a command line, as in steps=2, got {shown(word)}"))
        elif word.partition("=")[0] in ("tier", "experiment"):
            problems.append(Problem("settings", f"cannot choose another experiment or tier, got {word}"))
    for index, one in enumerate(expected):
        try:
            tier.expect.append(_expectation(one))
        except ConfigError as error:
            problems += [p._replace(key=f"expect.{index}.{p.key}".rstrip(".")) for p in error.problems]
    if problems:
        raise ConfigError(problems)
    return tier


def _expectation(values: Any) -> Expectation:
    if not isinstance(values, Mapping):
        raise ConfigError([Problem("", f"must be a group with learner, value, ..., got {shown(values)}")])
    found = parse(Expectation, {**OPTIONAL, **values})
    if found.metric == "accuracy" and not 1 < found.value <= 100:
        raise ConfigError([Problem("value", f"must be in percent, above 1 and up to 100, got {found.value:g}")])
    return found
