"""R2-D2 against the normal equations, and its standard deviations against those of a Gaussian process."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, mse_loss, one_hot
from unit.algorithms.plain import OUTPUTS, WAY, assert_trains_on, classes, features, learner_of, numbers

from metalearn_cli.algorithms.r2d2 import R2d2
from metalearn_cli.core.types import Episode
from metalearn_cli.engine.episodes import Learner, fitted


def plain(learner: Learner, episode: Episode, target: Tensor) -> Tensor:
    x, z = features(learner, episode.support_x), features(learner, episode.query_x)
    return z @ torch.inverse(x.T @ x + learner.own["log_penalty"].exp() * torch.eye(x.shape[1])) @ x.T @ target


@pytest.mark.parametrize("hidden", [4, 8], ids=["more items than features", "Woodbury"])
def test_loss_and_gradients_are_those_of_the_normal_equations(hidden: int) -> None:
    learner, episode = learner_of(R2d2(0.3), hidden=hidden), classes()
    answers = plain(learner, episode, one_hot(episode.support_y, WAY).double())
    logits = learner.own["log_scale"].exp() * answers + learner.own["shift"]
    assert_trains_on(learner, episode, cross_entropy(logits, episode.query_y))
    learner, episode = learner_of(R2d2(0.3), OUTPUTS, hidden=hidden), numbers()
    assert_trains_on(learner, episode, mse_loss(plain(learner, episode, episode.support_y), episode.query_y))


@pytest.mark.parametrize("hidden", [4, 8])
def test_spread_is_that_of_a_gaussian_process_with_the_noise_of_the_residuals(hidden: int) -> None:
    learner, episode = learner_of(R2d2(0.3), OUTPUTS, hidden=hidden), numbers()
    x, z = features(learner, episode.support_x).detach(), features(learner, episode.query_x).detach()
    penalty = learner.own["log_penalty"].exp().detach()
    spread = fitted(learner, episode.support_x, episode.support_y, episode.query_x).spread
    smooth = x @ x.T @ torch.inverse(x @ x.T + penalty * torch.eye(len(x)))
    for output, y in enumerate(episode.support_y.T):
        noise = (y - smooth @ y).square().sum() / (len(x) - smooth.trace())
        kernel = noise * (x @ x.T / penalty + torch.eye(len(x)))
        across = noise * z @ x.T / penalty
        prior = noise * (z @ z.T / penalty + torch.eye(len(z)))
        variance = (prior - across @ torch.inverse(kernel) @ across.T).diagonal()
        torch.testing.assert_close(spread[:, output], variance.sqrt())


def test_is_solved_in_32_bits_where_numbers_have_16() -> None:
    learner = learner_of(R2d2())
    small = learner.of({name: tensor.detach().bfloat16() for name, tensor in learner.tensors.items()})
    episode = classes()
    x = features(small, episode.support_x.bfloat16())
    weight = small.algorithm.adapt(small.net, small.own, x, episode.support_y, WAY)["weight"]
    assert weight.dtype == torch.bfloat16 and torch.isfinite(weight).all()
