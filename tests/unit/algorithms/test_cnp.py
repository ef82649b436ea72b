"""Conditional neural processes against the paper's equations, one item and one output after the other."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus
from unit.algorithms.plain import OUTPUTS, WAY, assert_trains_on, classes, features, learner_of, numbers

from metalearn_cli.algorithms.cnp import Cnp
from metalearn_cli.core.network import Params
from metalearn_cli.engine.episodes import fitted


def run(own: Params, part: str, *pieces: Tensor) -> Tensor:
    hidden = (own[f"{part}.0.weight"] @ torch.cat(pieces) + own[f"{part}.0.bias"]).relu()
    return own[f"{part}.2.weight"] @ hidden + own[f"{part}.2.bias"]


def mean_code(own: Params, items: Tensor, targets: Tensor) -> Tensor:
    codes = [run(own, "encoder", z, y[None]) for z, y in zip(items, targets, strict=True)]
    return torch.stack(codes).mean(0)


def test_loss_and_gradients_of_a_regression_are_those_of_the_likelihood() -> None:
    learner, episode = learner_of(Cnp(hidden=6), OUTPUTS), numbers()
    support, queries = features(learner, episode.support_x), features(learner, episode.query_x)
    losses, spreads = [], []
    for output in range(OUTPUTS):
        code = mean_code(learner.own, support, episode.support_y[:, output])
        for z, y in zip(queries, episode.query_y[:, output], strict=True):
            mean, raw = run(learner.own, "decoder", z, code)
            spread = 0.1 + 0.9 * softplus(raw)
            density = torch.exp(-(((y - mean) / spread) ** 2) / 2) / (spread * math.sqrt(2 * math.pi))
            losses.append(-density.log())
            spreads.append(spread)
    assert_trains_on(learner, episode, torch.stack(losses).mean())
    found = fitted(learner, episode.support_x, episode.support_y, episode.query_x).spread
    torch.testing.assert_close(found, torch.stack(spreads).view(OUTPUTS, -1).T)


def test_loss_and_gradients_of_classes_are_those_of_a_score_by_each_classs_code() -> None:
    learner, episode = learner_of(Cnp(hidden=6)), classes()
    support, queries = features(learner, episode.support_x), features(learner, episode.query_x)
    codes = [support[episode.support_y == way] for way in range(WAY)]
    codes = [mean_code(learner.own, items, torch.ones(len(items)).double()) for items in codes]
    logits = torch.stack([torch.stack([run(learner.own, "decoder", z, code)[0] for code in codes]) for z in queries])
    assert_trains_on(learner, episode, cross_entropy(logits, episode.query_y))


def test_any_number_of_classes_has_the_same_tensors() -> None:
    shapes = [{n: t.shape for n, t in learner_of(Cnp(hidden=6), way).own.items()} for way in (2, 20)]
    assert shapes[0] == shapes[1]
