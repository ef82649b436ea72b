"""Which settings of a learner an evaluation selected on validation episodes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from metalearn_cli.core.check import written


def chosen(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that an evaluation selected, by setting, from its run.json; {} if nothing was to be.

    >>> chosen({"selected": [{"values": {"algorithm.lr": 0}, "chosen": False}]})
    {}
    >>> chosen({"selected": [{"values": {"algorithm.lr": 0.1}, "chosen": True}]})
    {'algorithm.lr': 0.1}
    """
    return next((row["values"] for row in evaluation.get("selected") or () if row["chosen"]), {})


def in_words(found: Iterable[Mapping[str, Any]]) -> str:
    """Return the values that several evaluations selected, each once.

    >>> in_words([{"algorithm.lr": 0.1}, {"algorithm.lr": 1}, {"algorithm.lr": 0.1}])
    'lr=0.1 or 1'
    """
    values: dict[str, dict[str, None]] = {}
    for each in found:
        for key, value in each.items():
            values.setdefault(key.removeprefix("algorithm."), {})[written(value)] = None
    return ", ".join(f"{key}={' or '.join(every)}" for key, every in values.items())
