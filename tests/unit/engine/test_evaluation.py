from __future__ import annotations

import pytest
import torch
from conftest import on_cpu
from torch import Tensor

from metalearn_cli.algorithms.from_scratch import FromScratch
from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.algorithms.nearest_centroid import NearestCentroid
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.network import network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.data.common.dataset import Dataset
from metalearn_cli.data.common.splits import Split
from metalearn_cli.engine.episodes import Learner, answered
from metalearn_cli.engine.evaluation import score_episodes

WAY, SHOT, QUERY = 2, 2, 3
ALGORITHMS = [Maml(0.1), ProtoNet(), NearestCentroid(), FromScratch(steps=2)]
RUNTIME = on_cpu()


def learner(algorithm) -> Learner:
    with seeded(0):
        net = network(Mlp((5,)), WAY if algorithm.traits.head else None)
    return Learner(algorithm, net, {}, WAY, "transductive")


@pytest.fixture
def sampler():
    items = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    items[:15, 0] += 2.0
    test = Split(items, torch.tensor([15, 15]), ("right", "left"))
    return Dataset.of("clouds", "any", {"test": test}, "vector").episodes("test", WAY, SHOT, QUERY, seed=0)


@pytest.mark.parametrize("batching", ["loop", "vmap"])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_scores_are_those_of_single_episodes(algorithm, batching, sampler):
    told: list[int] = []
    found = score_episodes(learner(algorithm), sampler, 4, on_cpu(task_batching=batching), told.append, logits=True)
    scores = found.scores
    assert told == [1, 2, 3, 4]
    assert not scores.requires_grad
    for index in range(4):
        task = Episode(*(part[0] for part in sampler.batch(index, 1)))
        logits = answered(learner(algorithm), *task[:3])
        right = logits.argmax(-1) == task.query_y
        assert scores[index].item() == pytest.approx(right.float().mean().item())
        by_class = [right[task.query_y == way].float().mean().item() for way in range(WAY)]
        assert found.by_class[index].tolist() == pytest.approx(by_class)
        torch.testing.assert_close(found.logits[index], logits)
        assert torch.equal(found.targets[index], task.query_y)
    assert scores.unique().numel() > 1


def test_answers_are_not_kept_unless_asked_for(sampler):
    found = score_episodes(learner(ProtoNet()), sampler, 2, RUNTIME)
    assert (found.logits, found.targets) == ((), ())


def test_evaluation_changes_no_parameter(sampler):
    one = learner(Maml(0.5))
    before = {name: p.detach().clone() for name, p in one.net.params.items()}
    score_episodes(one, sampler, 2, RUNTIME)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in one.net.params.items())


class Steady(ProtoNet):
    """Has a tensor of its own, by which features are scaled."""

    def adapt(self, net, own, x, y, way):
        return super().adapt(net, own, x * own["scale"], y, way)

    def predict(self, net, own, state, x):
        return super().predict(net, own, state, x * own["scale"])


def test_own_tensors_take_part(sampler):
    def scores(scale: Tensor) -> Tensor:
        return score_episodes(learner(Steady())._replace(own={"scale": scale}), sampler, 6, RUNTIME).scores

    plain = score_episodes(learner(ProtoNet()), sampler, 6, RUNTIME).scores
    assert torch.equal(scores(torch.ones(40)), plain)
    assert not torch.equal(scores((torch.arange(40) < 2).float()), plain)


@pytest.mark.usefixtures("two_cores")
def test_what_leaves_torch_is_scored_one_after_the_other_or_over_threads(sampler):
    """As scikit-learn does: a learner that looks at its numbers."""

    class Numbers(NearestCentroid):
        traits = NearestCentroid.traits._replace(batchable=False)

        def predict(self, net, own, state, x):
            return torch.tensor(super().predict(net, own, state, x).tolist())

    found = on_cpu()
    plain = score_episodes(learner(NearestCentroid()), sampler, 3, found).scores
    assert torch.equal(score_episodes(learner(Numbers()), sampler, 3, found).scores, plain)
    before = torch.get_num_threads()
    try:
        assert torch.equal(score_episodes(learner(Numbers()), sampler, 3, on_cpu(threads=2)).scores, plain)
    finally:
        torch.set_num_threads(before)
