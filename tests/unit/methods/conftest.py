"""What the tests of methods share."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.network import Network, Params, network
from metalearn_cli.core.random import seeded


def drawn(shapes: dict[str, Tensor], seed: int) -> Params:
    """Return random tensors of the same shapes that require gradients."""
    with seeded(seed):
        return {name: torch.randn(t.shape, dtype=torch.float64).requires_grad_() for name, t in shapes.items()}


@pytest.fixture
def net() -> Network:
    """A network of two layers of 3, for items of 4 numbers and 5 classes, in float64, with random tensors."""
    made = network(Mlp((4,), hidden=3, layers=2).double(), outputs=5)
    return made.of(drawn(made.params, 0))


@pytest.fixture
def start(net: Network) -> Params:
    """The network's tensors at the beginning of transfer: other random ones."""
    return drawn(net.params, 2)


@pytest.fixture
def batch() -> Params:
    """Eight labelled items, and as many without labels."""
    with seeded(1):
        x, other = torch.randn(2, 8, 4, dtype=torch.float64)
        return {"x": x, "y": torch.arange(8) % 5, "unlabelled": other}


@pytest.fixture
def same() -> Callable[[Tensor, Tensor, Params], None]:
    """Return a function that sees that two losses and their gradients are equal."""

    def check(found: Tensor, expected: Tensor, params: Params) -> None:
        torch.testing.assert_close(found, expected)
        assert found.item() != 0
        leaves = list(params.values())
        gradients = [torch.autograd.grad(loss, leaves, materialize_grads=True) for loss in (found, expected)]
        for name, one, two in zip(params, *gradients, strict=True):
            torch.testing.assert_close(one, two, msg=lambda text, name=name: f"{name}: {text}")

    return check
