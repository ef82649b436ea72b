"""Networks and learners as functions of the seed, and what they cannot do."""

from __future__ import annotations

import pytest
import torch
from conftest import on_cpu
from probes.algorithms.of_maps import OfMaps
from probes.algorithms.scaled import Scaled

from metalearn_cli.algorithms.maml import Maml
from metalearn_cli.algorithms.protonet import ProtoNet
from metalearn_cli.core.errors import ConfigError
from metalearn_cli.core.items import Facts
from metalearn_cli.core.types import Episode, Traits
from metalearn_cli.stages.learner import check_learner, fresh_backbone, fresh_learner, fresh_network, try_learner

MLP = {"_target_": "metalearn_cli.backbones.mlp.Mlp", "hidden": 8}
CONV4 = {"_target_": "metalearn_cli.backbones.conv4.Conv4", "hidden": 4}


def facts(*shape):
    return Facts("image" if len(shape) == 3 else "vector", shape, "real", 2)


def net(backbone=MLP, shape=(6,), outputs=None, seed=0, runtime=None):
    return fresh_network(backbone, facts(*shape), outputs, seed, runtime or on_cpu())


def scale(seed, of_network=0):
    return fresh_learner(Scaled(), net(seed=of_network), 2, None, seed).own["scale"]


def test_own_tensors_are_drawn_under_a_seed_of_their_own():
    torch.manual_seed(1)
    one = scale(0)
    torch.manual_seed(2)
    before = torch.get_rng_state()
    assert torch.equal(scale(0), one)
    assert torch.equal(torch.get_rng_state(), before)  # and nothing else is drawn otherwise for it
    assert not torch.equal(scale(1), one)
    assert torch.equal(scale(0, of_network=1), one)  # whatever the network's tensors are
    assert one.is_leaf and one.requires_grad


def test_same_backbone_with_and_without_a_head():
    one, two, other = net(), net(outputs=3), net(seed=1)
    for name, p in one.params.items():
        assert torch.equal(p, two.params[name])
    assert any(not torch.equal(p, other.params[name]) for name, p in one.params.items())
    assert two.head_names and not one.head_names
    module = fresh_backbone(MLP, facts(6), 0)
    assert all(torch.equal(p, one.params[f"backbone.{name}"]) for name, p in module.named_parameters())


def test_functions_compute_in_the_runtimes_precision():
    runtime = on_cpu(precision="bf16-mixed")
    plain, mixed = net(), net(runtime=runtime)
    x = torch.randn(3, 6)
    exact, rounded = (n.features(n.params, x) for n in (plain, mixed))
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    torch.testing.assert_close(exact, rounded, rtol=0.1, atol=0.1)


def test_maps_that_are_wanted_but_not_there():
    with pytest.raises(ConfigError) as caught:
        fresh_learner(OfMaps(), net(), 2, None, 0)
    (problem,) = caught.value.problems
    assert problem == ("backbone", "OfMaps compares feature maps, which this backbone does not have; use conv4", "")
    assert fresh_learner(OfMaps(), net(CONV4, (1, 16, 16)), 2, None, 0).own == {}


def test_without_batch_statistics_there_is_no_protocol_to_choose():
    assert fresh_learner(ProtoNet(), net(), 2, None, 0).normalisation == "transductive"
    assert fresh_learner(ProtoNet(), net(), 2, "inductive", 0).normalisation == "inductive"


class Numbers(ProtoNet):
    traits = Traits(targets=frozenset({"numbers"}))


@pytest.mark.parametrize(
    ("algorithm", "regression", "precision", "key", "told"),
    [
        (
            ProtoNet(),
            True,
            "32-true",
            "algorithm",
            "ProtoNet classifies, but this data's targets are numbers",
        ),
        (Numbers(), False, "32-true", "algorithm", "Numbers predicts numbers, but this data's targets are classes"),
        (Maml(), False, "16-mixed", "runtime.precision", "use bf16-mixed or 32-true"),
    ],
)
def test_what_a_learner_cannot_do(algorithm, regression, precision, key, told):
    (problem,) = check_learner(algorithm, facts(6)._replace(outputs=int(regression)), precision)
    assert problem.key == key and told in problem.message


@pytest.mark.parametrize(
    ("algorithm", "regression", "precision"),
    [(Maml(), True, "bf16-mixed"), (Maml(), False, "32-true"), (ProtoNet(), False, "16-mixed"), (Numbers(), True, "")],
)
def test_what_it_can(algorithm, regression, precision):
    assert check_learner(algorithm, facts(6)._replace(outputs=int(regression)), precision) == []


@pytest.mark.parametrize("shape", [(6,), (1, 16), {"a": (1, 16, 16)}])
def test_a_learner_of_maps_is_for_images(shape):
    (problem,) = check_learner(OfMaps(), facts(6)._replace(shape=shape), "32-true")
    told = "OfMaps compares feature maps, which only images have; use protonet, which takes any items"
    assert problem == ("algorithm", told, "")
    assert check_learner(OfMaps(), facts(1, 16, 16), "32-true") == []


def test_a_trait_that_there_is_not_is_refused():
    learner = Scaled()
    learner.traits = learner.traits._replace(sees="feature")
    with pytest.raises(ConfigError, match=r"Scaled\.traits\.sees must be one of items, features, maps, got 'feature'"):
        check_learner(learner, facts(6), "32-true")


def test_features_that_are_not_finite_are_refused():
    learner = fresh_learner(ProtoNet(), net(), 2, None, 0)
    y = torch.tensor([[0, 1]])
    episodes = Episode(torch.rand(1, 2, 6), y, torch.rand(1, 2, 6), y)
    try_learner(learner, episodes, on_cpu())
    with pytest.raises(ConfigError, match="features that are NaN or infinite"):
        try_learner(learner, episodes._replace(support_x=torch.full((1, 2, 6), torch.nan)), on_cpu())
