"""MAML++ against an independent plain loop, at several times of training."""

from __future__ import annotations

import pytest
from unit.algorithms.adapting import assert_same_loss_and_gradient, learner_of, loss_of, output, own_of, slopes, task

from metalearn_cli.algorithms.maml_pp import MamlPp

# weights of the losses after the three steps: they change from equal ones over the first 0.2 of training
WEIGHTS = {0.0: (1 / 3, 1 / 3, 1 / 3), 0.1: (1 / 6, 1 / 6, 2 / 3), 0.3: (0, 0, 1), 0.5: (0, 0, 1), 1.0: (0, 0, 1)}


@pytest.mark.parametrize("progress", WEIGHTS)
@pytest.mark.parametrize("numbers", [False, True])
def test_loss_and_gradient_by_weights_and_step_sizes_are_those_of_a_plain_loop(progress: float, numbers: bool) -> None:
    learner, episode = learner_of(MamlPp(0.2, 3, multi_step=0.2, first_order=0.5)).at(progress), task(numbers)
    fast, sizes = learner.net.params, own_of(learner)
    total = 0
    for step, weight in enumerate(WEIGHTS[progress]):
        slope = slopes(loss_of(output(fast, episode.support_x), episode.support_y), fast)
        if progress < 0.5:
            slope = {n: g.detach() for n, g in slope.items()}
        fast = {n: p - sizes[n][step] * slope[n] for n, p in fast.items()}
        total = total + weight * loss_of(output(fast, episode.query_x), episode.query_y)
    assert_same_loss_and_gradient(learner, episode, total)


def test_without_annealing_it_is_of_second_order_throughout() -> None:
    plain = MamlPp(multi_step=0, first_order=0)
    assert not plain.traits.surrogate and MamlPp().traits.surrogate
    learner, episode = learner_of(plain), task()
    loss = plain.episode(learner.net, learner.own, episode, 3).loss
    assert plain.at(0.0).episode(learner.net, learner.own, episode, 3).loss == loss
