"""The items of a data set by split and class, their checks, and their hash.

Legend: N items, K classes, ... the shape of one item.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from metalearn_cli.core.items import Items, Values, each, size

SPLITS = ("train", "val", "test")

VALUES: dict[torch.dtype, Values] = {torch.uint8: "unit", torch.float32: "real", torch.int64: "ids"}
"""The kind of an item's numbers, by the type in which they are stored."""

ONE = 255
"""The uint8 that stands for 1.0."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Split:
    """The items of one split, grouped by class.

    Attributes:
        items: [N, ...] uint8 (255 means 1.0), float32, or int64 ids; or a dict of such tensors, one per part.
        counts: [K] int64 on the CPU; class k owns counts[k] >= 1 consecutive items.
        names: K different class names, such as "Angelic/character01/rot090"; see `group_of`.

    Raises:
        ValueError: if they do not fit together.
    """

    items: Items
    counts: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        parts = parts_of(self.items).values()
        for part in parts:
            if part.dtype not in VALUES:
                raise ValueError(f"items must be uint8, float32 or int64, got {part.dtype}")
        if len({len(part) for part in parts}) != 1:
            raise ValueError(f"items must have the same number of each part, got {by_part(len, self.items)}")
        if self.counts.dtype != torch.int64 or self.counts.shape != (len(self.names),) or (self.counts < 1).any():
            raise ValueError(f"counts must be int64 and >= 1 for each of {len(self.names)} classes, got {self.counts}")
        if int(self.counts.sum()) != size(self.items):
            raise ValueError(f"counts must sum to the {size(self.items)} items, got {int(self.counts.sum())}")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names must differ from each other")

    def to(self, device: torch.device | str) -> Split:
        """Return this split with its items on `device`."""
        return replace(self, items=each(lambda part: part.to(device), self.items))


def parts_of(items: Items) -> dict[str, Tensor]:
    """Return the parts of items, sorted by name; a tensor is one part without a name."""
    return {"": items} if isinstance(items, Tensor) else dict(sorted(items.items()))


def by_part(function: Callable[[Tensor], T], items: Items) -> T | dict[str, T]:
    """Apply a function to a tensor of items, or to each part by name."""
    if isinstance(items, Tensor):
        return function(items)
    return {name: function(part) for name, part in parts_of(items).items()}


def group_of(class_name: str) -> str:
    """Return the group (alphabet, script) of a class: the part of its name before the first "/", or ""."""
    return class_name.partition("/")[0] if "/" in class_name else ""


def fingerprint_of(splits: Mapping[str, Split]) -> str:
    """Return the sha256 (hex) of all items, counts and names, in their order; the items are on the CPU."""
    state = hashlib.sha256()
    for name, split in splits.items():
        shapes = by_part(lambda part: tuple(part.shape), split.items)
        state.update(repr((name, split.names, split.counts.tolist(), shapes)).encode())
        for part in parts_of(split.items).values():
            state.update(part.contiguous().numpy().data)
    return state.hexdigest()
