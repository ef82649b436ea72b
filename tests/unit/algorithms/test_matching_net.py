"""Matching networks against the paper's sum over the support items, written as loops."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity
from unit.algorithms.plain import WAY, assert_trains_on, classes, features, learner_of

from metalearn_cli.algorithms.matching_net import MatchingNet
from metalearn_cli.engine.episodes import trained


@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_loss_and_gradients_are_those_of_a_vote_over_support_items(scale: float) -> None:
    learner, episode = learner_of(MatchingNet(scale)), classes()
    support, queries = features(learner, episode.support_x), features(learner, episode.query_x)
    losses = []
    for z, y in zip(queries, episode.query_y, strict=True):
        attention = torch.stack([scale * cosine_similarity(z, other, dim=0) for other in support]).softmax(0)
        votes = [a for a, label in zip(attention, episode.support_y, strict=True) if label == y]
        losses.append(-torch.stack(votes).sum().log())
    assert_trains_on(learner, episode, torch.stack(losses).mean())


def test_a_large_scale_leaves_answers_finite() -> None:
    learner, episode = learner_of(MatchingNet(1e4)), classes()
    logits = trained(learner, episode).logits
    assert torch.isfinite(logits).all() and logits.shape[1] == WAY
