"""Proto-MAML against an independent plain loop, and against the prototypical network that it starts as."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import linear
from unit.algorithms.adapting import WAY, assert_same_loss_and_gradient, features, learner_of, loss_of, slopes, task

from metalearn_cli.algorithms.proto_maml import ProtoMaml
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.engine.episodes import trained


@pytest.mark.parametrize("first_order", [False, True])
def test_loss_and_gradient_are_those_of_a_plain_loop(first_order: bool) -> None:
    learner, episode = learner_of(ProtoMaml(0.1, 2, first_order)), task()
    z = features(learner.net.params, episode.support_x)
    centres = torch.stack([z[episode.support_y == k].mean(0) for k in range(WAY)])
    # one vector for each tensor of the network, so that the head does not depend on what is differentiated
    fast = {n: p.clone() for n, p in learner.net.params.items()}
    fast |= {"w": 2 * centres, "b": -(centres**2).sum(1)}

    def logits(x):
        return linear(features(fast, x), fast["w"], fast["b"])

    for _ in range(2):
        slope = slopes(loss_of(logits(episode.support_x), episode.support_y), fast)
        if first_order:
            slope = {n: g.detach() for n, g in slope.items()}
        fast = {n: p - 0.1 * slope[n] for n, p in fast.items()}
    assert_same_loss_and_gradient(learner, episode, loss_of(logits(episode.query_x), episode.query_y))


def test_before_its_first_step_it_is_a_prototypical_network() -> None:
    learner, episode = learner_of(ProtoMaml(1e-14, 1)), task()
    other = trained(learner._replace(algorithm=ProtoNet()), episode)
    found = trained(learner, episode)
    torch.testing.assert_close(found.logits.log_softmax(1), other.logits.log_softmax(1))
    torch.testing.assert_close(found.loss, other.loss)
