from __future__ import annotations

import unicodedata
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.metric import SAME_CLASSES
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.folds import Fold, fold_named
from metalearn_cli.data.common.splits import SPLITS, Split, group_of
from metalearn_cli.data.sinusoid import sinusoid


def numbered(names: tuple[str, ...], first: int, count: int = 4, targets: bool = False) -> Split:
    """Items that are numbers, from `first` on."""
    items = torch.arange(first, first + count * len(names), dtype=torch.float32)[:, None]
    return Split(items, torch.full((len(names),), count), names, -items if targets else None)


def whole(*names: tuple[str, ...], protocol: str = "published", targets: bool = False) -> Dataset:
    splits = {
        split: numbered(own, 1000 * i, targets=targets)
        for i, (split, own) in enumerate(zip(SPLITS, names, strict=True))
    }
    return Dataset.of("marked", protocol, splits, "vector")


def owned(data: Dataset) -> dict[str, list[float]]:
    """Return the items of each class, whatever its split."""
    found: dict[str, list[float]] = {}
    for split in data.splits.values():
        for name, items in zip(split.names, split.items.split(split.counts.tolist()), strict=True):
            found.setdefault(name, []).extend(items.flatten().tolist())
    return found


PLAIN = whole(tuple("abcdefghijk"), tuple("lmnop"), tuple("qrst"))
GROUPED = whole(
    tuple(f"{g}/{i}" for g in "ABC" for i in range(4)),
    tuple(f"{g}/{i}" for g in "DE" for i in range(2)),
    tuple(f"{g}/{i}" for g in "FG" for i in range(3)),
)


@pytest.mark.parametrize("same", ["", f"{SAME_CLASSES} classes"])
def test_how_an_accent_is_written_changes_no_fold(same: str) -> None:
    names = [(f"\u00e9{k}", f"e{k}", f"f{k}") for k in range(3)]
    own = [names[0] + names[1] + names[2]] * 3 if same else names
    tests = []
    for form in ("NFC", "NFD"):
        written = [tuple(unicodedata.normalize(form, name) for name in part) for part in own]
        data = whole(*written, protocol=same or "published")
        tests.append([sorted(data.fold(k, 3).splits["test"].items.flatten().tolist()) for k in (1, 2, 3)])
    assert tests[0] == tests[1]


@pytest.mark.parametrize(
    ("data", "of", "noun"), [(PLAIN, 4, "classes"), (GROUPED, 3, "groups"), (GROUPED, 7, "groups")]
)
def test_each_class_is_test_once_with_the_items_it_had(data: Dataset, of: int, noun: str) -> None:
    folds = [data.fold(k, of) for k in range(1, of + 1)]
    tests = [fold.splits["test"].names for fold in folds]
    assert sorted(name for names in tests for name in names) == sorted(owned(data))
    for k, fold in enumerate(folds):
        assert fold.splits["val"].names == tests[(k + 1) % of]
        assert owned(fold) == owned(data)
        assert fold.facts.classes == len(fold.splits["train"].names) >= 2
        assert fold.protocol == f"published: fold {k + 1} of {of} by {noun}"
        assert fold.whole == data.fingerprint
        if noun == "groups":
            groups = [{group_of(name) for name in split.names} for split in fold.splits.values()]
            assert sum(map(len, groups)) == len(set().union(*groups)) == 7
    assert len({fold.fingerprint for fold in folds} | {data.fingerprint}) == of + 1
    sizes = [len(names) for names in tests]
    assert max(sizes) - min(sizes) <= (4 if noun == "groups" else 1)


def test_folds_depend_on_the_names_of_classes_alone() -> None:
    other = whole(tuple("tsrqponml"), tuple("kji"), tuple("hgfedcba"))
    assert [PLAIN.fold(2, 5).splits[s].names for s in SPLITS] == [other.fold(2, 5).splits[s].names for s in SPLITS]


def test_groups_of_unequal_size_give_folds_of_about_equal_size() -> None:
    sizes = {"A": 12, "B": 3, "C": 3, "D": 3, "E": 3, "F": 6, "G": 6}
    data = whole(tuple(f"{g}/{i}" for g, n in sizes.items() for i in range(n)), ("H/0",), ("H/1",))
    assert sorted(len(data.fold(k, 3).splits["test"].names) for k in (1, 2, 3)) == [12, 12, 14]


def test_of_ordinary_classification_the_items_of_each_class_are_dealt() -> None:
    names = ("a", "b", "c")
    data = whole(names, names, names, protocol=f"{SAME_CLASSES} classes, seed 0", targets=True)
    held_out, tests = [], []
    for k in range(1, 6):
        fold = data.fold(k, 5)
        assert all(split.names == names for split in fold.splits.values())
        assert {name: sorted(items) for name, items in owned(fold).items()} == owned(data)
        assert fold.protocol == f"{SAME_CLASSES} classes, seed 0: fold {k} of 5 by items"
        for split in fold.splits.values():
            assert isinstance(split.items, Tensor) and split.targets is not None
            assert torch.equal(split.targets, -split.items)
        tests += fold.splits["test"].items.flatten().tolist()
        (held, _), *_ = fold.all("train", "held_out", 99)
        held_out += held.flatten().tolist()
    assert sorted(tests) == sorted(item for items in owned(data).values() for item in items)
    assert len(set(held_out)) == len(held_out)  # what transfer holds out differs from fold to fold


@pytest.mark.parametrize(("data", "of", "told"), [
    (GROUPED, 8, "marked has 7 groups, so that 7 folds are the most; got 8"),
    (PLAIN, 11, "a fold of marked would have 1 class, but an episode needs 2; type fewer folds than 11"),
    (PLAIN, 21, "marked has 20 classes, so that 20 folds are the most; got 21"),
    (whole(("a",), ("a",), ("a",), protocol=SAME_CLASSES), 13, "has only 12 items, so that 12 folds are the"),
    (replace(PLAIN, fixed={"test": EpisodeShape(2, 1, 3)}), 4, "marked has fixed episodes, which folds would"),
    (sinusoid(), 4, "sinusoid draws new tasks for every episode, so that there is nothing to deal into folds"),
])  # fmt: skip
def test_what_cannot_be_dealt(data: Dataset, of: int, told: str) -> None:
    with pytest.raises(ConfigError, match=f"data.fold.*{told}"):
        data.fold(1, of)


@pytest.mark.parametrize("fold", ["2", "0/5", "6/5", "1/2", "1/-5", "a/b", "1/5/7", ""])
def test_a_fold_is_k_of_n(fold: str) -> None:
    assert fold_named("2/5") == Fold(2, 5)
    with pytest.raises(ConfigError, match=r"data.fold: must be K/N, fold K of N, with N from 3 and K from 1 to N"):
        fold_named(fold)
