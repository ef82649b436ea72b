"""Which values of a learner's settings to choose from, on validation episodes.

`select={algorithm.lr: [0, 0.01], algorithm.steps: [5, 10]}` stands for all four combinations. Each is scored on
episodes of validation classes, and only the best one on those of test classes: otherwise the choice would be a part of
the test, whose result it makes better than it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

from metalearn_cli.core.build import Spec, problems_of, types_of
from metalearn_cli.core.check import shown
from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.nested import leaves

_OF = "algorithm."


def combinations(select: Mapping[str, Any], spec: Spec, split: str) -> list[dict[str, Any]]:
    """Return the combinations of values, each by setting, such as {"algorithm.lr": 0.01}.

    Args:
        select: a list of values for each setting.
        spec: the settings of the learner.
        split: the classes that the result is of.

    Raises:
        ConfigError: with all that is wrong with them.
    """
    # {algorithm: {lr: [0]}} is what `select.algorithm.lr=[0]` gives
    found = dict(leaves(select))
    problems = [problem for key, values in found.items() for problem in _wrong(key, values, spec)]
    if select and split != "test":
        message = f"must be test with select, which chooses by validation classes, got {split!r}"
        problems.append(Problem("split", message))
    if problems:
        raise ConfigError(problems)
    return [dict(zip(found, values, strict=True)) for values in product(*found.values())]


def with_values(spec: Spec, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a learner with the values of a combination."""
    return {**spec, **{key.removeprefix(_OF): value for key, value in values.items()}}


def _wrong(key: str, values: Any, spec: Spec) -> list[Problem]:
    """Return what is wrong with a setting or its values."""
    if not key.startswith(_OF):
        message = "is no setting of the learner; those begin with algorithm., as in algorithm.lr"
        return [Problem("select", f"{key}: {message}")]
    if not isinstance(values, list) or not values:
        return [Problem("select", f"{key}: must be a list of one or more values, got {shown(values)}")]
    found = [p for value in values for p in problems_of(with_values(spec, {key: value}), "algorithm")]
    return [Problem("select", f"{p.key}: {p.message}{_advice(p, spec)}") for p in dict.fromkeys(found) if p.key == key]


def _advice(problem: Problem, spec: Spec) -> str:
    """Return what to select instead of an unknown setting, as the end of a sentence."""
    if problem.hint:
        return f"; did you mean {_OF}{problem.hint}?"
    if not problem.message.startswith("no such setting"):
        return ""
    there = [f"{_OF}{name}" for name in types_of(spec["_target_"], "algorithm")]
    return f"; it has {', '.join(there)}" if there else ", which has none; leave select out"
