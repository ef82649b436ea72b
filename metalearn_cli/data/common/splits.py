"""The items of a data set by split and class, their checks, and their hash.

Legend: N items, K classes, O outputs of a regression, ... the shape of one item.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from metalearn_cli.core.items import Items, Values, each, size

SPLITS = ("train", "val", "test")

VALUES: dict[torch.dtype, Values] = {torch.uint8: "unit", torch.float32: "real", torch.int64: "ids"}
"""The kind of an item's numbers, by the type in which they are stored."""

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Split:
    """The items of one split, grouped by class; of a regression, grouped by task: a class is then a task.

    Attributes:
        items: [N, ...] uint8 (255 means 1.0), float32, or int64 ids; or a dict of such tensors, one per part.
        counts: [K] int64 on the CPU; class k owns counts[k] >= 1 consecutive items.
        names: K different class names, such as "Angelic/character01/rot090"; see `group_of`.
        targets: [N, O] float32, the numbers of a regression that belong to the items; None for a classification.
        sources: where each item was found, see `packed`; None if that is not known.

    Raises:
        ValueError: if they do not fit together.
    """

    items: Items
    counts: Tensor
    names: tuple[str, ...]
    targets: Tensor | None = None
    sources: Tensor | None = None

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
        y, rows = self.targets, size(self.items)
        if y is not None and (y.dtype != torch.float32 or y.ndim != 2 or len(y) != rows or y.shape[1] < 1):
            raise ValueError(f"targets must be float32 [{rows}, 1 or more], got {y.dtype} {list(y.shape)}")

    def to(self, device: torch.device | str) -> Split:
        """Return this split with its items and targets on `device`."""
        items = each(lambda part: part.to(device), self.items)
        return replace(self, items=items, targets=None if self.targets is None else self.targets.to(device))


def packed(names: Iterable[str]) -> Tensor:
    """Return names as bytes, each with a zero at its end: a tensor that a cache can map without reading it."""
    return torch.from_numpy(
        np.frombuffer("".join(f"{name}\0" for name in names).encode(errors="replace"), np.uint8).copy()
    )


def names_of_items(split: Split) -> list[str]:
    """Return where each item was found; "crow #2", its number in its class, if that is not known."""
    if split.sources is not None:
        return bytes(split.sources.numpy()).decode().split("\0")[:-1]
    return [
        f"{name} #{i + 1}" for name, count in zip(split.names, split.counts.tolist(), strict=True) for i in range(count)
    ]


def parts_of(items: Items) -> dict[str, Tensor]:
    """Return the parts of items, sorted by name; a tensor is one part without a name."""
    return {"": items} if isinstance(items, Tensor) else dict(sorted(items.items()))


def by_part(function: Callable[[Tensor], T], items: Items) -> T | dict[str, T]:
    """Apply a function to a tensor of items, or to each part by name."""
    if isinstance(items, Tensor):
        return function(items)
    return {name: function(part) for name, part in parts_of(items).items()}


def spread(values: Sequence[T], most: int) -> list[T]:
    """Return at most so many values, from the whole of a sequence: neighbours in an order may be of one group."""
    count = min(most, len(values))
    return [values[i * len(values) // count] for i in range(count)]


def nfc(name: str) -> str:
    """Return a name as most systems write it: for macOS, an accented letter is a letter and an accent."""
    return unicodedata.normalize("NFC", name)


def group_of(class_name: str) -> str:
    """Return the group (alphabet, script) of a class: the part of its name before the first "/", or ""."""
    return class_name.partition("/")[0] if "/" in class_name else ""


def fingerprint_of(splits: Mapping[str, Split]) -> str:
    """Return the sha256 (hex) of all items, targets, counts and names, in their order; all are on the CPU."""
    state = hashlib.sha256()
    for name, split in splits.items():
        shapes = by_part(lambda part: tuple(part.shape), split.items)
        state.update(repr((name, split.names, split.counts.tolist(), shapes)).encode())
        for part in parts_of(split.items).values():
            state.update(part.contiguous().numpy().data)
        if split.targets is not None:
            state.update(repr(tuple(split.targets.shape)).encode())
            state.update(split.targets.contiguous().numpy().data)
    return state.hexdigest()
