"""CAVIA against an independent plain loop."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from unit.algorithms.adapting import assert_same_loss_and_gradient, features, learner_of, loss_of, own_of, task

from metalearn_cli.algorithms.cavia import Cavia


@pytest.mark.parametrize("numbers", [False, True])
def test_loss_and_gradient_are_those_of_a_plain_loop(numbers: bool) -> None:
    learner, episode = learner_of(Cavia(7, 6, 0.5, 2)), task(numbers)
    p, own = learner.net.params, own_of(learner)

    def run(context: Tensor, x: Tensor) -> Tensor:
        units = features(p, x) @ own["hidden_weight"].T + own["hidden_bias"]
        units = (1 + own["scale"] @ context) * units + own["shift"] @ context
        return units.clamp(min=0) @ own["outputs_weight"].T + own["outputs_bias"]

    context = torch.zeros(7, dtype=torch.float64, requires_grad=True)
    for _ in range(2):
        loss = loss_of(run(context, episode.support_x), episode.support_y)
        context = context - 0.5 * torch.autograd.grad(loss, context, create_graph=True)[0]
    assert_same_loss_and_gradient(learner, episode, loss_of(run(context, episode.query_x), episode.query_y))


def test_a_task_is_its_context_alone() -> None:
    learner, episode = learner_of(Cavia(7)), task()
    z = features(learner.net.params, episode.support_x)
    state = learner.algorithm.adapt(learner.net, learner.own, z, episode.support_y, 3)
    assert {name: tensor.shape for name, tensor in state.items()} == {"context": (7,)}
