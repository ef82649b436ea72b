from __future__ import annotations

import torch
from torch.nn.functional import conv2d, linear

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.core.network import network
from metalearn_cli.methods.lora import Lora

SECOND = "backbone.blocks.1.weight"


def moved(own):
    """Return a method's tensors, away from their initial values."""
    return {name: (tensor + 0.3).double() for name, tensor in own.items()}


def test_a_layer_answers_as_its_frozen_weights_and_the_two_factors(net, batch):
    """Equation 3, for a linear layer: the factors are applied to the layer's input one after the other."""
    method = Lora(rank=2, alpha=3.0)
    own = moved(method.init(net, {}))
    weight = method.merged(net, own)[SECOND]
    x = batch["x"][:, :3]
    expected = linear(x, net.params[SECOND]) + 3 / 2 * linear(linear(x, own[f"{SECOND}.a"]), own[f"{SECOND}.b"])
    torch.testing.assert_close(linear(x, weight), expected)


def test_a_convolution_answers_as_two_convolutions_of_its_rank():
    net = network(Conv4((1, 16, 16), hidden=4).double(), outputs=3)
    method = Lora(rank=2, alpha=1.0)
    own = moved(method.init(net, {}))
    name = next(n for n, p in net.params.items() if p.shape == (4, 4, 3, 3))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    inner = conv2d(x, own[f"{name}.a"].view(2, 4, 3, 3))
    expected = conv2d(x, net.params[name]) + conv2d(inner, own[f"{name}.b"].view(4, 2, 1, 1)) / 2
    torch.testing.assert_close(conv2d(x, method.merged(net, own)[name]), expected)
    vectors = {name for name, p in net.params.items() if p.ndim == 1}
    assert vectors.isdisjoint(name.rpartition(".")[0] for name in own)


def test_the_rank_is_at_most_that_of_the_matrix(net):
    own = Lora(rank=9).init(net, {})
    assert {tuple(tensor.shape) for tensor in own.values()} == {(3, 4), (3, 3)}
    assert all(tensor.any() == name.endswith(".a") for name, tensor in own.items())


def test_only_the_classifier_of_the_network_learns(net):
    assert Lora().rates(net) == {"head.weight": 1.0, "head.bias": 1.0}
