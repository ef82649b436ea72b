"""Meta-SGD against an independent plain loop."""

from __future__ import annotations

import pytest
from unit.algorithms.adapting import assert_same_loss_and_gradient, learner_of, loss_of, output, own_of, slopes, task

from metalearn_cli.algorithms.meta_sgd import MetaSgd


@pytest.mark.parametrize("numbers", [False, True])
def test_loss_and_gradient_by_weights_and_step_sizes_are_those_of_a_plain_loop(numbers: bool) -> None:
    learner, episode = learner_of(MetaSgd(inner_steps=2)), task(numbers)
    fast, alpha = learner.net.params, own_of(learner)
    for _ in range(2):
        slope = slopes(loss_of(output(fast, episode.support_x), episode.support_y), fast)
        fast = {n: p - alpha[n] * slope[n] for n, p in fast.items()}
    assert_same_loss_and_gradient(learner, episode, loss_of(output(fast, episode.query_x), episode.query_y))


def test_every_weight_has_a_step_size_between_the_bounds() -> None:
    learner = learner_of(MetaSgd(0.2, 0.4))
    alpha = own_of(learner)
    assert {n: a.shape for n, a in alpha.items()} == {n: p.shape for n, p in learner.net.params.items()}
    assert all(0.2 <= a.min() < a.max() <= 0.4 for a in alpha.values())


def test_bounds_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^high must be at least low \(0\.2\), got 0\.1$"):
        MetaSgd(0.2, 0.1)
