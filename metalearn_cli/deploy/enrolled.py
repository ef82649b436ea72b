"""A learner that has learnt the classes of a support set, and its answers, each as if it were the only one.

This is the inductive protocol of an evaluation (see `engine.episodes`), with statistics that are fixed in advance
instead of computed anew for each query.

Legend: S support items, Q query items, W classes, D features, ... the shape of one item.
"""

from __future__ import annotations

import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Items, each, size
from metalearn_cli.core.learning import class_means
from metalearn_cli.core.network import BACKBONE, Params
from metalearn_cli.core.types import State
from metalearn_cli.deploy.folding import folded, statistics_of
from metalearn_cli.engine.episodes import Learner

AT_ONCE = 100
"""Items that are embedded together."""


class Enrolled(NamedTuple):
    """A learner with a support set.

    Attributes:
        learner: the learner, whose network is for what the encoder returns.
        encoder: the folded backbone, with the tensors that the learner has adapted if it adapts any.
        state: what the learner has learnt.
        embedded: what the encoder returns for the support items [S, ...].
        centres: the means of the classes' embeddings, flattened [W, D].
    """

    learner: Learner
    encoder: nn.Module
    state: State
    embedded: Tensor
    centres: Tensor


def enrol(learner: Learner, backbone: nn.Module, x: Items, y: Tensor, statistics: Params) -> Enrolled:
    """Have a learner learn the classes of a support set.

    Args:
        learner: the learner.
        backbone: the module of its network, with the same tensors.
        x: support items [S, ...].
        y: their classes [S], in [0, W).
        statistics: the fixed batch statistics, see `folding`; {} for those of the support items, or for none.

    Raises:
        UserError: if the backbone or the learner cannot be used so.
    """
    algorithm, net, own, way = learner.algorithm, learner.net, learner.own, learner.way
    with torch.no_grad():
        state = None
        if algorithm.traits.sees == "items":
            net = net.under(x)
            state = algorithm.adapt(net, own, x, y, way)
            backbone = _with_tensors(backbone, _used(learner._replace(net=net), state, x))
        if net.batch_statistics and not statistics:
            statistics = statistics_of(backbone, x)
    encoder = folded(backbone, statistics)
    return learnt(learner, encoder, embedded(learner, encoder, x), y, state)


def learnt(learner: Learner, encoder: nn.Module, z: Tensor, y: Tensor, state: State | None = None) -> Enrolled:
    """Have a learner learn the classes of embedded support items, unless it has done so.

    Args:
        learner: the learner.
        encoder: the folded backbone.
        z: what it returns for the support items [S, ...].
        y: their classes [S].
        state: what the learner has learnt already, from the items themselves.
    """
    net = learner.net.on_features()
    with torch.no_grad():
        if state is None:
            state = learner.algorithm.adapt(net, learner.own, z, y, learner.way)
        return Enrolled(learner._replace(net=net), encoder, state, z, class_means(z.flatten(1), y, learner.way)[0])


def needs_items(learner: Learner, statistics: Params) -> bool:
    """Whether a learner needs the support items, and not only their embeddings, to learn a further class."""
    return learner.algorithm.traits.sees == "items" or (learner.net.batch_statistics and not statistics)


def embedding(learner: Learner, encoder: nn.Module) -> Any:
    """Return the function from items to features [N, D] or maps [N, C, H, W], whichever the learner compares."""
    return encoder.maps if learner.algorithm.traits.sees == "maps" else encoder


def embedded(learner: Learner, encoder: nn.Module, x: Items) -> Tensor:
    """Return the features or maps of items, see `embedding`."""
    run = embedding(learner, encoder)
    with torch.no_grad():
        return torch.cat([run(some(x, first)) for first in range(0, size(x), AT_ONCE)])


def some(x: Items, first: int) -> Items:
    """Return the items from the first on that are embedded together."""
    return each(lambda part: part[first : first + AT_ONCE], x)


class Answers(NamedTuple):
    """The answers to query items.

    Attributes:
        probabilities: of each class [Q, W].
        distances: of each embedding to the nearest of the classes' centres [Q].
        nearest: the number of the support item with the nearest embedding [Q].
    """

    probabilities: Tensor
    distances: Tensor
    nearest: Tensor


def answers(enrolled: Enrolled, x: Items, temperature: float = 1.0) -> Answers:
    """Return the answers to query items; each is the same whatever the others are, but for rounding.

    Args:
        enrolled: the learner with its support set.
        x: the items [Q, ...].
        temperature: what logits are divided by.
    """
    z = embedded(enrolled.learner, enrolled.encoder, x)
    return answers_of(enrolled, z, answered(enrolled, z), temperature)


def answers_of(enrolled: Enrolled, z: Tensor, logits: Tensor, temperature: float) -> Answers:
    """Return the answers to embedded query items [Q, ...] with logits [Q, W], see `answers`."""
    return Answers(
        probabilities=(logits / temperature).softmax(1),
        distances=distances(enrolled, z),
        nearest=torch.cdist(z.flatten(1), enrolled.embedded.flatten(1)).argmin(1),
    )


def distances(enrolled: Enrolled, z: Tensor) -> Tensor:
    """Return the distance [Q] of each embedded item to the nearest of the classes' centres."""
    return torch.cdist(z.flatten(1), enrolled.centres).amin(1)


def answered(enrolled: Enrolled, z: Tensor) -> Tensor:
    """Return the logits [Q, W] of embedded query items."""
    with torch.no_grad():
        return logits_of(enrolled, z)


def logits_of(enrolled: Enrolled, z: Tensor) -> Tensor:
    """Return the logits [Q, W] of embedded query items, with their gradients."""
    algorithm, net, own, *_ = enrolled.learner
    return algorithm.predict(net, own, enrolled.state, z)


def _used(learner: Learner, state: State, x: Items) -> Params:
    """Return the tensors with which a learner runs the backbone when it answers.

    Raises:
        UserError: if it runs it more than once.
    """
    used: list[Params] = []
    net = learner.net

    def features(params: Params, x: Items) -> Tensor:
        used.append(params)
        return net.features(params, x)

    spied = net._replace(features=features, output=lambda params, x: net.head(params, features(params, x)))
    learner.algorithm.predict(spied, learner.own, state, x)
    if len(used) != 1:
        name = type(learner.algorithm).__name__
        raise UserError(f"{name} runs the network {len(used)} times for an answer; once is what can be deployed")
    return used[0]


def _with_tensors(backbone: nn.Module, tensors: Params) -> nn.Module:
    """Return a copy of a backbone with other values of the parameters that are named among the tensors."""
    copied = copy.deepcopy(backbone)
    for name, parameter in copied.named_parameters():
        if (value := tensors.get(BACKBONE + name)) is not None:
            parameter.copy_(value)
    return copied
