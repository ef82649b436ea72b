"""Baseline++ against a module of torch with a classifier of cosines, trained by torch's own optimizer."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn.functional import cosine_similarity, cross_entropy

from metalearn_cli.algorithms.baseline_pp import BaselinePp
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded


def test_equals_a_plain_training_of_the_classifier() -> None:
    with seeded(0, "baseline_pp"):
        net = network(Mlp((6,), hidden=8))
        x, queries = torch.randn(6, 8, dtype=torch.float64), torch.randn(5, 8, dtype=torch.float64)
        y = torch.tensor([0, 1, 2, 2, 1, 0])
        learner = BaselinePp(lr=0.3, steps=7, scale=4.0)
        own = {name: tensor.double() for name, tensor in learner.init(net, 3).items()}
    found = learner.predict(net, own, learner.adapt(net, own, x, y, 3), queries)

    vectors = nn.Parameter(own["weight"].clone())
    optimizer = torch.optim.SGD([vectors], lr=0.3)
    for _ in range(7):
        optimizer.zero_grad()
        cosines = torch.stack([cosine_similarity(x, vector[None]) for vector in vectors], dim=1)
        cross_entropy(4 * cosines, y).backward()
        optimizer.step()
    cosines = torch.stack([cosine_similarity(queries, vector[None]) for vector in vectors], dim=1)
    torch.testing.assert_close(found, 4 * cosines.detach())
