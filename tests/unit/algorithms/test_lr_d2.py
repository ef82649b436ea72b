"""LR-D2 against iteratively reweighted least squares over the features, one class after the other."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy
from unit.algorithms.plain import WAY, assert_trains_on, classes, features, learner_of

from metalearn_cli.algorithms.lr_d2 import LrD2
from metalearn_cli.engine.episodes import Learner, trained


def fitted_by_newton(x: Tensor, y: Tensor, penalty: Tensor, steps: int) -> Tensor:
    weight = torch.zeros(x.shape[1], dtype=x.dtype)
    for _ in range(steps):
        p = (x @ weight).sigmoid()
        s = p * (1 - p)
        z = x @ weight + (y - p) / s
        weight = torch.inverse(x.T @ s.diag() @ x + penalty * torch.eye(len(weight))) @ x.T @ s.diag() @ z
    return weight


def weights(learner: Learner, x: Tensor, y: Tensor) -> Tensor:
    return learner.algorithm.adapt(learner.net, learner.own, x, y, WAY)["weight"]


def test_loss_and_gradients_are_those_of_the_papers_steps_in_feature_space() -> None:
    learner, episode = learner_of(LrD2(steps=3, penalty=0.3)), classes()
    x, z, own = features(learner, episode.support_x), features(learner, episode.query_x), learner.own
    penalty = own["log_penalty"].exp()
    columns = [fitted_by_newton(x, (episode.support_y == way).double(), penalty, 3) for way in range(WAY)]
    logits = own["log_scale"].exp() * z @ torch.stack(columns, 1)
    assert_trains_on(learner, episode, cross_entropy(logits, episode.query_y))


def test_many_steps_end_at_the_minimum() -> None:
    learner, episode = learner_of(LrD2(steps=20, penalty=0.3)), classes()
    x = features(learner, episode.support_x).detach()
    found = weights(learner, x, episode.support_y).detach().requires_grad_()
    targets = torch.nn.functional.one_hot(episode.support_y, WAY).double()
    loss = binary_cross_entropy_with_logits(x @ found, targets, reduction="sum")
    penalised = loss + learner.own["log_penalty"].exp().detach() * found.square().sum() / 2
    assert torch.autograd.grad(penalised, found)[0].abs().max() < 1e-9


def test_a_sure_classifier_leaves_loss_and_gradients_finite() -> None:
    learner, episode = learner_of(LrD2(penalty=1e-3)), classes()
    far = episode._replace(support_x=1e3 * episode.support_x, query_x=1e3 * episode.query_x)
    loss = trained(learner, far).loss
    assert torch.isfinite(loss)
    assert all(map(torch.Tensor.all, map(torch.isfinite, torch.autograd.grad(loss, list(learner.tensors.values())))))
