from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metalearn_cli.core.items import Items
from metalearn_cli.data.common.splits import Split, fingerprint_of, group_of


@pytest.mark.parametrize(
    ("items", "counts", "names", "message"),
    [
        (torch.zeros(4, 2, dtype=torch.float64), [2, 2], ("a", "b"), "items must be uint8, float32 or int64"),
        ({"a": torch.zeros(4), "b": torch.zeros(4, dtype=torch.int32)}, [4], ("a",), "got torch.int32"),
        ({"a": torch.zeros(4), "b": torch.zeros(3)}, [4], ("a",), "the same number of each part, got {'a': 4, 'b': 3}"),
        ({"a": torch.zeros(4)}, [3], ("a",), "counts must sum to the 4 items, got 3"),
        ({}, [4], ("a",), "items must have the same number"),
        (torch.zeros(4, 2), [2, 1], ("a", "b"), "counts must sum to the 4 items, got 3"),
        (torch.zeros(4, 2), [4, 0], ("a", "b"), "counts must be int64 and >= 1"),
        (torch.zeros(4, 2), [4], ("a", "b"), "for each of 2 classes"),
        (torch.zeros(4, 2), [2, 2], ("a", "a"), "names must differ"),
    ],
)
def test_a_split_that_does_not_fit_together_is_refused(
    items: Items, counts: list[int], names: tuple[str, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Split(items, torch.tensor(counts), names)


def test_the_fingerprint_is_of_items_names_and_counts() -> None:
    x = torch.arange(12.0).reshape(6, 2)
    split = Split(x, torch.tensor([2, 4]), ("a", "b"))
    others = [
        split,
        replace(split, items=x.flip(0)),
        replace(split, items=x.reshape(6, 1, 2)),
        replace(split, counts=torch.tensor([3, 3])),
        replace(split, names=("a", "c")),
        replace(split, items={"x": x, "y": x}),
        replace(split, items={"x": x, "z": x}),
        replace(split, items={"x": x, "y": x.flip(0)}),
    ]
    prints = [fingerprint_of({"train": other, "test": split}) for other in others]
    assert len({*prints, fingerprint_of({"val": split, "test": split})}) == len(others) + 1
    assert fingerprint_of({"train": replace(split, items=x.clone()), "test": split}) == prints[0]
    assert fingerprint_of({"train": replace(split, items={"y": x, "x": x}), "test": split}) == prints[5]


def test_the_fingerprint_stays_what_it_was() -> None:
    # Runs recorded it. If it changes, their checkpoints are said to come from other data.
    x, counts = torch.arange(6.0).reshape(3, 2), torch.tensor([1, 2])
    splits = {"train": Split(x, counts, ("train", "b")), "test": Split(x.byte(), counts, ("test", "b"))}
    assert fingerprint_of(splits) == "787d42bfda6ab46ff9eb466c2ce8da274b2d2952cc4cf54c02667ed6ea6bc8df"


def test_the_group_of_a_class() -> None:
    assert group_of("Angelic/character01/rot090") == "Angelic"
    assert group_of("direction003") == ""
