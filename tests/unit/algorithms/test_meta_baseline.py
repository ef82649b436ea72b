"""Meta-Baseline against a loop over queries and classes."""

from __future__ import annotations

import torch
from torch.nn.functional import cosine_similarity, cross_entropy
from unit.algorithms.plain import WAY, assert_trains_on, classes, features, learner_of

from metalearn_cli.algorithms.meta_baseline import MetaBaseline


def test_loss_and_gradients_are_those_of_scaled_cosines() -> None:
    learner, episode = learner_of(MetaBaseline(4.0)), classes()
    support, queries = features(learner, episode.support_x), features(learner, episode.query_x)
    means = [support[episode.support_y == way].mean(0) for way in range(WAY)]
    cosines = torch.stack([torch.stack([cosine_similarity(z, mean, dim=0) for mean in means]) for z in queries])
    assert 3 < learner.own["scale"] < 5
    assert_trains_on(learner, episode, cross_entropy(learner.own["scale"] * cosines, episode.query_y))
