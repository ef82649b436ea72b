"""Folds for cross-validation: the classes of all splits, or the items of each class, dealt anew.

How they are dealt depends on the names alone, so the same classes are in the same folds whatever other settings are.
Fold k is test, the next one validation (after the last comes the first), all others training. What a data set learnt
from the training classes of its own split (a vocabulary, the scale of a column) stays the same in all folds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.items import each, joined
from metalearn_cli.core.random import derive_seed
from metalearn_cli.data.common.splits import SPLITS, Split, group_of, nfc

FEWEST = 3
"""One fold for test, one for validation, one for training."""


class Fold(NamedTuple):
    """Which fold is test.

    Attributes:
        k: its number, from 1.
        of: how many folds there are.
    """

    k: int
    of: int

    @property
    def owners(self) -> dict[str, tuple[int, ...]]:
        """The folds, counted from 0, of each split."""
        test, val, *train = ((self.k - 1 + i) % self.of for i in range(self.of))
        return {"train": tuple(train), "val": (val,), "test": (test,)}


def fold_named(fold: str) -> Fold:
    """Return the fold that a setting names, such as "2/5".

    Raises:
        ConfigError: if it names none.
    """
    found = re.fullmatch(r"([0-9]{1,6})/([0-9]{1,6})", fold)
    if not found or not 1 <= int(found[1]) <= int(found[2]) >= FEWEST:
        told = f"must be K/N, fold K of N, with N from {FEWEST} and K from 1 to N, such as 2/5; got {fold}"
        raise ConfigError([Problem("data.fold", told)])
    return Fold(int(found[1]), int(found[2]))


def by_class(name: str, splits: Mapping[str, Split], fold: Fold) -> tuple[str, dict[str, Split]]:
    """Deal whole classes, and whole groups of classes where there are groups, into folds of about equal size.

    Args:
        name: of the data set.
        splits: its splits.
        fold: which fold is test.

    Returns:
        What was dealt, "groups" or "classes", and the new splits.

    Raises:
        ConfigError: if there are fewer groups or classes than folds, or a fold would have a single class.
    """
    places = {own: (split, rows) for split in splits.values() for own, rows in _rows(split)}
    units: dict[str, list[str]] = {}
    for own in sorted(places, key=nfc):
        units.setdefault(group_of(own) or own, []).append(own)
    noun = "groups" if any(map(group_of, places)) else "classes"
    if len(units) < fold.of:
        told = f"{name} has {len(units)} {noun}, so that {len(units)} folds are the most; got {fold.of}"
        raise ConfigError([Problem("data.fold", told)])
    order = [list(units)[i] for i in torch.randperm(len(units), generator=_generator(fold.of)).tolist()]
    folds: list[list[str]] = [[] for _ in range(fold.of)]
    for unit in sorted(order, key=lambda unit: -len(units[unit])):
        min(folds, key=len).extend(units[unit])
    if (least := min(map(len, folds))) < 2:
        told = f"a fold of {name} would have {least} class, but an episode needs 2; type fewer folds than {fold.of}"
        raise ConfigError([Problem("data.fold", told)])
    new = {}
    for split, numbers in fold.owners.items():
        names = sorted(own for number in numbers for own in folds[number])
        new[split] = _picked(names, [[places[own]] for own in names])
    return noun, new


def by_item(name: str, splits: Mapping[str, Split], fold: Fold) -> dict[str, Split]:
    """Deal the items of each class into folds; every split has every class.

    The training items of a class are in the order of their folds, beginning after that of validation, so that the last
    fifth, which transfer holds out, differs from fold to fold, too.

    Args:
        name: of the data set.
        splits: its splits.
        fold: which fold is test.

    Raises:
        ConfigError: if a class has fewer items than there are folds.
    """
    places: dict[str, list[tuple[Split, Tensor]]] = {}
    for split in SPLITS:
        for own, rows in _rows(splits[split]) if split in splits else ():
            places.setdefault(own, []).append((splits[split], rows))
    counts = {own: sum(len(rows) for _, rows in found) for own, found in places.items()}
    if (least := min(counts.values())) < fold.of:
        told = f"a class of {name} has only {least} items, so that {least} folds are the most; got {fold.of}"
        raise ConfigError([Problem("data.fold", told)])
    # the fold of each item of a class, all its splits taken together
    dealt = {
        own: torch.arange(count)[torch.randperm(count, generator=_generator(fold.of, nfc(own)))] % fold.of
        for own, count in counts.items()
    }
    names = sorted(places)
    new = {}
    for split, numbers in fold.owners.items():
        pieces = [_in_folds(places[own], dealt[own], numbers) for own in names]
        new[split] = _picked(names, pieces)
    return new


Pieces = list[tuple[Split, Tensor]]
"""Rows of splits, one after the other."""


def _in_folds(places: Pieces, dealt: Tensor, folds: Sequence[int]) -> Pieces:
    """Return the rows of a class that are in some folds, fold by fold."""
    parts = dealt.split([len(rows) for _, rows in places])
    return [(split, rows[own == fold]) for fold in folds for (split, rows), own in zip(places, parts, strict=True)]


def _rows(split: Split) -> Iterator[tuple[str, Tensor]]:
    """Yield each class of a split with the rows of its items."""
    return zip(split.names, torch.arange(int(split.counts.sum())).split(split.counts.tolist()), strict=True)


def _picked(names: Sequence[str], classes: Sequence[Pieces]) -> Split:
    """Return a split of classes with these rows."""
    pieces = [piece for own in classes for piece in own]
    targets = [split.targets.index_select(0, rows) for split, rows in pieces if split.targets is not None]
    return Split(
        joined([each(lambda part, rows=rows: part.index_select(0, rows), split.items) for split, rows in pieces]),
        torch.tensor([sum(len(rows) for _, rows in own) for own in classes]),
        tuple(names),
        torch.cat(targets) if targets else None,
    )


def _generator(of: int, *parts: str) -> torch.Generator:
    return torch.Generator().manual_seed(derive_seed(0, "folds", of, *parts))
