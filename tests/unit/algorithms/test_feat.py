"""FEAT against attention in one set at a time, written as loops."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from unit.algorithms.plain import WAY, assert_trains_on, classes, features, learner_of

from metalearn_cli.algorithms.feat import Feat
from metalearn_cli.core.network import Params
from metalearn_cli.engine.episodes import trained


def adapted(own: Params, items: Tensor) -> Tensor:
    rows = []
    for item in items:
        attention = torch.stack(
            [(own["query.weight"] @ item) @ (own["key.weight"] @ other) / len(item) ** 0.5 for other in items]
        ).softmax(0)
        mixed = sum(a * (own["value.weight"] @ other) for a, other in zip(attention, items, strict=True))
        z = item + own["out.weight"] @ mixed + own["out.bias"]
        z = (z - z.mean()) / (z.var(correction=0) + 1e-5).sqrt()
        rows.append(own["norm.weight"] * z + own["norm.bias"])
    return torch.stack(rows)


def nearest(items: Tensor, centres: Tensor, temperature: float) -> Tensor:
    return torch.stack([-(z - centres).square().sum(1) / temperature for z in items])


def test_loss_and_gradients_are_those_of_each_set_alone() -> None:
    learner, episode = learner_of(Feat(temperature=2.0, balance=0.3)), classes()
    support, queries = features(learner, episode.support_x), features(learner, episode.query_x)
    means = torch.stack([support[episode.support_y == way].mean(0) for way in range(WAY)])
    loss = cross_entropy(nearest(queries, adapted(learner.own, means), 2.0), episode.query_y)
    z, y = torch.cat([support, queries]), torch.cat([episode.support_y, episode.query_y])
    centres = torch.stack([adapted(learner.own, z[y == way]).mean(0) for way in range(WAY)])
    assert_trains_on(learner, episode, loss + 0.3 * cross_entropy(nearest(z, centres, 2.0), y))


def test_the_regulariser_changes_no_answer() -> None:
    episode = classes()
    one, two = (trained(learner_of(Feat(balance=balance)), episode) for balance in (0.0, 1.0))
    assert torch.equal(one.logits, two.logits) and one.loss != two.loss
