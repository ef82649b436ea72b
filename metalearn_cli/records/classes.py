"""Which classes a checkpoint was trained on, in all stages before it too, and which of them a later stage holds out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from metalearn_cli.core.places import expanded

_NAMED = 5  # classes that are named


def trained_on(stage: str, data: str, spec: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the record of a stage's training classes.

    Args:
        stage: its name.
        data: the name of its data set.
        spec: the settings of the data set.
        names: of the training classes.
    """
    root = spec.get("root")
    source = Path(expanded(root)).resolve().name if isinstance(root, str) else None
    return {"stage": stage, "data": data, "source": source, "classes": list(names)}


def joined(records: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return records without empty ones, and those of the same stage and classes as one before."""
    found: dict[Any, Mapping[str, Any]] = {}
    for record in records:
        if record["classes"]:
            key = (record["stage"], record["data"], record["source"], tuple(record["classes"]))
            found.setdefault(key, record)
    return list(found.values())


def seen(earlier: Sequence[Mapping[str, Any]], later: Mapping[str, Any], every: Iterable[str]) -> dict[str, Any] | None:
    """Return which held-out classes earlier stages were trained on; None for none.

    Args:
        earlier: records of `trained_on`.
        later: a record of the held-out classes; its `stage` is their split.
        every: the names of all classes of that data set.

    Returns:
        `split`; `classes`, how many of them were trained on; `of`, how many there are; `stages`; `names`, the first.
    """
    known, held_out = set(every), set(later["classes"])
    overlaps = [(r["stage"], held_out.intersection(r["classes"])) for r in earlier if _same(r, later, known)]
    found = set().union(*(names for _, names in overlaps))
    if not found:
        return None
    stages = list(dict.fromkeys(stage for stage, names in overlaps if names))
    counts = {"classes": len(found), "of": len(held_out)}
    return {"split": later["stage"], **counts, "stages": stages, "names": sorted(found)[:_NAMED]}


def _same(record: Mapping[str, Any], later: Mapping[str, Any], known: set[str]) -> bool:
    """Whether two records are of the same data, as far as names can tell.

    The fingerprint is another with each split, and features of a table are scaled by each split's training classes.
    So the data set's name decides, and that the smaller one has half of its classes in common: a "crow" of two folders
    does not make them one. Numbers are the classes of many data sets; they need the same file or folder, too.
    """
    common = known.intersection(record["classes"])
    alike = record["data"] == later["data"] and 2 * len(common) >= min(len(record["classes"]), len(known))
    return alike and (record["source"] == later["source"] or not all(map(str.isdecimal, common)))


def told(found: Mapping[str, Any]) -> str:
    """Return what `seen` found as a sentence."""
    more = found["classes"] - len(found["names"])
    names = ", ".join(found["names"]) + (f" and {more} more" if more else "")
    *others, last = found["stages"]
    stages = " and ".join([*([", ".join(others)] * bool(others)), last])
    were = "was" if found["classes"] == 1 else "were"
    return f"{found['classes']} of {found['of']} {found['split']} classes {were} trained on, in {stages}: {names}"
