"""A learner that gets labelled items one by one: it answers each, and then learns it.

Legend: N items, S examples, W classes, D features, ... the shape of one embedding.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from statistics import fmean
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn.functional import normalize

from metalearn_cli.algorithms.r2d2 import R2d2
from metalearn_cli.core.check import counted
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.random import derive_seed
from metalearn_cli.deploy.deployed import Deployed
from metalearn_cli.deploy.enrolled import Enrolled, embedded
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.records.intervals import over_episodes, over_items

REPLAY = 10
"""The usual number of remembered items of a class."""

PENALTY = 0.1
"""Of the ridge regression, on features of length 1."""


class Learning(Protocol):
    """What learns items one by one; classes are numbered in the order in which they come."""

    told: str

    def learn(self, z: Tensor, k: int) -> None:
        """Learn an item with the embedding z [...] of class k, which may be the next new one."""

    def answers(self, z: Tensor) -> Tensor:
        """Return the classes [N] of items with the embeddings z [N, ...]."""


class Means:
    """The mean of all items of each class: what the learner would learn from all of them at once.

    Args:
        enrolled: a learner whose state is class means and counts, as that of ProtoNet, with what it knows already.
    """

    def __init__(self, enrolled: Enrolled) -> None:
        self.told = "the mean of all items of each class"
        self._learner = enrolled.learner
        self._state = {name: tensor.clone() for name, tensor in enrolled.state.items()}

    def learn(self, z: Tensor, k: int) -> None:
        """See `Learning`."""
        algorithm, net, own, *_ = self._learner
        alone = algorithm.adapt(net, own, z[None], torch.zeros(1, dtype=torch.int64), 1)
        means, counts = self._state["prototypes"], self._state["counts"]
        if k == len(means):
            self._state = {name: torch.cat([part, alone[name]]) for name, part in self._state.items()}
            return
        counts[k] += 1
        means[k] += (alone["prototypes"][0] - means[k]) / counts[k]

    def answers(self, z: Tensor) -> Tensor:
        """See `Learning`."""
        algorithm, net, own, *_ = self._learner
        return algorithm.predict(net, own, self._state, z).argmax(1)


class Head:
    """Ridge regression on the embeddings, fitted anew to some remembered items of each class.

    Args:
        enrolled: a learner; the mean of its examples' embeddings is subtracted from all.
        y: the classes [S] of the examples.
        replay: items that are remembered of a class, each so far with the same chance (Vitter 1985, algorithm R).
        seed: of that chance.
    """

    def __init__(self, enrolled: Enrolled, y: Sequence[int], replay: int, seed: int) -> None:
        self.told = f"a ridge regression on {replay} remembered items of each class"
        self._net, self._replay, self._random = enrolled.learner.net, replay, Random(derive_seed(seed, "replay"))
        z = enrolled.embedded.flatten(1)
        self._mean, self._ridge = z.mean(0), R2d2(PENALTY)
        self._memory, self._counts = list[list[Tensor]](), list[int]()
        for i in sorted(range(len(y)), key=lambda i: y[i]):
            self.learn(z[i], y[i])

    def learn(self, z: Tensor, k: int) -> None:
        """See `Learning`."""
        if k == len(self._memory):
            self._memory.append([])
            self._counts.append(0)
        memory = self._memory[k]
        self._counts[k] += 1
        place = len(memory) if len(memory) < self._replay else self._random.randrange(self._counts[k])
        if place < self._replay:
            memory[place : place + 1] = [self._features(z.flatten())]

    def answers(self, z: Tensor) -> Tensor:
        """See `Learning`."""
        y = torch.tensor([k for k, memory in enumerate(self._memory) for _ in memory])
        x = torch.stack([own for memory in self._memory for own in memory])
        own = self._ridge.init(self._net, len(self._memory))
        state = self._ridge.adapt(self._net, own, x, y, len(self._memory))
        return self._ridge.predict(self._net, own, state, self._features(z.flatten(1))).argmax(1)

    def _features(self, z: Tensor) -> Tensor:
        return normalize(z - self._mean, dim=-1)


def learning_of(learner: Deployed, replay: int | None, seed: int) -> Learning:
    """Return what goes on learning from where a learner is.

    Args:
        learner: the learner with its examples.
        replay: see `Head`; None for the usual number, or if nothing is remembered.
        seed: see `Head`.

    Raises:
        UserError: if new items would change the batch statistics, or if nothing is remembered.
    """
    enrolled = learner.enrolled
    traits, name = enrolled.learner.algorithm.traits, type(enrolled.learner.algorithm).__name__
    if enrolled.learner.net.batch_statistics and not learner.trained.statistics:
        told = (
            "the batch statistics are those of the examples, so that each item would change the answers to all others"
        )
        cure = "export it again with statistics=train"
        if traits.sees == "items":
            cure = f"{name} cannot have others: train a learner such as protonet, and export it with statistics=train"
        raise UserError(f"{told}; {cure}")
    if traits.sees == "features" and enrolled.state.keys() == {"prototypes", "counts"}:
        if replay is not None:
            raise UserError(f"{name} keeps the means of its classes and replays no items; leave out replay")
        return Means(enrolled)
    y = [learner.classes.index(label) for label in learner.support.labels]
    return Head(enrolled, y, REPLAY if replay is None else replay, seed)


class Parts(NamedTuple):
    """The numbers of the items of a stream, in their order, and of those that are held out."""

    stream: list[int]
    held: list[int]


def parts_of(labels: Sequence[str], share: float, shuffled: bool, seed: int) -> Parts:
    """Hold a share of the items of each class out of a stream; one of each is always in it.

    Args:
        labels: the class of each item.
        share: in (0, 1).
        shuffled: whether the stream comes in random order.
        seed: of what is held out, and of the order.

    Raises:
        UserError: if fewer than two items are held out.
    """
    order = list(range(len(labels)))
    Random(derive_seed(seed, "stream")).shuffle(order)
    held = set[int]()
    for name in set(labels):
        own = [i for i in order if labels[i] == name]
        held |= set(own[: min(round(share * len(own)), len(own) - 1)])
    if len(held) < 2:
        told = f"{len(held)} of {counted(len(labels), 'item')} would be held out, and two or more are needed"
        raise UserError(f"{told}: give more items of each class, or a larger share than held_out={share:g}")
    stream = [i for i in (order if shuffled else range(len(labels))) if i not in held]
    return Parts(stream, sorted(held))


def streamed(learner: Deployed, items: Inputs, parts: Parts, learning: Learning) -> dict[str, Any]:
    """Answer each item of a stream, and then learn it; at the end, answer those that were held out.

    Args:
        learner: the learner with its examples.
        items: with their labels.
        parts: which of them are the stream.
        learning: see `learning_of`.

    Returns:
        `learning`, how it learns; the number of `items` of the stream, of the classes that were `known` before it, and
        of `new` ones; scores, each with its `value`, the half-width of its `interval` and what it is `over`:
        `prequential`, the accuracy on items before they are learnt, without the first of a new class; `repeated`, the
        same for the class of the item before as the answer; `held_out`, the accuracy at the end on items that were
        never learnt; and `forgetting`, by how much the accuracy on held-out items of a class is lower at the end than
        right after the last item of the class; the same of each of the `classes`; and `answers`, for each item its
        `class`, the `answer`, and whether that is `right`, None for the first of a new class; and `again`, the names of
        items that were examples before, or cannot be told from one: their answers are too good.
    """
    z = embedded(learner.enrolled.learner, learner.enrolled.encoder, items.items)
    known = {name: k for k, name in enumerate(learner.classes)}
    held = {name: [i for i in parts.held if items.labels[i] == name] for name in sorted(set(items.labels))}
    last = {items.labels[i]: i for i in parts.stream}

    def share_right(name: str) -> float:
        return float((learning.answers(z[held[name]]) == known[name]).float().mean())

    answers, repeated, after, before = list[dict[str, Any]](), list[float](), dict[str, float](), ""
    for i in parts.stream:
        name = items.labels[i]
        answer = list(known)[int(learning.answers(z[i : i + 1]))]
        right = answer == name if name in known else None
        answers.append({"item": items.names[i], "class": name, "answer": answer, "right": right})
        repeated += [float(before == name)] * (right is not None)
        learning.learn(z[i], known.setdefault(name, len(known)))
        if last[name] == i and held[name]:
            after[name] = share_right(name)
        before = name
    at_end = learning.answers(z[parts.held]) == torch.tensor([known[items.labels[i]] for i in parts.held])
    end = {name: share_right(name) for name in after}
    return {
        "learning": learning.told,
        "items": len(parts.stream),
        "known": len(learner.classes),
        "new": len(known) - len(learner.classes),
        "prequential": _score([float(one["right"]) for one in answers if one["right"] is not None], "items"),
        "repeated": _score(repeated, "items"),
        "held_out": _score(at_end.float().tolist(), "items"),
        "forgetting": _score([after[name] - end[name] for name in after], "classes"),
        "classes": [{"class": n, "held_out": len(held[n]), "after": after[n], "end": end[n]} for n in after],
        "answers": answers,
        "again": _again(learner, z, items.names),
    }


def _again(learner: Deployed, z: Tensor, names: Sequence[str]) -> list[str]:
    """Return the names of those items, with the embeddings z [N, ...], that are examples of the learner already."""
    examples = learner.enrolled.embedded
    same = [torch.isclose(own, examples, 1e-5, 1e-6).flatten(1).all(1).any().item() for own in z]
    return [name for name, again in zip(names, same, strict=True) if again]


def _score(values: Sequence[float], unit: str) -> dict[str, Any]:
    """Return the mean of values with the half-width of its 95 % interval, which is over them; None without values."""
    if not values:
        return {"value": None, "interval": None, "over": {unit: 0}}
    if unit == "items":
        interval: float | None = over_items(values)
    else:
        interval = over_episodes(torch.tensor(values)) if len(values) > 1 else None
    return {"value": fmean(values), "interval": interval, "over": {unit: len(values)}}
