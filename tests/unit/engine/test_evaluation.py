from __future__ import annotations

import pytest
import torch
from conftest import on_cpu
from metalearn_cli.backbones.common.network import Network

from metalearn_cli.algorithms.from_scratch import FromScratch
from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.algorithms.nearest_centroid import NearestCentroid
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.functional import pure
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode
from metalearn_cli.data.common.dataset import Dataset, Split
from metalearn_cli.engine.evaluation import score_episodes, under_protocol

WAY, SHOT, QUERY, SIDE = 2, 2, 3, 16
ALGORITHMS = [Maml(0.1), ProtoNet(), NearestCentroid(), FromScratch(steps=2)]
RUNTIME = on_cpu()


def network(algorithm, backbone, shape=(1, SIDE, SIDE)):
    with seeded(0):
        return pure(Network(backbone(shape), WAY if algorithm.needs_head else None))


def conv(norm):
    return lambda shape: Conv4(shape, hidden=4, norm=norm)


def episode(seed: int = 0) -> Episode:
    with seeded(seed):
        x = torch.rand(WAY * (SHOT + QUERY), 1, SIDE, SIDE)
    s = WAY * SHOT
    return Episode(x[:s], torch.arange(s) % WAY, x[s:], torch.arange(WAY * QUERY) % WAY)


def answers(algorithm, backbone, normalisation, task):
    apply, params = network(algorithm, backbone)
    run = under_protocol(apply, task, normalisation)
    with torch.no_grad():
        return algorithm(run, params, task, way=WAY).logits


def with_other_queries(task):
    """Return the task with all queries but the first exchanged."""
    with seeded(1):
        others = 0.5 + torch.rand_like(task.query_x[1:])
    return task._replace(query_x=torch.cat([task.query_x[:1], others]))


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_inductive_answers_do_not_depend_on_other_queries(algorithm):
    task = episode()
    one, two = (answers(algorithm, conv("batch"), "inductive", t) for t in (task, with_other_queries(task)))
    torch.testing.assert_close(one[0], two[0])
    assert not torch.allclose(one[1], two[1], atol=1e-3)
    alone = task._replace(query_x=task.query_x[:1], query_y=task.query_y[:1])
    torch.testing.assert_close(answers(algorithm, conv("batch"), "inductive", alone)[0], one[0])


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_transductive_answers_do(algorithm):
    task = episode()
    one, two = (answers(algorithm, conv("batch"), "transductive", t) for t in (task, with_other_queries(task)))
    assert not torch.allclose(one[0], two[0], atol=1e-3)


@pytest.mark.parametrize("backbone", [conv("group"), Mlp], ids=["group norm", "mlp"])
@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_protocols_agree_without_batch_statistics(algorithm, backbone):
    one, two = (answers(algorithm, backbone, p, episode()) for p in ("transductive", "inductive"))
    torch.testing.assert_close(one, two)


def test_support_set_itself_is_seen_the_same_way_in_both_protocols():
    task = episode()
    apply, params = network(ProtoNet(), conv("batch"))
    one, two = (under_protocol(apply, task, p)(params, task.support_x) for p in ("transductive", "inductive"))
    torch.testing.assert_close(one, two)


@pytest.fixture
def sampler():
    items = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    items[:15, 0] += 2.0
    test = Split(items, torch.tensor([15, 15]), ("right", "left"))
    return Dataset.of("clouds", "any", {"test": test}).episodes("test", WAY, SHOT, QUERY, seed=0)


@pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)
def test_scores_are_those_of_single_episodes(algorithm, sampler):
    apply, params = network(algorithm, Mlp, (5,))
    told = []
    scores = score_episodes(algorithm, apply, params, sampler, 4, "transductive", RUNTIME, told.append)
    assert told == [1, 2, 3, 4]
    assert not scores.requires_grad
    for index in range(4):
        task = Episode(*(part[0] for part in sampler.batch(index, 1)))
        right = algorithm(apply, params, task, way=WAY).logits.argmax(-1) == task.query_y
        assert scores[index].item() == pytest.approx(right.float().mean().item())
    assert scores.unique().numel() > 1


def test_evaluation_changes_no_parameter(sampler):
    algorithm = Maml(0.5)
    apply, params = network(algorithm, Mlp, (5,))
    before = {name: p.detach().clone() for name, p in params.items()}
    score_episodes(algorithm, apply, params, sampler, 2, "inductive", RUNTIME)
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in params.items())
