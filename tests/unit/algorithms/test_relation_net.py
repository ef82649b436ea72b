"""Relation networks against a loop over pairs of a query and a class."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import conv2d, group_norm, linear, relu
from unit.algorithms.plain import WAY, assert_trains_on, classes, learner_of

from metalearn_cli.algorithms.relation_net import RelationNet
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.core.network import Params


def relation(own: Params, query: Tensor, prototype: Tensor) -> Tensor:
    x = torch.cat([prototype, query])[None]
    for conv, norm in ((0, 1), (3, 4)):
        x = conv2d(x, own[f"{conv}.weight"], own[f"{conv}.bias"], padding=1)
        x = relu(group_norm(x, 1, own[f"{norm}.weight"], own[f"{norm}.bias"]))
    x = relu(linear(x.mean((2, 3)), own["8.weight"], own["8.bias"]))
    return linear(x, own["10.weight"], own["10.bias"])[0, 0].sigmoid()


def test_loss_and_gradients_are_those_of_pairs_one_by_one() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        backbone = Conv4((1, 32, 32), hidden=3, norm="none")
    learner, episode = learner_of(RelationNet(hidden=5), backbone=backbone), classes(1, 32, 32)
    net = learner.net
    support, queries = net.maps(net.params, episode.support_x), net.maps(net.params, episode.query_x)
    assert support.shape[1:] == (3, 2, 2)
    errors = []
    for way in range(WAY):
        prototype = support[episode.support_y == way].mean(0)
        for query, y in zip(queries, episode.query_y, strict=True):
            errors.append((relation(learner.own, query, prototype) - float(y == way)) ** 2)
    assert_trains_on(learner, episode, torch.stack(errors).mean())
