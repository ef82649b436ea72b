"""What a source of data holds, item by item, and how its classes are split into train, val and test.

Legend: K classes or groups.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from metalearn_cli.core.errors import LISTED, ConfigError, DataError, Finding, Problem
from metalearn_cli.core.items import Items
from metalearn_cli.core.metric import SAME_CLASSES
from metalearn_cli.core.places import expanded
from metalearn_cli.core.random import derive_seed
from metalearn_cli.data.common.files import SPLIT_WORDS
from metalearn_cli.data.common.rows import Place, word_of
from metalearn_cli.data.common.splits import SPLITS, Split, nfc, packed

WAYS = ("auto", "groups", "classes", "items")
"""How classes may be split, besides by a file of lists."""

SHARE = 5  # val and test get a fifth of the classes each
USUAL_WAY = 5  # but as many as an episode usually has, where there are four times as many
FEWEST = 6  # two classes in each split
FEWEST_GROUPS = 3  # one in each split
FEW_ODD = 4  # items of another split than the rest of their class are a mistake if they are no more than a fourth of it


_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")


class Entry(NamedTuple):
    """An item.

    Attributes:
        source: what it is decoded from: a file's name, a text, the number of a row.
        label: its class.
        split: "train", "val", "test", or "" if the source does not say.
        group: what it belongs to besides its class (alphabet, speaker, task), or "". A class is then a label in a
            group, and a seeded split keeps groups together.
    """

    source: Any
    label: str
    split: str = ""
    group: str = ""

    @property
    def class_name(self) -> str:
        """The name of its class, see `splits.group_of`."""
        # the first slash ends the group: a slash of a group, or of a label without one ("km/h"), must not be it
        group, label = (text.replace("/", "\N{DIVISION SLASH}") for text in (self.group, self.label))
        return f"{group}/{self.label}" if group else label


Noun = Literal["class", "task"]
PLURAL = {"class": "classes", "task": "tasks"}


class Manifest(NamedTuple):
    """All items of a source.

    Attributes:
        entries: the items.
        about: what was understood, as plain values, for `mlx data make`.
        findings: what cannot be used, or was left out.
        noun: what a label is: "class", or "task" of a regression.
        by_place: whether seeded splits deal classes by their place among all, as the recorded results of a benchmark
            were; else by their name, so that an added class moves few others.
        place: returns where an entry's source was found, for messages.
    """

    entries: Sequence[Entry]
    about: Mapping[str, Any] = {}
    findings: tuple[Finding, ...] = ()
    noun: Noun = "class"
    by_place: bool = False
    place: Callable[[Any], str] = str


class Placed(NamedTuple):
    """The items by split and class.

    Attributes:
        classes: the entries of each class of each split.
        protocol: how they were split.
        findings: what was left out.
        min_items: classes of which fewer items can be read are left out.
    """

    classes: Mapping[str, Mapping[str, Sequence[Entry]]]
    protocol: str
    findings: tuple[Finding, ...]
    min_items: int = 1

    @property
    def plain(self) -> list[Any]:
        """Return all this as plain values, a part of the key of a cached data set."""
        sources = {s: {n: [e.source for e in own] for n, own in classes.items()} for s, classes in self.classes.items()}
        return [sources, self.protocol, self.findings, self.min_items]

    def entries(self, split: str) -> list[Entry]:
        """Return the entries of a split, class by class."""
        return [entry for entries in self.classes[split].values() for entry in entries]

    def splits(self, decoded: Callable[[str, list[Entry]], Items], place: Callable[[Any], str]) -> dict[str, Split]:
        """Return the splits of a data set.

        Args:
            decoded: returns the items of a split's entries, in their order.
            place: returns where an entry's source was found.
        """
        return {
            split: Split(
                items=decoded(split, self.entries(split)),
                counts=torch.tensor([len(entries) for entries in classes.values()]),
                names=tuple(classes),
                sources=packed(place(entry.source) for entry in self.entries(split)),
            )
            for split, classes in self.classes.items()
        }


def placed(manifest: Manifest, split: str, seed: int, min_items: int = 2) -> Placed:
    """Split the items of a manifest.

    Args:
        manifest: the items.
        split: "auto": as the source says; else by group, if all items have one and there are three; else by class.
            "groups", "classes": a seeded split of these, whatever the source says. "items": each class is in every
            split, with other items. Otherwise a JSON file {"train": [classes], "val": [...], "test": [...]}.
        seed: of the seeded splits.
        min_items: classes with fewer items are left out.

    Raises:
        ConfigError: if there are too few classes.
        DataError: if there are no items; with findings that block, also if there are too few classes.
    """
    blocking = [finding for finding in manifest.findings if finding.blocks]
    if not manifest.entries:
        raise DataError(blocking or [Finding(True, "data.root", "has no items that can be read")])
    try:
        return _placed(manifest, split, seed, min_items)
    except ConfigError as error:
        if not blocking:
            raise
        told = [Finding(True, p.key, p.message) for p in error.problems]
    except DataError as error:
        told = [*error.findings]
    raise DataError([*blocking, *told])


def _placed(manifest: Manifest, split: str, seed: int, min_items: int) -> Placed:
    """Split the items of a manifest that has some; see `placed`."""
    plural = PLURAL[manifest.noun]
    classes, small = _by_class(manifest.entries, min_items, plural)
    if not classes:
        raise DataError([finding._replace(blocks=True) for finding in small])
    findings = (*manifest.findings, *small, *_alike(classes))
    given = any(entry.split for entry in manifest.entries)
    order: Order = partial(_by_place if manifest.by_place else _by_name, seed)
    if split == "items":
        how = "as given" if given else f"seed {seed}"
        return Placed(_items(classes, given, seed), f"{SAME_CLASSES} {plural}, {how}", findings, min_items)
    if split not in WAYS:
        lists = _listed(classes, Path(expanded(split)))
        left = [name for name in classes if not any(name in own for own in lists.values())]
        if left:
            be = "is" if len(left) == 1 else "are"
            told = f"{len(left)} of {len(classes)} {plural} {be} in none of the lists and {be} left out"
            findings = (*findings, Finding(False, split, told, tuple(left)))
        return Placed(lists, f"lists of {Path(split).name}", findings, min_items)
    if split == "auto" and given:
        return Placed(_given(classes, order, manifest), "as given", findings, min_items)
    groups = {entry.group for entry in manifest.entries}
    if split == "groups" or (split == "auto" and "" not in groups and len(groups) >= FEWEST_GROUPS):
        return Placed(_seeded(classes, _groups(groups, order)), f"groups, seed {seed}", findings, min_items)
    return Placed(
        _seeded(classes, _classes(list(classes), order, manifest.noun)), f"{plural}, seed {seed}", findings, min_items
    )


def key_of_split(split: str) -> str:
    """Return what a way of splitting depends on, for the key of a cache: its name, or the text of its file."""
    path = Path(expanded(split))
    return split if split in WAYS or not path.is_file() else path.read_text("utf-8", errors="replace")


def split_named(word: object, where: str) -> str:
    """Return the split of a word, such as "train" for "Training"; "" for an empty one.

    Raises:
        DataError: if it is none.
    """
    text = word_of(word).lower()
    found = SPLIT_WORDS.get(text) if text else ""
    if found is None:
        raise DataError([Finding(True, where, f"has the split {word!r}; a split is one of {', '.join(SPLITS)}")])
    return found


def splits_of(words: Sequence[object], column: str, path: Path | str, place: Place) -> tuple[list[str], list[Finding]]:
    """Return the split of each row, and which of the words are none.

    Where no word is a split, this is told once: the column is another one, of a usual name.

    Args:
        words: the split of each row, as the column has it.
        column: its name.
        path: of the table.
        place: where a row is in it.
    """
    splits: list[str] = []
    findings: list[Finding] = []
    for row, word in enumerate(words):
        try:
            splits.append(split_named(word, f"{path}, {place(row)}"))
        except DataError as error:
            splits.append("")
            findings += error.findings
    if findings and not any(splits):
        values = list(dict.fromkeys(own for word in words if (own := word_of(word))))
        told = f"is taken for the split, but has {_some(values)}; a split is one of {', '.join(SPLITS)}"
        cure = "data.column.split='' makes it a column like any other"
        findings = [Finding(True, f"{path}, column {column}", f"{told}; {cure}")]
    return splits, findings


Classes = dict[str, list[Entry]]

Order = Callable[[Sequence[str]], list[str]]
"""Returns names in a seeded order."""


def _by_class(entries: Sequence[Entry], min_items: int, plural: str) -> tuple[Classes, tuple[Finding, ...]]:
    """Return the entries of each class that is large enough, sorted by name, and what was left out."""
    classes: Classes = {}
    for entry in entries:
        classes.setdefault(entry.class_name, []).append(entry)
    small = [name for name, own in classes.items() if len(own) < min_items]
    findings: tuple[Finding, ...] = ()
    if small:
        findings = (too_small(small, len(classes), min_items, plural, "items"),)
    return {name: classes[name] for name in sorted(classes) if len(classes[name]) >= min_items}, findings


def too_small(small: Sequence[str], classes: int, min_items: int, plural: str, items: str) -> Finding:
    """Return that classes are left out because they have too few items; `plural` and `items` say what they are."""
    have, be = ("has", "is") if len(small) == 1 else ("have", "are")
    told = f"{len(small)} of {classes} {plural} {have} fewer than {min_items} {items} and {be} left out"
    return Finding(False, "data.min_items", told, tuple(sorted(small)))


def _alike(names: Iterable[str]) -> list[Finding]:
    """Return classes whose names differ only in case, in blanks, in how an accent or a number is written."""
    sets: dict[str, list[str]] = {}
    for name in names:
        plain = " ".join(nfc(nfc(name).casefold()).split())
        sets.setdefault(str(float(plain)) if _NUMBER.fullmatch(plain) else plain, []).append(name)
    alike = tuple(" and ".join(map(ascii, own)) for own in sets.values() if len(own) > 1)
    if not alike:
        return []
    told = "has class names that may mean the same class; they stay different, correct the labels if they are not"
    return [Finding(False, "data.root", told, alike)]


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _odd(classes: Classes, shared: Sequence[str], place: Callable[[Any], str]) -> str:
    """Return the entries of shared classes that are in another split than most of their class, if they are few."""
    usual = {name: Counter(entry.split for entry in classes[name]).most_common(1)[0][0] for name in shared}
    odd = [(name, entry) for name in shared for entry in classes[name] if entry.split != usual[name]]
    if len(odd) > LISTED or len(odd) * FEW_ODD > sum(len(classes[name]) for name in shared):
        return ""
    told = [f"{place(entry.source)} is {entry.split}, the others of {name} are {usual[name]}" for name, entry in odd]
    return f"; or correct the split where it is a mistake: {'; '.join(told)}"


def _given(classes: Classes, order: Order, manifest: Manifest) -> dict[str, Classes]:
    """Split as the source says; what it does not have is taken from its training classes."""
    noun: Noun = manifest.noun
    own: dict[str, set[str]] = {name: {entry.split for entry in entries} for name, entries in classes.items()}
    shared = [name for name, splits in own.items() if len(splits - {""}) > 1]
    if shared:
        be = f"{noun} is" if len(shared) == 1 else f"{PLURAL[noun]} are"
        many = f"{len(shared)} {be} in more than one split ({_some(shared)})"
        told = f"few-shot learning is tested on {PLURAL[noun]} that training has not seen"
        choose = f"data.split=classes splits the {PLURAL[noun]} anew, data.split=items keeps the splits"
        choose += " (ordinary classification)" * (noun == "class") + _odd(classes, shared, manifest.place)
        raise ConfigError([Problem("data.split", f"{many}, but {told}: {choose}")])
    if unsaid := [name for name, splits in own.items() if "" in splits]:
        have = f"{noun} has" if len(unsaid) == 1 else f"{PLURAL[noun]} have"
        told = f"{len(unsaid)} {have} items without a split: {_some(unsaid)}"
        raise ConfigError([Problem("data.split", told)])
    found: dict[str, Classes] = {split: {} for split in SPLITS}
    for name, entries in classes.items():
        found[entries[0].split][name] = entries
    missing = [split for split in SPLITS[1:] if not found[split]]
    if not found["train"]:
        raise ConfigError([Problem("data.split", "the source has no training items; data.split=classes splits anew")])
    if missing:
        names = list(found["train"])
        if len(names) < FEWEST:
            raise ConfigError([Problem("data.split", _too_few(len(names), "train", noun))])
        dealt = order(names)
        held = _held(len(names))
        for index, split in enumerate(missing):
            for name in dealt[index * held : (index + 1) * held]:
                found[split][name] = found["train"].pop(name)
    return {split: dict(sorted(own.items())) for split, own in found.items()}


def _items(classes: Classes, given: bool, seed: int) -> dict[str, Classes]:
    """Split the items of each class: as the source says, or a fifth of each class to val and to test."""
    found: dict[str, Classes] = {split: {} for split in SPLITS}
    small = []
    for name, entries in classes.items():
        parts: dict[str, list[Entry]] = {split: [e for e in entries if e.split == split] for split in SPLITS}
        rest = [parts["train"][int(i)] for i in _order(len(parts["train"]), seed, name)]
        if not given:
            rest = [entries[int(i)] for i in _order(len(entries), seed, name)]
        held = max(1, len(rest) // SHARE)
        for split in SPLITS[1:]:
            if not parts[split]:
                parts[split], rest = rest[:held], rest[held:]
        parts["train"] = rest
        if not all(parts.values()):
            small.append(name)
            continue
        for split, own in parts.items():
            found[split][name] = own
    if len(found["train"]) < 2:
        told = f"split=items needs two classes or more with items in each split; {len(found['train'])} have them"
        raise ConfigError([Problem("data.split", told)])
    return found


def _listed(classes: Classes, path: Path) -> dict[str, Classes]:
    """Split by the lists of a JSON file."""
    try:
        lists = json.loads(path.read_text("utf-8"))
        if odd := [split for split in SPLITS if not isinstance(lists[split], list)]:
            raise TypeError(f"{' and '.join(odd)}: no list")  # the letters of a string are no classes
        known = {nfc(name): name for name in classes}
        lists = {split: [known.get(nfc(name), name) for name in map(str, lists[split])] for split in SPLITS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = (
            f'is neither one of {", ".join(WAYS)} nor a JSON file {{"train": [classes], "val": [...], "test": [...]}}'
        )
        reason = f"it has no {error}" if isinstance(error, KeyError) else getattr(error, "strerror", None) or str(error)
        near = next(iter(get_close_matches(path.name, WAYS, 1)), "")
        raise ConfigError([Problem("data.split", f"{path} {what} ({reason})", near)]) from error
    owners = Counter(name for names in lists.values() for name in names)
    wrong = [f"{name} is listed twice" for name, count in owners.items() if count > 1]
    wrong += [f"there is no class {name}" for name in owners if name not in classes]
    if wrong:
        raise ConfigError([Problem("data.split", f"{path}: {_some(wrong)}")])
    return {split: {name: classes[name] for name in sorted(names)} for split, names in lists.items()}


def _seeded(classes: Classes, owner: Callable[[str, Entry], str]) -> dict[str, Classes]:
    """Split the classes by the split of each, which is that of its first entry."""
    found: dict[str, Classes] = {split: {} for split in SPLITS}
    for name, entries in classes.items():
        found[owner(name, entries[0])][name] = entries
    if lacking := [split for split, own in found.items() if len(own) < 2]:
        told = f"{' and '.join(lacking)} would have fewer than two classes; data.split=classes splits single classes"
        raise ConfigError([Problem("data.split", told)])
    return found


def _groups(groups: set[str], order: Order) -> Callable[[str, Entry], str]:
    if "" in groups:
        raise ConfigError([Problem("data.split", "split=groups needs a group for each item; name its column or field")])
    if len(groups) < FEWEST_GROUPS:
        told = f"there are {len(groups)} groups ({_some(sorted(groups))}); {FEWEST_GROUPS} are needed"
        raise ConfigError(
            [Problem("data.split", f"{told}, one for each split; data.split=classes splits single classes")]
        )
    owner = _dealt(order(sorted(groups)), max(1, len(groups) // SHARE))
    return lambda name, entry: owner[entry.group]


def _classes(names: list[str], order: Order, noun: Noun) -> Callable[[str, Entry], str]:
    if len(names) < FEWEST:
        raise ConfigError([Problem("data.split", _too_few(len(names), "the data", noun))])
    owner = _dealt(order(names), _held(len(names)))
    return lambda name, entry: owner[name]


def _too_few(count: int, where: str, noun: Noun) -> str:
    have = f"{where} has {count} {noun if count == 1 else PLURAL[noun]}"
    if noun == "task":
        return f"{have}; train, val and test need different tasks: {FEWEST} or more in all"
    needed = f"train, val and test need different classes: {FEWEST} or more in all, {4 * USUAL_WAY} for 5-way episodes"
    return f"{have}; {needed}; data.split=items splits the items of each class (ordinary classification)"


def _held(classes: int) -> int:
    """Return how many classes val and test get each."""
    return max(classes // SHARE, min(USUAL_WAY, classes // 4), 2)


def _dealt(order: Sequence[str], held: int) -> dict[str, str]:
    sizes = {"val": held, "test": held, "train": len(order) - 2 * held}
    words = [split for split, count in sizes.items() for _ in range(count)]
    return dict(zip(order, words, strict=True))


def _order(count: int, seed: int, name: str) -> list[int]:
    return list(np.random.default_rng(derive_seed(seed, "split", nfc(name))).permutation(count))


def _by_name(seed: int, names: Sequence[str]) -> list[str]:
    """Return names in an order in which two of them stay the same way round, whatever others there are."""
    return sorted(names, key=lambda name: hashlib.sha256(f"{seed} {nfc(name)}".encode()).digest())


def _by_place(seed: int, names: Sequence[str]) -> list[str]:
    return [names[int(i)] for i in _order(len(names), seed, "")]
