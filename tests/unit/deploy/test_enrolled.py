"""A learner with fixed statistics answers as the inductive evaluation of the same learner does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.components import pieces, specs

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded
from metalearn_cli.deploy.enrolled import answered, embedded, enrol, learnt, needs_items
from metalearn_cli.deploy.folding import statistics_of
from metalearn_cli.engine import episodes
from metalearn_cli.stages.learner import fresh_backbone, fresh_learner

WAY, SHOT, QUERIES = 3, 2, 7
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 4}
FACTS = Facts("image", (1, 16, 16), "unit", 4)
TOGETHER = {"soft_kmeans", "laplacian_shot"}
"""Learners that answer all queries together."""


def learner(algorithm: dict[str, Any], backbone: dict[str, Any] = CONV4) -> tuple[episodes.Learner, torch.nn.Module]:
    module, built = fresh_backbone(backbone, FACTS, seed=0).double(), build(algorithm, "algorithm")
    net = network(module, WAY if built.traits.head else None)
    made = fresh_learner(built, net, WAY, "inductive", seed=0).at(1.0)
    with seeded(0, "head"):
        changed = {n: t.double() for n, t in made.tensors.items()}
        changed |= {n: torch.randn_like(t) / 9 for n, t in changed.items() if n.startswith("head.")}
    return made.of(changed), module


def drawn(count: int, seed: int) -> torch.Tensor:
    with seeded(seed, "items"):
        return torch.rand(count, 1, 16, 16, dtype=torch.float64)


SUPPORT_X, QUERY_X = drawn(WAY * SHOT, 0), drawn(QUERIES, 1)
SUPPORT_Y = torch.arange(WAY).repeat(SHOT)


@pytest.mark.parametrize("name", sorted(specs("algorithm").keys() - pieces("algorithm").keys() - TOGETHER))
def test_answers_are_those_of_the_inductive_evaluation(name):
    made, module = learner(specs("algorithm")[name])
    with torch.no_grad():
        wanted = episodes.answered(made, SUPPORT_X, SUPPORT_Y, QUERY_X)
    found = enrol(made, module, SUPPORT_X, SUPPORT_Y, {})
    logits = answered(found, embedded(made, found.encoder, QUERY_X))
    torch.testing.assert_close(logits, wanted, rtol=1e-6, atol=1e-6 * float(wanted.abs().max()))


def test_embeddings_are_enough_where_statistics_are_those_of_training_items():
    made, module = learner(specs("algorithm")["protonet"])
    statistics = statistics_of(module, drawn(20, 2))
    assert needs_items(made, {}) and not needs_items(made, statistics)
    one = enrol(made, module, SUPPORT_X, SUPPORT_Y, statistics)
    two = learnt(made, one.encoder, one.embedded, SUPPORT_Y)
    z = embedded(made, one.encoder, QUERY_X)
    assert torch.equal(answered(one, z), answered(two, z))
    other = enrol(made, module, SUPPORT_X, SUPPORT_Y, {})
    assert not torch.allclose(embedded(made, other.encoder, QUERY_X), z)  # the statistics of the support items


class Twice(Maml):
    """A learner that runs the network twice for an answer."""

    def predict(self, net, own, state, x):
        return net.output(state, x) + net.output(net.params, x)


def test_a_learner_that_runs_the_network_twice_is_refused():
    made, module = learner(specs("algorithm")["maml"])
    with pytest.raises(UserError, match="Twice runs the network 2 times"):
        enrol(made._replace(algorithm=Twice()), module, SUPPORT_X, SUPPORT_Y, {})
