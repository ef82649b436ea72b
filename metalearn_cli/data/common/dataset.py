"""A data set of classes, and the batches and episodes drawn from it with index operations.

Legend: N items, K classes, B items of a batch, T tasks, W ways, S support items, Q query items, O outputs of a
regression, ... one item's shape.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from metalearn_cli.core.config import EpisodeShape
from metalearn_cli.core.errors import ConfigError, DataError, Finding, Problem, UserError
from metalearn_cli.core.items import Facts, Items, Kind, Values, each
from metalearn_cli.core.metric import SAME_CLASSES
from metalearn_cli.core.random import derive_seed
from metalearn_cli.core.types import ALL, Episode, Limits, Part
from metalearn_cli.data.common.findings import findings_of
from metalearn_cli.data.common.folds import Fold, by_class, by_item
from metalearn_cli.data.common.pixels import ONE
from metalearn_cli.data.common.splits import SPLITS, VALUES, Split, by_part, fingerprint_of, group_of, parts_of


@dataclass(frozen=True, eq=False)
class Dataset:
    """Classes in splits that share no class; build it with `Dataset.of`.

    If its splits have targets, it is a regression, and what is said of a class holds for a task: an episode is of one
    task, `way` is 1, and `shot` and `query` are numbers of its items.

    Attributes:
        name: as in "data=NAME".
        protocol: name of the way of splitting, such as "vinyals".
        splits: any of "train", "val", "test".
        facts: what networks and learners may know of it; its groups are those of the classes of all splits.
        preprocessing: plain values that describe how a file becomes an item; {} if there are no files.
        fingerprint: sha256 (hex) of all items, counts and names.
        findings: its problems, whatever it is used for.
        about: what was understood of its source, as plain values.
        within: whether the classes of an episode are all of one group; see `within_groups`.
        fixed: splits with a fixed list of episodes, and the numbers of these: the first `way` classes are the first
            episode, and the first `shot` items of a class its labelled ones.
        whole: fingerprint of the data that this is a fold of, or "".

    Raises:
        ValueError: if a split has an unknown name, shares a class with another without saying so in its protocol, or
            has items or targets of another kind; if a class has no group, and episodes are within groups; if fixed
            episodes do not use up their split.
    """

    name: str
    protocol: str
    splits: Mapping[str, Split]
    facts: Facts
    preprocessing: Mapping[str, Any]
    fingerprint: str
    findings: tuple[Finding, ...]
    about: Mapping[str, Any] = field(default_factory=dict)
    within: bool = False
    fixed: Mapping[str, EpisodeShape] = field(default_factory=dict)
    whole: str = ""

    def __post_init__(self) -> None:
        owner: dict[str, str] = {}
        for name, split in self.splits.items():
            if name not in SPLITS:
                raise ValueError(f"splits must be named {', '.join(SPLITS)}, got {name!r}")
            if (_shape(split.items), _values(split.items)) != (self.facts.shape, self.facts.values):
                items = f"{self.facts.values} items of shape {self.facts.shape}"
                raise ValueError(f"splits must hold {items}; {name} does not")
            if _outputs(split) != self.facts.outputs:
                told = f"{_outputs(split)} numbers as an item's target, another split has {self.facts.outputs}"
                raise ValueError(f"splits must have targets of the same size; {name} has {told}")
            for class_name in split.names:
                if class_name in owner and not self.protocol.startswith(SAME_CLASSES):
                    raise ValueError(f"splits must share no class; {class_name} is in {owner[class_name]} and {name}")
                owner[class_name] = name
                if self.within and not group_of(class_name):
                    hint = "a folder above the classes, {group} in data.pattern, or data.column.group=NAME"
                    raise ValueError(f"within needs a group for every class; {class_name} has none: {hint}")
        for name, (way, shot, query) in self.fixed.items():
            counts = self.splits[name].counts
            if len(counts) % way or (counts != shot + query).any():
                raise ValueError(f"fixed episodes must use up {name}: {way} classes each, {shot + query} items of each")

    @classmethod
    def of(
        cls,
        name: str,
        protocol: str,
        splits: Mapping[str, Split],
        kind: Kind,
        preprocessing: Mapping[str, Any] | None = None,
        vocabulary: int | Mapping[str, int] = 0,
        about: Mapping[str, Any] | None = None,
        findings: tuple[Finding, ...] = (),
        cure: str = "",
    ) -> Dataset:
        """Build a data set; facts, fingerprint and more findings are computed from its splits.

        Raises:
            DataError: with the findings that block, such as files that could not be read, their cure, and the rest.
        """
        facts = facts_of(kind, splits, vocabulary, tokenizer_of(preprocessing or {}))
        found = (*findings, *findings_of(splits))
        data = cls(name, protocol, splits, facts, preprocessing or {}, fingerprint_of(splits), found, about or {})
        if blocking := [finding for finding in findings if finding.blocks]:
            raise DataError(blocking, cure, data)
        return data

    @property
    def limits(self) -> Limits:
        """Return what episodes its splits allow, those without fixed episodes."""
        splits = [split for name, split in self.splits.items() if name not in self.fixed]
        way = 1 if self.facts.regression else min(map(self._most, splits))
        return Limits(way, min(int(split.counts.min()) for split in splits))

    def to(self, device: torch.device | str) -> Dataset:
        """Return this data set with its items on `device`."""
        return replace(self, splits={n: s.to(device) for n, s in self.splits.items()})

    def within_groups(self, groups: str) -> Dataset:
        """Return this data set with episodes within groups, instead of from all classes of a split.

        An episode draws one group, uniformly among those with enough classes, and then its classes. They are harder to
        tell apart than those of several groups, so the protocol's name says it.

        Args:
            groups: what groups are, such as "alphabets".
        """
        return replace(self, within=True, protocol=f"{self.protocol}, within {groups}")

    def fold(self, k: int, of: int) -> Dataset:
        """Return this data set split anew for cross-validation, with fold `k` of `of` for test; see `folds`.

        Where each class is in every split, the items of each class are dealt, else the classes.

        Raises:
            ConfigError: if there are too few groups, classes or items, or episodes are fixed.
        """
        if self.fixed:
            told = f"{self.name} has fixed episodes, which folds would take apart; choose another data.split"
            raise ConfigError([Problem("data.fold", told)])
        fold = Fold(k, of)
        if self.protocol.startswith(SAME_CLASSES):
            noun, splits = "items", by_item(self.name, self.splits, fold)
        else:
            noun, splits = by_class(self.name, self.splits, fold)
        return replace(
            self,
            protocol=f"{self.protocol}: fold {k} of {of} by {noun}",
            splits=splits,
            facts=facts_of(self.facts.kind, splits, self.facts.vocabulary, self.facts.tokenizer),
            fingerprint=hashlib.sha256(f"{self.fingerprint} fold {k} of {of}".encode()).hexdigest(),
            whole=self.fingerprint,
        )

    def batch(
        self, split: str, part: Part, size: int, seed: int, step: int, share: slice = ALL
    ) -> tuple[Items, Tensor]:
        """Draw `size` items independently and uniformly, with replacement, and return a share of them.

        Returns:
            x [B, ...], images float32, and y [B] int64, the class (or task) index within the split; a function of the
            arguments.
        """
        first, counts = self._part(split, part)
        end = counts.cumsum(0)
        drawn = torch.randint(int(end[-1]), (size,), generator=generator(seed, "batch", split, part, step))
        y = torch.searchsorted(end, drawn, right=True)
        items = self.splits[split].items
        index = first[y] + drawn - (end - counts)[y]
        return gather(items, index[share]), y[share].to(device_of(items))

    def all(self, split: str, part: Part, most: int) -> Iterator[tuple[Items, Tensor]]:
        """Yield every item of a part once, class by class, in equal batches of `most` items or fewer.

        Yields:
            x [B, ...], images float32, and y [B] int64, the class (or task) index within the split.
        """
        first, counts = self._part(split, part)
        y = torch.arange(len(counts)).repeat_interleave(counts)
        index = torch.arange(len(y)) + (first - (counts.cumsum(0) - counts))[y]
        items = self.splits[split].items
        parts = -(-len(y) // most)
        for i, labels in zip(index.tensor_split(parts), y.tensor_split(parts), strict=True):
            yield gather(items, i), labels.to(device_of(items))

    def episodes(self, split: str, way: int, shot: int, query: int, seed: int) -> EpisodeSampler:
        """Return the stream of `way`-way `shot`-shot episodes with `query` query items per class.

        Raises:
            ConfigError: if the split, or each of its groups if episodes are within groups, has too few classes, or a
                class too few items; or if its fixed episodes have other numbers.
        """
        counts, name = self._split(split).counts, f"{self.name}/{split}"
        if split in self.fixed:
            return self._fixed_episodes(split, EpisodeShape(way, shot, query))
        problems = at_least_one(shot, query)
        most = self._most(self.splits[split])
        owner = f"an episode is within one group, and the largest one of {name}" if self.within else name
        if self.facts.regression:
            problems += one_way(self.name, way)
        elif not 2 <= way <= most:
            problems.append(Problem("way", f"{owner} has {most} classes; way must be from 2 to {most}"))
        if shot + query > (smallest := int(counts.min())):
            noun = "task" if self.facts.regression else "class"
            message = f"a {noun} of {name} has only {smallest} items; shot + query must be <= {smallest}"
            key = "query" if shot < smallest else "shot"  # no query would do
            problems.append(Problem(key, f"{message}, got {shot} + {query}"))
        if problems:
            raise ConfigError(problems)
        return EpisodeSampler(self, split, way, shot, query, seed)

    def _fixed_episodes(self, split: str, shape: EpisodeShape) -> EpisodeSampler:
        sampler = EpisodeSampler(self, split, *self.fixed[split], seed=0)  # the same episodes for every seed
        numbers = self.fixed[split]._asdict() | {"episodes": sampler.count}
        wanted = " ".join(f"{key}={number}" for key, number in numbers.items())
        why = f"as {self.name}/{split} has {sampler.count} fixed episodes: {wanted}"
        given = shape._asdict()
        wrong = [key for key in given if given[key] != numbers[key]]
        if wrong:
            raise ConfigError([Problem(key, f"must be {numbers[key]}, {why}") for key in wrong])
        return sampler

    def _most(self, split: Split) -> int:
        """Return the most classes of an episode."""
        return int(groups_of(split).bincount().max()) if self.within else len(split.names)

    def _split(self, split: str) -> Split:
        if split not in self.splits:
            raise UserError(f"data {self.name} has no split {split!r}; it has {', '.join(self.splits)}")
        return self.splits[split]

    def _part(self, split: str, part: Part) -> tuple[Tensor, Tensor]:
        """Return, for each class, the index of its first item [K] and the number of its items [K] in the part."""
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
    regression: bool = field(init=False)

    def __post_init__(self) -> None:
        self.regression = self.dataset.facts.regression

    @property
    def count(self) -> int | None:
        """How many episodes there are, if they are fixed."""
        return len(self.dataset.splits[self.split].names) // self.way if self.split in self.dataset.fixed else None

    def batch(self, step: int, tasks: int, share: slice = ALL) -> Episode:
        """Return a share of the `tasks` episodes of meta-batch `step`; the first ones stay the same if `tasks` grows.

        Returns:
            support_x [T, S, ...], images float32, with S = way * shot, and support_y [T, S] int64 in [0, way); query
            likewise, in random order, `query` of each class. Of a regression, y is float32 [T, S, O] and [T, Q, O].
        """
        split = self.dataset.splits[self.split]
        index = self._index(step, tasks)[share]
        order = self._order(step, tasks)[share]
        support, query = index[..., : self.shot].flatten(1), index[..., self.shot :].flatten(1).gather(1, order)
        if split.targets is None:
            labels = torch.arange(self.way)
            support_y = labels.repeat_interleave(self.shot).expand(len(index), -1).to(device_of(split.items))
            query_y = labels.repeat_interleave(self.query)[order].to(device_of(split.items))
        else:
            support_y, query_y = _gathered(split.targets, support), _gathered(split.targets, query)
        return Episode(gather(split.items, support), support_y, gather(split.items, query), query_y)

    def classes(self, episodes: int) -> list[tuple[str, ...]]:
        """Return the names of the classes of the first `episodes` one-task batches, by label, or of their tasks."""
        split = self.dataset.splits[self.split]
        owner = torch.arange(len(split.counts)).repeat_interleave(split.counts)
        chosen = [owner[self._index(step, 1)[0, :, 0]].tolist() for step in range(episodes)]
        return [tuple(split.names[k] for k in episode) for episode in chosen]

    def hash(self, episodes: int) -> str:
        """Return the sha256 (hex) of the items, in their order, of the first `episodes` one-task batches."""
        state = hashlib.sha256(f"{self.dataset.fingerprint} {self.way} {self.shot} {self.query}".encode())
        for step in range(episodes):
            state.update(self._index(step, 1).numpy().tobytes())
            state.update(self._order(step, 1).numpy().tobytes())
        return state.hexdigest()

    def _index(self, step: int, tasks: int) -> Tensor:
        """Draw W classes of each task, then shot + query items of each, without replacement: [T, W, shot + query]."""
        if self.count:
            items = torch.arange(self.way * (self.shot + self.query)).reshape(self.way, -1)
            episodes = (step + torch.arange(tasks)) % self.count
            return episodes[:, None, None] * items.numel() + items
        counts = self.dataset.splits[self.split].counts
        classes, most = len(counts), int(counts.max())
        # the order of random keys is a random order, so their top k are k draws without replacement
        keys = torch.rand(
            tasks, classes + self.way * most, generator=generator(self.seed, "episodes", self.split, step)
        )
        class_keys = keys[:, :classes]
        if self.dataset.within:
            class_keys = class_keys.masked_fill(self._elsewhere(step, tasks), -1.0)
        chosen: Tensor = class_keys.topk(self.way).indices
        item_keys = keys[:, classes:].reshape(tasks, self.way, most)
        beyond = torch.arange(most) >= counts[chosen][..., None]  # smaller classes have fewer items than `most`
        within: Tensor = item_keys.masked_fill(beyond, -1.0).topk(self.shot + self.query).indices
        first = counts.cumsum(0) - counts
        return first[chosen][..., None] + within

    def _elsewhere(self, step: int, tasks: int) -> Tensor:
        """Draw a group for each task, among those with enough classes; return whether a class is not in it [T, K]."""
        enough = (self._groups.bincount() >= self.way).nonzero().flatten()
        keys = torch.rand(tasks, len(enough), generator=generator(self.seed, "groups", self.split, step))
        return enough[keys.argmax(1), None] != self._groups

    @cached_property
    def _groups(self) -> Tensor:
        return groups_of(self.dataset.splits[self.split])

    def _order(self, step: int, tasks: int) -> Tensor:
        """Draw the order of the queries [T, way * query]: an order by class would reveal the labels."""
        keys = torch.rand(tasks, self.way * self.query, generator=generator(self.seed, "order", self.split, step))
        return keys.argsort(1)


def generator(seed: int, purpose: str, *parts: int | str) -> torch.Generator:
    """Return a random generator for one purpose and step; on the CPU, so that all devices draw the same."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *parts))


def at_least_one(shot: int, query: int) -> list[Problem]:
    """Return the problems of an episode's numbers of items that do not depend on the data."""
    return [Problem(key, f"must be >= 1, got {n}") for key, n in (("shot", shot), ("query", query)) if n < 1]


def one_way(name: str, way: int) -> list[Problem]:
    """Return the problem of a number of classes of a regression's episode, which has none."""
    return [Problem("way", f"{name} is regression, without classes; way must be 1, got {way}")] * (way != 1)


def tokenizer_of(preprocessing: Mapping[str, Any]) -> str:
    """Return how texts became ids, also those among other parts, see `Facts`; "" where that is not one way."""
    found = {tokenizer_of(part) for part in preprocessing.values() if isinstance(part, Mapping)}
    ways = {preprocessing.get("tokenizer", ""), *found} - {""}
    return ways.pop() if len(ways) == 1 else ""


def facts_of(
    kind: Kind, splits: Mapping[str, Split], vocabulary: int | Mapping[str, int] = 0, tokenizer: str = ""
) -> Facts:
    """Return the facts of classes in splits; see `Facts`."""
    first = next(iter(splits.values()))
    return Facts(
        kind=kind,
        shape=_shape(first.items),
        values=_values(first.items),
        classes=len(splits["train"].names) if "train" in splits and first.targets is None else 0,
        outputs=_outputs(first),
        vocabulary=vocabulary,
        groups=tuple(sorted({group_of(name) for split in splits.values() for name in split.names} - {""})),
        tokenizer=tokenizer,
    )


def groups_of(split: Split) -> Tensor:
    """Return the number of the group [K] of each class."""
    names = [group_of(name) for name in split.names]
    number = {name: g for g, name in enumerate(sorted(set(names)))}
    return torch.tensor([number[name] for name in names])


def _shape(items: Items) -> tuple[int, ...] | dict[str, tuple[int, ...]]:
    return by_part(lambda part: tuple(part.shape[1:]), items)


def _values(items: Items) -> Values | dict[str, Values]:
    return by_part(lambda part: VALUES[part.dtype], items)


def _outputs(split: Split) -> int:
    return 0 if split.targets is None else split.targets.shape[1]


def device_of(items: Items) -> torch.device:
    """Return the device that items are on."""
    return next(iter(parts_of(items).values())).device


def gather(items: Items, index: Tensor) -> Items:
    """Return `items[index]` part by part, images as float32 scaled to [0, 1]; the index may have any shape."""
    return each(lambda part: _gathered(part, index), items)


def _gathered(part: Tensor, index: Tensor) -> Tensor:
    # not part[index], which takes up to 14 times as long for uint8
    x = part.index_select(0, index.flatten().to(part.device)).unflatten(0, index.shape)
    return x.float().div_(ONE) if x.dtype == torch.uint8 else x
