"""What a learner gets to see of an episode, and what its answers depend on, under each protocol."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from metalearn_cli.algorithms.from_scratch import FromScratch
from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.algorithms.nearest_centroid import NearestCentroid
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.learning import class_means, square_distances, task_loss
from metalearn_cli.core.network import Network, Params, network
from metalearn_cli.core.random import seeded
from metalearn_cli.core.types import Episode, EpisodeOutput, State, Traits
from metalearn_cli.engine.episodes import Learner, answered, trained

WAY, SHOT, QUERY, SIDE = 2, 2, 3, 16


class OfMaps:
    """Compares maps [C, H, W], weighted by a tensor of its own."""

    traits = Traits(sees="maps")

    def init(self, net: Network, way: int) -> Params:
        return {"weight": torch.rand(net.maps_shape)}

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        means, _ = class_means(own["weight"] * x, y, way)
        return {"prototypes": means.flatten(1)}

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        return -square_distances((own["weight"] * x).flatten(1), state["prototypes"])


class OfItems(ProtoNet):
    """Runs the network itself: on the support set when it adapts, on the queries when it answers."""

    traits = Traits(sees="items")

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        return super().adapt(net, own, net.features(net.params, x), y, way)

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        return super().predict(net, own, state, net.features(net.params, x))


ALGORITHMS = [Maml(0.1), ProtoNet(), NearestCentroid(), FromScratch(steps=2), OfMaps(), OfItems()]
EACH = pytest.mark.parametrize("algorithm", ALGORITHMS, ids=lambda a: type(a).__name__)


def conv(norm: str) -> Any:
    return lambda shape: Conv4(shape, hidden=4, norm=norm)


def learner(algorithm: Any, backbone: Any = None, normalisation: Any = "inductive") -> Learner:
    with seeded(0):
        backbone = (backbone or conv("batch"))((1, SIDE, SIDE))
        net = network(backbone, WAY if algorithm.traits.head else None)
        return Learner(algorithm, net, algorithm.init(net, WAY), WAY, normalisation)


def episode(seed: int = 0) -> Episode:
    with seeded(seed):
        x = torch.rand(WAY * (SHOT + QUERY), 1, SIDE, SIDE)
    s = WAY * SHOT
    return Episode(x[:s], torch.arange(s) % WAY, x[s:], torch.arange(WAY * QUERY) % WAY)


def answers(algorithm: Any, backbone: Any, normalisation: str, task: Episode) -> Tensor:
    with torch.no_grad():
        found = answered(learner(algorithm, backbone, normalisation), *task[:3])
        assert torch.equal(found, trained(learner(algorithm, backbone, normalisation), task).logits)
    return found


def with_other_queries(task: Episode) -> Episode:
    """Return the task with all queries but the first exchanged."""
    with seeded(1):
        others = 0.5 + torch.rand_like(task.query_x[1:])
    return task._replace(query_x=torch.cat([task.query_x[:1], others]))


@EACH
def test_inductive_answers_do_not_depend_on_other_queries(algorithm):
    task = episode()
    one, two = (answers(algorithm, conv("batch"), "inductive", t) for t in (task, with_other_queries(task)))
    torch.testing.assert_close(one[0], two[0])
    assert not torch.allclose(one[1], two[1], atol=1e-3)
    alone = task._replace(query_x=task.query_x[:1], query_y=task.query_y[:1])
    torch.testing.assert_close(answers(algorithm, conv("batch"), "inductive", alone)[0], one[0])


@EACH
def test_transductive_answers_do(algorithm):
    task = episode()
    one, two = (answers(algorithm, conv("batch"), "transductive", t) for t in (task, with_other_queries(task)))
    assert not torch.allclose(one[0], two[0], atol=1e-3)


@pytest.mark.parametrize("backbone", [conv("group"), Mlp], ids=["group norm", "mlp"])
@EACH
def test_protocols_agree_without_batch_statistics(algorithm, backbone):
    if algorithm.traits.sees == "maps" and backbone is Mlp:
        return  # an mlp has none
    one, two = (answers(algorithm, backbone, p, episode()) for p in ("transductive", "inductive"))
    torch.testing.assert_close(one, two)


def test_support_set_itself_is_seen_the_same_way_in_both_protocols():
    x = episode().support_x
    net = learner(ProtoNet()).net
    torch.testing.assert_close(net.features(net.params, x), net.under(x).features(net.params, x))
    torch.testing.assert_close(net.maps(net.params, x), net.under(x).maps(net.params, x))


class Watched(ProtoNet):
    """Keeps what it gets."""

    def __init__(self, sees: str) -> None:
        self.traits = Traits(sees=sees)  # type: ignore[arg-type]
        self.got: list[Tensor] = []

    def adapt(self, net: Network, own: Params, x: Tensor, y: Tensor, way: int) -> State:
        self.got.append(x)
        return super().adapt(net, own, x.flatten(1), y, way)

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        self.got.append(x)
        return super().predict(net, own, state, x.flatten(1))


@pytest.mark.parametrize("normalisation", ["transductive", "inductive"])
@pytest.mark.parametrize("call", [trained, lambda one, task: answered(one, *task[:3])], ids=["trained", "answered"])
def test_support_and_queries_are_embedded_together(normalisation, call):
    """By the statistics of all of them, or of the support set."""
    task = episode()
    for sees in ("features", "maps"):
        one = learner(Watched(sees), normalisation=normalisation)
        call(one, task)
        run = getattr(one.net, sees)
        whole = torch.cat([task.support_x, task.query_x])
        embedded = run(one.net.params, whole, reference=len(task.support_x) if normalisation == "inductive" else None)
        assert torch.equal(torch.cat(one.algorithm.got), embedded)
        assert [len(x) for x in one.algorithm.got] == [WAY * SHOT, WAY * QUERY]
    one = learner(Watched("items"), normalisation=normalisation)
    call(one, task)
    assert [got is x for got, x in zip(one.algorithm.got, (task.support_x, task.query_x), strict=True)] == [True, True]


def test_a_backbone_without_batch_statistics_is_asked_for_no_reference():
    seen: list[Any] = []
    one = learner(ProtoNet(), Mlp)
    features = one.net.features
    net = one.net._replace(features=lambda p, x, reference=None: seen.append(reference) or features(p, x, reference))
    answered(one._replace(net=net), *episode()[:3])
    assert seen == [None]


@EACH
def test_labels_of_queries_reach_no_answer(algorithm):
    """In training they make the loss; `answered` has no argument for them, and `episode` is not called."""
    task = episode()
    other = task._replace(query_y=1 - task.query_y)
    one = learner(algorithm)
    losses = [trained(one, t).loss for t in (task, other)]
    assert losses[0] != losses[1]
    assert torch.equal(trained(one, task).logits, trained(one, other).logits)


class Peeking(ProtoNet):
    """Has an episode of its own in training, which knows the answers."""

    def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
        logits = 9.0 * nn.functional.one_hot(episode.query_y, way)
        return EpisodeOutput(task_loss(logits, episode.query_y) + own["bonus"], logits)

    def init(self, net: Network, way: int) -> Params:
        return {"bonus": torch.ones(())}


def test_a_learners_own_episode_is_for_training_alone():
    task = episode()
    one = learner(Peeking())
    assert trained(one, task).logits.argmax(1).equal(task.query_y) and trained(one, task).loss > 1
    torch.testing.assert_close(answered(one, *task[:3]), answered(learner(ProtoNet()), *task[:3]))


def test_a_learners_own_episode_gets_features_too():
    class Watching(Peeking):
        def episode(self, net: Network, own: Params, episode: Episode, way: int) -> EpisodeOutput:
            assert episode.support_x.shape == (WAY * SHOT, net.out_dim) == (4, 4)
            assert episode.query_x.shape == (WAY * QUERY, net.out_dim)
            return super().episode(net, own, episode, way)

    trained(learner(Watching()), episode())


def test_loss_is_that_of_the_answers():
    task = episode()
    output = trained(learner(ProtoNet()), task)
    torch.testing.assert_close(output.loss, task_loss(output.logits, task.query_y))


def test_own_tensors_get_gradients_and_are_exchanged_by_name():
    one, task = learner(OfMaps()), episode()
    assert one.tensors.keys() == {*one.net.params, "learner.weight"}
    tensors = {name: p.detach().requires_grad_() for name, p in one.tensors.items()}
    trained(one.of(tensors), task).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in tensors.values())
    doubled = {**one.tensors, "learner.weight": 2 * one.own["weight"]}
    torch.testing.assert_close(answered(one.of(doubled), *task[:3]), 4 * answered(one, *task[:3]))


class Running(nn.Module):
    """A backbone with running statistics: constants."""

    batch_statistics, out_dim = False, 8

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.BatchNorm1d(8))])

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks[0](x)


def test_constants_are_exchanged_with_the_other_tensors():
    one, task = learner(ProtoNet(), Running), episode()
    assert one.net.constants.keys() < one.tensors.keys()
    shift = {name: t + 1 if name.endswith("running_mean") else t for name, t in one.tensors.items()}
    scale = {name: 4 * t if name.endswith("running_var") else t for name, t in one.tensors.items()}
    before = answered(one, *task[:3])
    torch.testing.assert_close(answered(one.of(shift), *task[:3]), before, rtol=1e-4, atol=1e-5)  # distances stay
    torch.testing.assert_close(answered(one.of(scale), *task[:3]), before / 4, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(answered(one, *task[:3]), before)


class Annealed(ProtoNet):
    """Its logits grow as training goes on."""

    def __init__(self, scale: float = 0.0) -> None:
        self.scale = scale

    def at(self, progress: float) -> Annealed:
        return Annealed(progress)

    def predict(self, net: Network, own: Params, state: State, x: Tensor) -> Tensor:
        return self.scale * super().predict(net, own, state, x)


def test_a_learner_anneals_by_the_share_of_training():
    task, plain = episode(), answered(learner(ProtoNet()), *episode()[:3])
    one = learner(Annealed())
    for progress in (0.0, 0.5, 1.0):
        torch.testing.assert_close(answered(one.at(progress), *task[:3]), progress * plain)
    steady = learner(ProtoNet())
    assert steady.at(0.5) is steady
