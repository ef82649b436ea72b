"""R2-D2 against the normal equations, and its standard deviations against those of a Gaussian process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from unit.algorithms.plain import OUTPUTS, WAY, assert_trains_on, classes, features, learner_of, numbers

from metalearn_cli.algorithms.r2d2 import R2d2
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, fitted


def plain(learner: Learner, episode: Episode, target: Tensor) -> Tensor:
    x, z = features(learner, episode.support_x), features(learner, episode.query_x)
    weight = torch.inverse(x.T @ x + learner.own["log_penalty"].exp() * torch.eye(x.shape[1])) @ x.T @ target
    return learner.own["log_scale"].exp() * (z @ weight) + learner.own["shift"]


@pytest.mark.parametrize("hidden", [4, 8], ids=["more items than features", "Woodbury"])
def test_loss_and_gradients_are_those_of_the_normal_equations(hidden: int) -> None:
    learner, episode = learner_of(R2d2(0.3), hidden=hidden), classes()
    answers = plain(learner, episode, one_hot(episode.support_y, WAY).double())
    assert_trains_on(learner, episode, cross_entropy(answers, episode.query_y))
    learner, episode = learner_of(R2d2(0.3), OUTPUTS, hidden=hidden), numbers()
    assert_trains_on(learner, episode, mse_loss(plain(learner, episode, episode.support_y), episode.query_y))


@pytest.mark.parametrize("hidden", [4, 8])
def test_spread_is_that_of_a_gaussian_process_whose_noise_is_the_most_likely(hidden: int) -> None:
    learner, episode = learner_of(R2d2(0.3), OUTPUTS, hidden=hidden), numbers()
    x, z = features(learner, episode.support_x).detach(), features(learner, episode.query_x).detach()
    penalty, scale = learner.own["log_penalty"].exp().detach(), learner.own["log_scale"].exp()
    state = learner.algorithm.adapt(learner.net, learner.own, x, episode.support_y, OUTPUTS)
    noise = state["noise"].detach().requires_grad_()
    spread = fitted(learner, episode.support_x, episode.support_y, episode.query_x).spread
    for output in range(OUTPUTS):
        kernel = noise[output] * (x @ x.T / penalty + torch.eye(len(x)))
        likely = MultivariateNormal(torch.zeros(len(x)).double(), kernel).log_prob(episode.support_y[:, output])
        assert abs(torch.autograd.grad(likely, noise)[0][output]) < 1e-8
        across = noise[output] * z @ x.T / penalty
        prior = noise[output] * (z @ z.T / penalty + torch.eye(len(z)))
        variance = (prior - across @ torch.inverse(kernel) @ across.T).diagonal()
        torch.testing.assert_close(spread[:, output], scale * variance.sqrt())


def test_is_solved_in_32_bits_where_numbers_have_16() -> None:
    learner = learner_of(R2d2())
    small = learner.of({name: tensor.detach().bfloat16() for name, tensor in learner.tensors.items()})
    episode = classes()
    x = features(small, episode.support_x.bfloat16())
    weight = small.algorithm.adapt(small.net, small.own, x, episode.support_y, WAY)["weight"]
    assert weight.dtype == torch.bfloat16 and torch.isfinite(weight).all()
