"""A data set of classes, and the batches and episodes drawn from it by index operations alone.

Legend: N items, K classes, B items of a batch, T tasks, W ways, S support items, Q query items, ... one item's shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.random import derive_seed
from metalearn_cli.core.types import Episode

SPLITS = ("train", "val", "test")

Part = Literal["all", "fit", "held_out"]
"""Items of each class: all of them, or the last fifth (at least one) held out from the others."""

ValueRange = Literal["unit", "real"]
"""unit: values in [0, 1] (images); real: standardised, unbounded values."""


@dataclass(frozen=True, eq=False)
class Split:
    """The items of one split, grouped by class.

    Attributes:
        items: [N, C, H, W] uint8, 255 standing for 1.0, or [N, D] float32.
        counts: [K] int64 on the CPU; class k owns counts[k] >= 1 consecutive items.
        names: K different class names, such as "Angelic/character01/rot090".

    Raises:
        ValueError: if they do not fit together.
    """

    items: Tensor
    counts: Tensor
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.items.dtype not in (torch.uint8, torch.float32):
            raise ValueError(f"items must be uint8 or float32, got {self.items.dtype}")
        if self.counts.dtype != torch.int64 or self.counts.shape != (len(self.names),) or (self.counts < 1).any():
            raise ValueError(f"counts must be int64 and >= 1 for each of {len(self.names)} classes, got {self.counts}")
        if int(self.counts.sum()) != len(self.items):
            raise ValueError(f"counts must sum to the {len(self.items)} items, got {int(self.counts.sum())}")
        if len(set(self.names)) != len(self.names):
            raise ValueError("names must differ from each other")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Classes in splits that share no class; build it with `Dataset.of`.

    Attributes:
        name: as in "data=NAME".
        protocol: which of the published or possible ways of splitting this is, such as "vinyals".
        splits: any of "train", "val", "test".
        shape: of one item.
        value_range: of the items as they are handed out.
        fingerprint: sha256 (hex) of all items, counts and names.

    Raises:
        ValueError: if a split has an unknown name, shares a class with another, or holds items of another kind.
    """

    name: str
    protocol: str
    splits: Mapping[str, Split]
    shape: tuple[int, ...]
    value_range: ValueRange
    fingerprint: str

    regression: ClassVar[bool] = False

    def __post_init__(self) -> None:
        dtype = torch.uint8 if self.value_range == "unit" else torch.float32
        owner: dict[str, str] = {}
        for name, split in self.splits.items():
            if name not in SPLITS:
                raise ValueError(f"splits must be named {', '.join(SPLITS)}, got {name!r}")
            if split.items.shape[1:] != self.shape or split.items.dtype != dtype:
                raise ValueError(f"splits must hold {dtype} items of shape {self.shape}; {name} does not")
            for class_name in split.names:
                if class_name in owner:
                    raise ValueError(f"splits must share no class; {class_name} is in {owner[class_name]} and {name}")
                owner[class_name] = name

    @classmethod
    def of(cls, name: str, protocol: str, splits: Mapping[str, Split]) -> Dataset:
        """Make a data set; shape, range and fingerprint follow from its splits."""
        items = next(iter(splits.values())).items
        return cls(
            name=name,
            protocol=protocol,
            splits=splits,
            shape=tuple(items.shape[1:]),
            value_range="unit" if items.dtype == torch.uint8 else "real",
            fingerprint=_fingerprint(splits),
        )

    def to(self, device: torch.device | str) -> Dataset:
        """Return this data set with its items on `device`."""
        return replace(self, splits={n: replace(s, items=s.items.to(device)) for n, s in self.splits.items()})

    def batch(self, split: str, part: Part, size: int, seed: int, step: int) -> tuple[Tensor, Tensor]:
        """Draw `size` items independently and uniformly, with replacement.

        Returns:
            x [B, ...] float32 and y [B] int64, the class index within the split; a function of all arguments.
        """
        first, counts = self._part(split, part)
        end = counts.cumsum(0)
        drawn = torch.randint(int(end[-1]), (size,), generator=generator(seed, "batch", split, part, step))
        y = torch.searchsorted(end, drawn, right=True)
        items = self.splits[split].items
        return _gather(items, first[y] + drawn - (end - counts)[y]), y.to(items.device)

    def all(self, split: str, part: Part, most: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield every item of a part once, class by class, in equal batches of `most` items or fewer.

        Yields:
            x [B, ...] float32 and y [B] int64, the class index within the split.
        """
        first, counts = self._part(split, part)
        y = torch.arange(len(counts)).repeat_interleave(counts)
        index = torch.arange(len(y)) + (first - (counts.cumsum(0) - counts))[y]
        items = self.splits[split].items
        parts = -(-len(y) // most)
        for i, labels in zip(index.tensor_split(parts), y.tensor_split(parts), strict=True):
            yield _gather(items, i), labels.to(items.device)

    def episodes(self, split: str, way: int, shot: int, query: int, seed: int) -> EpisodeSampler:
        """Return the stream of `way`-way `shot`-shot episodes with `query` query items per class.

        Raises:
            ConfigError: if the split has too few classes, or a class too few items.
        """
        counts, name = self._split(split).counts, f"{self.name}/{split}"
        problems = at_least_one(shot, query)
        if not 2 <= way <= len(counts):
            problems.append(Problem("way", f"{name} has {len(counts)} classes; way must be from 2 to {len(counts)}"))
        if shot + query > (smallest := int(counts.min())):
            message = f"a class of {name} has only {smallest} items; shot + query must be <= {smallest}"
            problems.append(Problem("query", f"{message}, got {shot} + {query}"))
        if problems:
            raise ConfigError(problems)
        return EpisodeSampler(self, split, way, shot, query, seed)

    def _split(self, split: str) -> Split:
        if split not in self.splits:
            raise UserError(f"data {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def _part(self, split: str, part: Part) -> tuple[Tensor, Tensor]:
        """Return the first item [K] of each class and how many of it [K] belong to the part."""
        counts = self._split(split).counts
        first, held_out = counts.cumsum(0) - counts, (counts // 5).clamp(min=1)
        if part == "fit":
            return first, counts - held_out
        if part == "held_out":
            return first + counts - held_out, held_out
        return first, counts


@dataclass(eq=False)
class EpisodeSampler:
    """A stream of episodes of one split, a function of (seed, split, step); see `Dataset.episodes`."""

    dataset: Dataset
    split: str
    way: int
    shot: int
    query: int
    seed: int
    regression: bool = field(default=False, init=False)

    def batch(self, step: int, tasks: int) -> Episode:
        """Return the `tasks` episodes of meta-batch `step`; the first ones stay the same if `tasks` grows.

        Returns:
            support_x [T, S, ...] float32 with S = way * shot, support_y [T, S] int64 in [0, way), query likewise.
        """
        items = self.dataset.splits[self.split].items
        index = self._index(step, tasks)
        labels = torch.arange(self.way, device=items.device).expand(tasks, -1)
        return Episode(
            support_x=_gather(items, index[..., : self.shot].flatten(1)),
            support_y=labels.repeat_interleave(self.shot, dim=1),
            query_x=_gather(items, index[..., self.shot :].flatten(1)),
            query_y=labels.repeat_interleave(self.query, dim=1),
        )

    def hash(self, episodes: int) -> str:
        """Return the sha256 (hex) of the items, in their order, of the first `episodes` one-task batches."""
        state = hashlib.sha256(f"{self.dataset.fingerprint} {self.way} {self.shot} {self.query}".encode())
        for step in range(episodes):
            state.update(self._index(step, 1).numpy().tobytes())
        return state.hexdigest()

    def _index(self, step: int, tasks: int) -> Tensor:
        """Draw W classes of each task, then shot + query items of each, without replacement: [T, W, shot + query]."""
        counts = self.dataset.splits[self.split].counts
        classes, most = len(counts), int(counts.max())
        # the order of random keys is a random order, so their top k are k draws without replacement
        keys = torch.rand(
            tasks, classes + self.way * most, generator=generator(self.seed, "episodes", self.split, step)
        )
        chosen: Tensor = keys[:, :classes].topk(self.way).indices
        item_keys = keys[:, classes:].reshape(tasks, self.way, most)
        beyond = torch.arange(most) >= counts[chosen][..., None]  # smaller classes have fewer items than `most`
        within: Tensor = item_keys.masked_fill(beyond, -1.0).topk(self.shot + self.query).indices
        first = counts.cumsum(0) - counts
        return first[chosen][..., None] + within


def generator(seed: int, purpose: str, *parts: int | str) -> torch.Generator:
    """Return a source of randomness for one purpose and step; on the CPU, so that all devices draw alike."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *parts))


def at_least_one(shot: int, query: int) -> list[Problem]:
    """Return what is wrong with an episode's numbers of items, whatever the data."""
    return [Problem(key, f"must be >= 1, got {n}") for key, n in (("shot", shot), ("query", query)) if n < 1]


def _gather(items: Tensor, index: Tensor) -> Tensor:
    """Return `items[index]`, images as float32 scaled to [0, 1]; the index may have any shape."""
    # not items[index]: it takes up to 14 times as long for uint8
    x = items.index_select(0, index.flatten().to(items.device)).unflatten(0, index.shape)
    return x.float().div_(255) if x.dtype == torch.uint8 else x


def _fingerprint(splits: Mapping[str, Split]) -> str:
    state = hashlib.sha256()
    for name, split in splits.items():
        state.update(repr((name, split.names, split.counts.tolist(), tuple(split.items.shape))).encode())
        state.update(split.items.contiguous().numpy().data)
    return state.hexdigest()
