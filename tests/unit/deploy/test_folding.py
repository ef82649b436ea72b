"""A folded backbone gives the features of the batch statistics that it was folded with, for one item as for many."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from contract.components import specs
from torch import nn

from metalearn_cli.backbones.common.norms import BatchNorm, BatchNormReluPool
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import UserError
from metalearn_cli.core.items import Facts, joined
from metalearn_cli.core.network import moments, network, reference
from metalearn_cli.core.random import seeded
from metalearn_cli.deploy.folding import FixedNorm, folded, statistics_of

IMAGES, SERIES = Facts("image", (1, 16, 16), "unit", 2), Facts("vector", (2, 40), "real", 2)
MIXED = Facts("mixed", {"a": (2, 40), "b": (1, 16, 16)}, {"a": "real", "b": "unit"}, 2)
OF = {"cnn1d": SERIES, "mixed": MIXED}
BATCH = {
    "conv4": {"hidden": 4},
    "resnet12": {"hidden": 4, "norm": "batch"},
    "resnet18": {"hidden": 4, "norm": "batch"},
    "cnn1d": {"hidden": 4, "norm": "batch"},
    "mixed": {},
}
"""Every backbone that can have batch statistics."""


def made(name: str, **settings: Any) -> nn.Module:
    facts = OF.get(name, IMAGES)
    with seeded(0, name):
        module = build(specs("backbone")[name] | settings, "backbone", facts=facts, shape=facts.shape)
        for layer in module.modules():
            if isinstance(layer, BatchNorm | BatchNormReluPool):  # as after some training, with weights of both signs
                layer.weight.data.normal_()
                layer.bias.data.normal_()
    return module.double()


def items(name: str, count: int, seed: int) -> Any:
    facts = OF.get(name, IMAGES)
    with seeded(seed, "items"):
        if not isinstance(facts.shape, dict):
            return torch.rand(count, *facts.shape, dtype=torch.float64)
        return {part: torch.rand(count, *shape, dtype=torch.float64) for part, shape in facts.shape.items()}


@pytest.mark.parametrize("name", BATCH)
def test_a_folded_backbone_is_one_under_the_reference_items(name):
    module = made(name, **BATCH[name])
    assert module.batch_statistics
    support, query = items(name, 6, 0), items(name, 5, 1)
    net = network(module)
    wanted = net.features(net.params, joined([support, query]), reference=6)
    found = folded(module, statistics_of(module, support))
    with torch.no_grad():
        torch.testing.assert_close(found(support), wanted[:6], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(found(query), wanted[6:], rtol=1e-9, atol=1e-9)


def test_every_backbone_that_can_have_batch_statistics_is_tested():
    named = {name for name, spec in specs("backbone").items() if spec.get("norm") == "batch"}
    assert named - {"resnet50"} <= BATCH.keys()  # resnet50 shares its layers with resnet18


@pytest.mark.parametrize("pool", ["max", "stride"])
def test_maps_are_folded_too(pool):
    module = made("conv4", hidden=4, pool=pool)
    x = items("conv4", 5, 0)
    with torch.no_grad():
        found = folded(module, statistics_of(module, x))
        torch.testing.assert_close(found.maps(x), module.eval().maps(x), rtol=1e-9, atol=1e-9)


def test_an_answer_does_not_depend_on_the_other_items():
    module = made("conv4", hidden=4)
    found, x = folded(module, statistics_of(module, items("conv4", 5, 0))), items("conv4", 4, 1)
    with torch.no_grad():
        torch.testing.assert_close(torch.cat([found(one[None]) for one in x]), found(x), rtol=1e-12, atol=1e-12)
        assert not torch.allclose(module.eval()(x[:2]), module(x)[:2])  # as it does otherwise


def test_the_backbone_itself_does_not_change():
    module = made("conv4", hidden=4)
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    found = folded(module, statistics_of(module, items("conv4", 5, 0)))
    assert not any(isinstance(layer, FixedNorm) for layer in module.modules())
    assert not any(p.requires_grad for p in found.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_a_backbone_without_batch_statistics_stays_as_it_is():
    module, x = made("conv4", hidden=4, norm="group"), items("conv4", 3, 0)
    with torch.no_grad():
        assert torch.equal(folded(module, {})(x), module.eval()(x))


class OwnNorm(nn.Module):
    """A backbone of somebody else, whose own layer normalises by the batch."""

    batch_statistics, out_dim = True, 6

    @property
    def blocks(self):
        return [self]

    def forward(self, x):
        mean, variance = moments(x[: reference()])
        return (x - mean) / (variance + 1).sqrt()


def test_a_layer_that_cannot_be_folded_is_refused():
    with pytest.raises(UserError, match=r"OwnNorm has a layer that depends on the batch .*backbones\.common\.norms"):
        statistics_of(OwnNorm(), torch.randn(5, 6))
