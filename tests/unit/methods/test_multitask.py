from __future__ import annotations

import torch
from torch.nn.functional import cross_entropy

from metalearn_cli.methods.multitask import Multitask

SIZES = {"second": 2, "third": 6}


def test_loss_is_the_sum_of_those_of_networks_that_share_a_backbone(net, batch, same):
    method = Multitask(weight=0.4)
    own = {name: (torch.rand(t.shape) + t).double().requires_grad_() for name, t in method.init(net, SIZES).items()}
    pairs = {name: (batch["unlabelled"] + classes, torch.arange(8) % classes) for name, classes in SIZES.items()}
    loss, logits = method.loss(net, own, {}, {**batch, "also": pairs})
    torch.testing.assert_close(logits, net.output(net.params, batch["x"]))
    expected = cross_entropy(net.output(net.params, batch["x"]), batch["y"])
    for name, (x, y) in pairs.items():
        head = {f"head.{part}": own[f"{name}.{part}"] for part in ("weight", "bias")}
        expected = expected + 0.4 * cross_entropy(net.output(net.params | head, x), y)
    same(loss, expected, net.params | own)


def test_each_data_set_has_a_classifier_of_zeros(net):
    own = Multitask().init(net, SIZES)
    shapes = {"second.weight": (2, 3), "second.bias": (2,), "third.weight": (6, 3), "third.bias": (6,)}
    assert {name: tuple(t.shape) for name, t in own.items()} == shapes
    assert not any(t.any() for t in own.values())
