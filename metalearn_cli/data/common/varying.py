"""Episodes of varying way and shot: Triantafillou et al. 2020 (Meta-Dataset), https://arxiv.org/abs/1903.03096.

An episode draws the number of its classes, then a number of labelled items, and deals these to the classes unequally,
about in proportion to their sizes. There are equally many queries of each class.

Legend: W classes of an episode, S labelled items of an episode, Q queries of an episode, K classes of a split.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor

from metalearn_cli.core.errors import ConfigError, Problem
from metalearn_cli.core.types import ALL, Episode
from metalearn_cli.data.common.dataset import Dataset, device_of, gather, generator, groups_of

FEWEST, MOST = 5, 50
"""Classes of an episode, as far as there are so many."""

SUPPORT, COUNTED, QUERIES = 500, 100, 10
"""Most labelled items of an episode; most items of a class that count for this number; most queries of a class."""


class _Drawn(NamedTuple):
    classes: Tensor  # [W]
    shots: Tensor  # [W]
    support: Tensor  # [S] rows of the split's items, class by class
    query: Tensor  # [Q] rows, in random order
    query_y: Tensor  # [Q]


@dataclass(eq=False)
class VaryingSampler:
    """A stream of episodes of varying way and shot, a function of (seed, split, step).

    Attributes:
        dataset: a classification.
        split: one of its splits.
        seed: of the stream.
        way: the most classes of an episode.
        varying: the bounds of what is drawn, as plain values.

    Raises:
        ConfigError: if there are too few classes or items, or the split has fixed episodes.
    """

    dataset: Dataset
    split: str
    seed: int
    way: int = field(init=False)
    varying: dict[str, Any] = field(init=False)
    regression: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        own, name = self.dataset.splits[self.split], f"{self.dataset.name}/{self.split}"
        largest = int(groups_of(own).bincount().max()) if self.dataset.within else len(own.names)
        wrong = f"{name} has a list of fixed episodes" if self.split in self.dataset.fixed else ""
        wrong = wrong or (f"an episode needs 2 classes, and {name} has {largest} to draw from" if largest < 2 else "")
        wrong = wrong or (f"a class of {name} has only 1 item" if int(own.counts.min()) < 2 else "")
        if wrong:
            raise ConfigError([Problem("varying", f"{wrong}, so that way and shot cannot vary; set it to false")])
        self._least, self.way = min(FEWEST, largest), min(MOST, largest)
        self.varying = {"way": [self._least, self.way], "support": SUPPORT, "counted": COUNTED, "query": QUERIES}

    def batch(self, step: int, tasks: int, share: slice = ALL) -> Episode:
        """Return the episode of `step` as a meta-batch of one, since episodes of other sizes cannot be stacked.

        Returns:
            support_x [1, S, ...], images float32, support_y [1, S] int64 in [0, W); query likewise, in random order.
        """
        assert (tasks, share) == (1, ALL)
        items, drawn = self.dataset.splits[self.split].items, self._draw(step)
        support_y = torch.arange(len(drawn.classes)).repeat_interleave(drawn.shots)
        labels = (y[None].to(device_of(items)) for y in (support_y, drawn.query_y))
        support, query = gather(items, drawn.support[None]), gather(items, drawn.query[None])
        return Episode(support, next(labels), query, next(labels))

    def classes(self, episodes: int) -> list[tuple[str, ...]]:
        """Return the names of the classes of the first `episodes` episodes, by label."""
        names = self.dataset.splits[self.split].names
        return [tuple(names[k] for k in self._draw(step).classes.tolist()) for step in range(episodes)]

    def shots(self, episodes: int) -> list[tuple[int, ...]]:
        """Return the numbers of labelled items of these classes."""
        return [tuple(self._draw(step).shots.tolist()) for step in range(episodes)]

    def hash(self, episodes: int) -> str:
        """Return the sha256 (hex) of the items, in their order, of the first `episodes` episodes."""
        state = hashlib.sha256(f"{self.dataset.fingerprint} varying".encode())
        for step in range(episodes):
            for part in self._draw(step):
                state.update(part.numpy().tobytes())
        return state.hexdigest()

    def _draw(self, step: int) -> _Drawn:
        source = generator(self.seed, "varying", self.split, step)
        own = self.dataset.splits[self.split]
        candidates = self._candidates(source)
        way = int(torch.randint(self._least, min(self.way, len(candidates)) + 1, (), generator=source))
        classes = candidates[torch.randperm(len(candidates), generator=source)[:way]]
        counts = own.counts[classes]
        query = min(QUERIES, int(counts.min()) // 2)
        shots = _shots(counts, counts - query, source)
        first = (own.counts.cumsum(0) - own.counts)[classes]
        rows = [
            start + torch.randperm(n, generator=source)[: shot + query]
            for start, n, shot in zip(first.tolist(), counts.tolist(), shots.tolist(), strict=True)
        ]
        order = torch.randperm(way * query, generator=source)  # an order by class would reveal the labels
        return _Drawn(
            classes,
            shots,
            torch.cat([row[query:] for row in rows]),
            torch.cat([row[:query] for row in rows])[order],
            torch.arange(way).repeat_interleave(query)[order],
        )

    def _candidates(self, source: torch.Generator) -> Tensor:
        """Return the classes that an episode may have: all [K], or those of one group that has enough."""
        own = self.dataset.splits[self.split]
        if not self.dataset.within:
            return torch.arange(len(own.names))
        groups = groups_of(own)
        enough = (groups.bincount() >= self._least).nonzero().flatten()
        group = enough[torch.randint(len(enough), (), generator=source)]
        return (groups == group).nonzero().flatten()


def _shots(counts: Tensor, left: Tensor, source: torch.Generator) -> Tensor:
    """Draw the number of labelled items of each class [W].

    Args:
        counts: items of each class [W].
        left: those that are no queries [W].
        source: of the random numbers.
    """
    share = 1 - torch.rand((), dtype=torch.float64, generator=source)  # in (0, 1]
    support = min(SUPPORT, int((share * left.clamp(max=COUNTED)).ceil().sum()))
    # from half to twice as many as in proportion to the class's items
    weights = counts * torch.exp(math.log(4) * torch.rand(len(counts), dtype=torch.float64, generator=source))
    dealt = (weights / weights.sum() * (support - len(counts))).floor().long() + 1
    return torch.minimum(dealt, left)
