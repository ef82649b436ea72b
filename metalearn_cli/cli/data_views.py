"""The tables of data sets: what is in them, what is wrong with them, and some of their items."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from metalearn_cli.cli import telling
from metalearn_cli.core.check import in_shell
from metalearn_cli.core.errors import LISTED, Finding

_SAME = 20  # most rows of findings that differ in their items alone
_NAMES = 4  # classes of a split that are named


def data(found: Mapping[str, Any], words: Sequence[str] | None = None, run: Sequence[str] = ()) -> None:
    """Show the findings of a check of a data set.

    Args:
        found: the result of `stages.data.check_data`.
        words: the settings that name the data, to show what was understood of its source, too; None for no more.
        run: those of the `mlx run` that trains on it.
    """
    facts = found["data"]
    noun = "tasks" if facts and facts["regression"] else "classes"
    if facts and words is not None:
        rows = [
            [name.replace("_", " "), listing(value)] for name, value in facts["about"].items() if name != "examples"
        ]
        rows += [[name, _split(split, noun)] for name, split in facts["splits"].items()]
        rows += [["split by", facts["protocol"]], ["an item", f"{facts['kind']} {listing(facts['shape'])}"]]
        rows += [["an episode", ", ".join(f"{key} {value}" for key, value in facts["episode"].items())]]
        rows += [["verdicts", told] for told in _verdicts(facts)]
        telling.table(facts["name"], ["!", ""], rows)
    elif facts:
        sizes = [f"{name} {s['classes']} {noun}, {s['items']} items" for name, s in facts["splits"].items()]
        telling.say(f"{facts['name']} ({'; '.join([facts['protocol'], *sizes])})\n")
        for told in _verdicts(facts):
            telling.say(f"verdicts: {told}\n")
    rows = found["findings"]
    if rows:
        telling.table("", ["!", "where", "what"], _findings([Finding(**row) for row in rows]))
    errors = sum(f["blocks"] for f in found["findings"])
    summary = f"{errors} error{'s' * (errors != 1)}, {len(rows) - errors} warning{'s' * (len(rows) - errors != 1)}"
    telling.say(f"{summary}: training may{'' if found['may_start'] else ' not'} start")
    if found["cure"]:
        telling.say(found["cure"])
    if words is not None and found["may_start"]:
        show, run = (" ".join(map(in_shell, own)) for own in (words, run))
        telling.say(f"next: mlx data show {show}\n      mlx run {run}")


def _verdicts(facts: Mapping[str, Any]) -> list[str]:
    """Return that no stage can be said to help or to hurt, if an episode has all test classes."""
    way, classes = facts["episode"]["way"], facts["splits"].get("test", {}).get("classes", 0)
    if facts["regression"] or not 0 < classes <= way:
        return []
    cure = f"; way={classes - 1} gives verdicts" if classes > 2 else ""
    return [f'whether a stage helps is "not clear", as an episode has each of the {classes} test classes{cure}']


def _findings(found: Sequence[Finding]) -> list[list[str]]:
    """Return findings as rows: one for those of the same sentence, and few for those that differ in their items."""
    places: dict[tuple[bool, str, str], list[str]] = {}
    for finding in found:
        places.setdefault((finding.blocks, finding.what, finding.told), []).append(finding.where)
    same = Counter((blocks, what) for blocks, what, _ in places)
    shown: Counter[tuple[bool, str]] = Counter()
    rows = []
    for (blocks, what, sentence), where in places.items():
        kind = (blocks, what)
        shown[kind] += 1
        if shown[kind] <= _SAME:
            more = f" and {len(where) - LISTED} more (--json lists them all)" * (len(where) > LISTED)
            rows.append(["error" if blocks else "warning", "; ".join(where[:LISTED]) + more, sentence])
        elif shown[kind] == same[kind]:
            rows.append(["", f"and {same[kind] - _SAME} more", "the same; --json lists them all"])
    return rows


def items(shown: Mapping[str, Any]) -> None:
    """Show the result of `stages.data.show_data`: where its picture is, or rows of items."""
    if shown["rows"]:
        telling.table("", ["!split", f"!{shown['noun']}", "item"], shown["rows"])
    if shown["picture"] or not shown["rows"]:
        telling.say(shown["picture"] or "there is nothing to show: each episode is generated")
    if shown["shown"] < shown["classes"]:
        nouns = {"class": "classes", "task": "tasks"}[shown["noun"]]
        telling.say(f"{shown['shown']} of {shown['classes']} {nouns}")
    if shown["numbers"]:
        told = "no font of this computer has the letters of some names; in the picture, a number stands for each"
        telling.say(told)
        telling.table("", ["!", ""], [[number, name] for number, name in shown["numbers"].items()])


def _split(split: Mapping[str, Any], noun: str) -> str:
    names = ", ".join(split["names"][:_NAMES])
    more = f" and {split['classes'] - _NAMES} more" if split["classes"] > _NAMES else ""
    return f"{split['classes']} {noun}, {split['items']} items: {names}{more}"


def listing(value: Any) -> str:
    """Return a shape or a vocabulary, of one part or of several, in words."""
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {listing(part)}" for name, part in value.items() if part) or "-"
    if isinstance(value, list):
        return "x".join(map(str, value)) if all(isinstance(part, int) for part in value) else ", ".join(map(str, value))
    return str(value)
