"""Checks of run.json, manifest.json and the state for `resume`, which may come from an untrusted source.

A shape is a `Leaf`, a list with one shape (a list of such values), or a dict from keys to shapes: "key?" may be absent
or null, "*" stands for all other keys. Keys that a shape does not name are not checked.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple

from metalearn_cli.core.check import shown


class Leaf(NamedTuple):
    """One value: what it must be, in words, and the check."""

    what: str
    holds: Callable[[Any], bool]


def _matches(pattern: str) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, str) and re.fullmatch(pattern, value) is not None


def _is_moment(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except (TypeError, ValueError):
        return False


def _is_size(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(part, list) and _is_size(part) for part in value.values())
    return isinstance(value, list) and all(map(COUNT.holds, value))


def _each(value: Any, leaf: Leaf) -> bool:
    return all(map(leaf.holds, value.values())) if isinstance(value, dict) else leaf.holds(value)


TEXT = Leaf("text", lambda value: isinstance(value, str))
NUMBER = Leaf("a number", lambda value: isinstance(value, int | float) and not isinstance(value, bool))  # NaN fits
MEASURED = Leaf("a number or null", lambda value: value is None or NUMBER.holds(value))  # null: it was not finite
COUNT = Leaf("a whole number >= 0", lambda value: type(value) is int and 0 <= value < 2**63)
SIZE = Leaf("a list of whole numbers >= 0, or such a list for each part of an item", _is_size)
NAME = Leaf("a name without folders", _matches(r"\w[\w.-]*"))
CHECKPOINT = Leaf("step-N", _matches(r"step-\d{1,18}"))
SHA256 = Leaf("64 hexadecimal digits", _matches(r"[0-9a-f]{64}"))
TRUTH = Leaf("true or false", lambda value: isinstance(value, bool))
MOMENT = Leaf("a time with its zone, as in 2026-01-31T12:00:00+00:00", _is_moment)
OBJECT = Leaf("an object", lambda value: isinstance(value, dict))

VALUES = Leaf("text, or a text for each part of an item", lambda value: _each(value, TEXT))
IDS = Leaf("a whole number >= 0, or one for each part of an item", lambda value: _each(value, COUNT))

PARENT = {"run": TEXT, "stage": TEXT, "step?": COUNT, "checkpoint": TEXT, "sha256": TEXT}
DATA = {
    "name?": TEXT,
    "protocol?": TEXT,
    "fingerprint?": TEXT,
    "whole?": TEXT,
    "spec?": OBJECT,
    "also?": {"*": OBJECT},
    "preprocessing?": OBJECT,
}
FACTS = {"kind": TEXT, "values": VALUES, "classes": COUNT, "outputs": COUNT, "vocabulary": IDS, "tokenizer": TEXT}
SEEN = {"split": TEXT, "classes": COUNT, "of": COUNT, "stages": [TEXT], "names": [TEXT]}
_CALIBRATION = {"ece": MEASURED, "nll": MEASURED}

SCORE = {
    "name": TEXT,
    "value": MEASURED,
    "interval?": NUMBER,
    "interval_classes?": NUMBER,
    "interval_trainings?": NUMBER,
    "worst_decile?": MEASURED,
    "hardest?": [{"name": TEXT, "value": MEASURED, "interval?": NUMBER, "episodes": COUNT, "queries": COUNT}],
    "calibration?": {"temperature?": NUMBER, "episodes": COUNT, "before": _CALIBRATION, "after": _CALIBRATION},
    "over?": {"episodes": COUNT, "trainings": COUNT, "*": COUNT},
    "normalisation?": TEXT,
    "drawn?": Leaf("pooled or within one group", lambda value: value in ("pooled", "within one group")),
    "learner?": TEXT,
    "untrained_head?": TRUTH,
    "fixed?": TRUTH,
    "trained_on?": SEEN,
    "way?": COUNT,
    "shot?": COUNT,
    "query?": COUNT,
    "varying?": OBJECT,
    "step?": COUNT,
    "folds?": COUNT,
}

_OF_GAIN = ("gain_interval?", "gain_interval_classes?", "gain_interval_trainings?")

RUN = {
    "id": NAME,
    "stage": NAME,
    "status": TEXT,
    "started_at?": MOMENT,
    "finished_at?": MOMENT,
    "seconds?": NUMBER,
    "step?": COUNT,
    "steps?": COUNT,
    "best?": CHECKPOINT,
    "last?": CHECKPOINT,
    "stopped_early?": TRUTH,
    "key?": TEXT,
    "sweep?": TEXT,
    "job?": TEXT,
    "typed?": [TEXT],
    "data?": DATA,
    "parent?": PARENT,
    "teacher?": PARENT,
    "training?": OBJECT,
    "starts?": {"*": {"*": TEXT}},
    "metric?": SCORE,
    "baseline?": SCORE,
    "trained?": SCORE,
    "results?": [SCORE],
    "selected?": [{**SCORE, "values": OBJECT, "chosen": TRUTH}],
    "episodes_hash?": SHA256,
    "evaluations?": [{"after": TEXT, "learner": TEXT, "runs": [NAME]}],
    "table?": [
        {
            **SCORE,
            "after": TEXT,
            "evaluations?": [NAME],
            "gain?": NUMBER,
            "selected?": [OBJECT],
            **dict.fromkeys(_OF_GAIN, NUMBER),
        }
    ],
}

SWEEP = {
    "command?": TEXT,
    "jobs": [{"settings": {"*": TEXT}, "status": TEXT, "error": TEXT, "code": COUNT, "folder": TEXT, "run?": RUN}],
}

MANIFEST = {
    "run": NAME,
    "stage": NAME,
    "step": COUNT,
    "metrics": {"*": MEASURED},
    "model": {
        "backbone?": OBJECT,
        "shape?": SIZE,
        "facts?": FACTS,
        "algorithm?": OBJECT,
        "way?": COUNT,
        "episode?": {"*": COUNT},
        "val_episode?": {"*": COUNT},
    },
    "data": DATA,
    "parent?": PARENT,
    "teacher?": PARENT,
    "signature": {"*": TEXT},
    "files": {"*": {"sha256": SHA256, "bytes?": COUNT}},
}

ARTEFACT = {
    "name": TEXT,
    "classes": [TEXT],
    "examples": [{"name": TEXT, "class": TEXT}],
    "input": {**FACTS, "shape": SIZE, "dtype": TEXT},
    "preprocessing": OBJECT,
    "tokenizer": TEXT,
    "statistics": TEXT,
    "calibration?": {
        "temperature": NUMBER,
        "threshold?": NUMBER,
        "keep": NUMBER,
        "let_through?": NUMBER,
        "way": COUNT,
        "shot": COUNT,
        "episodes": COUNT,
    },
    "learner": {"backbone": OBJECT, "algorithm": OBJECT, "way?": COUNT},
    "data": {"name?": TEXT, "protocol?": TEXT},
    "source": PARENT,
    "lineage": [{"run": TEXT, "stage": TEXT, "sha256?": SHA256}],
    "result?": OBJECT,
    "quantize?": {
        "type": TEXT,
        "items": {"split": TEXT, "count": COUNT, "sha256": SHA256},
        "float_sha256": SHA256,
        "change": {
            **dict.fromkeys(("float", "int8", "gain", "half_width"), NUMBER),
            "evaluation": TEXT,
            "over": OBJECT,
        },
    },
    "files": {"*": {"sha256": SHA256, "bytes": COUNT}},
    "sha256": SHA256,
}

CLASSES = {"trained_on": [{"stage": TEXT, "data": TEXT, "source?": TEXT, "classes": [TEXT]}]}

RESUME = {
    "optimizer": OBJECT,
    "memory": {"window": [{"*": NUMBER}], "skipped": COUNT, "in_a_row": COUNT},
    "best": {"name?": CHECKPOINT, "step?": COUNT, "metrics?": {"*": NUMBER}},
}


def misshapen(value: Any, shape: Any, key: str = "") -> str:
    """Return what is wrong with a value ("step must be a whole number >= 0, got -1"), or ""."""
    if isinstance(shape, Leaf):
        return "" if shape.holds(value) else f"{key} must be {shape.what}, got {shown(value)}"
    if isinstance(shape, list):
        if not isinstance(value, list):
            return f"{key} must be a list, got {shown(value)}"
        parts = [(f"{key}.{index}", part, shape[0]) for index, part in enumerate(value)]
    else:
        if not isinstance(value, dict):
            return f"{key} must be an object, got {shown(value)}"
        parts = []
        within = f"{key}." if key else ""
        for name, wanted in shape.items():
            own = name.rstrip("?")
            if name == "*":
                parts += [(f"{within}{own}", part, wanted) for own, part in value.items()]
            elif own in value and not (own != name and value[own] is None):
                parts.append((f"{within}{own}", value[own], wanted))
            elif own == name:
                return f"it has no {within}{own}"
    return next(filter(None, (misshapen(part, wanted, where) for where, part, wanted in parts)), "")
