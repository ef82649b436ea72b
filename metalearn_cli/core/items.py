"""Items of any modality: the type of a batch, and the facts of a data set that networks and learners may use.

Legend: N items, ... the shape of one item.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

Items: TypeAlias = "Tensor | dict[str, Tensor]"
"""A batch of items: a tensor [N, ...], or a dict of such tensors with the same N, one per part of an item."""

Values = Literal["unit", "real", "ids"]
"""unit: in [0, 1] (images); real: standardised, unbounded; ids: whole numbers, entries of a vocabulary."""

Kind = Literal["image", "text", "audio", "vector", "mixed"]


class Facts(NamedTuple):
    """The facts of a data set that networks and learners may use.

    Attributes:
        kind: the kind of its items.
        shape: shape of one item, or of each of its parts.
        values: the kind of its numbers, or of those of each part.
        classes: number of training classes; 0 for a regression.
        outputs: size of a regression's target; 0 for a classification.
        vocabulary: number of ids (id 0 is padding), or that of each part; 0 if values are not ids.
        groups: names of the groups that classes belong to (alphabet, speaker); () if there are none.
        tokenizer: how texts became ids: "words", "bytes", or the sha256 of an encoder's tokenizer.json; "" if none did.
    """

    kind: Kind
    shape: tuple[int, ...] | Mapping[str, tuple[int, ...]]
    values: Values | Mapping[str, Values]
    classes: int
    outputs: int = 0
    vocabulary: int | Mapping[str, int] = 0
    groups: tuple[str, ...] = ()
    tokenizer: str = ""

    @property
    def regression(self) -> bool:
        """Whether targets are numbers."""
        return self.outputs > 0

    @property
    def record(self) -> dict[str, Any]:
        """What a checkpoint records of it, besides the shape: all that a backbone is built from."""
        plain = self._asdict()
        return {key: plain[key] for key in ("kind", "values", "classes", "outputs", "vocabulary", "tokenizer")}

    @property
    def plain_shape(self) -> Any:
        """The shape of one item as in JSON: a list, or a dict of lists."""
        return {n: list(s) for n, s in self.shape.items()} if isinstance(self.shape, Mapping) else list(self.shape)


def each(function: Callable[..., Tensor], *items: Items) -> Items:
    """Apply `function` to the tensors of batches of items, part by part."""
    first, *_ = items
    if isinstance(first, Tensor):
        return function(*items)
    return {name: function(*(parts[name] for parts in items)) for name in first}  # type: ignore[index]  # all are dicts here


def size(items: Items) -> int:
    """Return the number N of items in a batch."""
    return len(items if isinstance(items, Tensor) else next(iter(items.values())))


def joined(batches: Sequence[Items]) -> Items:
    """Return the concatenation of batches of items."""
    return each(lambda *tensors: torch.cat(tensors), *batches)
