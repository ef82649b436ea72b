"""Which classes a checkpoint was trained on, in all stages before it too, and which of them a later stage holds out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unicodedata import normalize

from metalearn_cli.core.places import expanded

POOLED = "pooled"  # the data set whose classes begin with the name of a part
_NAMED = 5  # classes that are named


def trained_on(stage: str, data: str, spec: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """Return the record of a stage's training classes.

    Args:
        stage: its name.
        data: the name of its data set.
        spec: the settings of the data set.
        names: of the training classes.
    """
    found = {"stage": stage, "data": data, "source": _source(spec), "classes": list(names)}
    return {**found, "parts": {part: _source(own) for part, own in spec["parts"].items()}} if data == POOLED else found


def _source(spec: Mapping[str, Any]) -> str | None:
    """Return the name of the file or folder that data is read from, None if there is none."""
    root = spec.get("root")
    return Path(expanded(root)).resolve().name if isinstance(root, str) else None


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
    known, held_out = list(every), set(later["classes"])
    overlaps = [(r["stage"], held_out & _trained_on(r, later, known)) for r in earlier]
    found = set().union(*(names for _, names in overlaps))
    if not found:
        return None
    stages = list(dict.fromkeys(stage for stage, names in overlaps if names))
    counts = {"classes": len(found), "of": len(held_out)}
    return {"split": later["stage"], **counts, "stages": stages, "names": sorted(found)[:_NAMED]}


def _trained_on(record: Mapping[str, Any], later: Mapping[str, Any], known: Sequence[str]) -> set[str]:
    """Return which known classes of later data a record names, if both are of the same data, as far as names can tell.

    The fingerprint is another with each split, and features of a table are scaled by each split's training classes.
    So the data set's name and those of classes decide. If these differ, one of the two may have been read from a folder
    further down, so that its "crow" is the other's "birds/crow", or the data may be a part of pooled data.
    """
    same = record["data"] == later["data"]
    if same and (found := _in_both(_names(record, record["classes"]), _names(later, known))):
        return found
    if not same and POOLED not in (record["data"], later["data"]):
        return set()
    before, after = _inside(record, record["classes"]), _inside(later, known)
    pairs = [(one, two) for one in before for two in after if one.whole]
    pairs += [(one, two) for two in after if two.whole for one in before]
    return set().union(*(_in_both(one, two) for one, two in pairs))


class _Names(NamedTuple):
    """Names of classes.

    Attributes:
        source: the file or folder that they are from, None if that is not known.
        whole: whether they are all the classes of a data set, not those of a folder in it.
        full: the name in the record, by the name in this folder; accents are written alike (NFC).
    """

    source: str | None
    whole: bool
    full: dict[str, str]


def _names(record: Mapping[str, Any], names: Sequence[str]) -> _Names:
    """Return the names of classes of a record."""
    return _Names(record["source"], True, {normalize("NFC", name): name for name in names})


def _inside(record: Mapping[str, Any], names: Sequence[str]) -> list[_Names]:
    """Return the names of classes of a record, of each part if it is of pooled data, and of each folder in these."""
    top = int(record["data"] == POOLED)
    found: dict[tuple[str, ...], dict[str, str]] = {}
    for name in names:
        parts = normalize("NFC", name).split("/")
        for i in range(top, len(parts)):
            found.setdefault(tuple(parts[:i]), {})["/".join(parts[i:])] = name
    sources: dict[tuple[str, ...], str | None] = {(): record["source"]}
    sources |= {(part,): source for part, source in record.get("parts", {}).items()}
    return [
        _Names(above[-1] if len(above) > top else sources.get(above), len(above) == top, full)
        for above, full in found.items()
    ]


def _in_both(record: _Names, later: _Names) -> set[str]:
    """Return the full names of those later classes that are in a record, too, if both are of the same data.

    The smaller one must have half of its classes in common: a "crow" of two folders does not make them one. Numbers
    are the classes of many data sets; they need the same file or folder, too.
    """
    common = record.full.keys() & later.full.keys()
    alike = 2 * len(common) >= min(len(record.full), len(later.full))
    if not alike or (record.source != later.source and all(map(str.isdecimal, common))):
        return set()
    return {later.full[name] for name in common}


def told(found: Mapping[str, Any]) -> str:
    """Return what `seen` found as a sentence."""
    more = found["classes"] - len(found["names"])
    names = ", ".join(found["names"]) + (f" and {more} more" if more else "")
    *others, last = found["stages"]
    stages = " and ".join([*([", ".join(others)] * bool(others)), last])
    were = "was" if found["classes"] == 1 else "were"
    return f"{found['classes']} of {found['of']} {found['split']} classes {were} trained on, in {stages}: {names}"
