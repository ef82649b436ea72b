"""What every backbone must be: a stateless, twice differentiable function of its tensors and a batch of items.

The backbones are found by listing configs/backbone, so that a new one is tested by being there.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from torch import nn

from metalearn_cli.core.build import build
from metalearn_cli.core.functional import pure
from metalearn_cli.core.random import seeded

FOLDER = Path(__file__).parents[2] / "configs" / "backbone"
SHAPE = (1, 16, 16)
ITEMS = 6


@pytest.fixture(params=sorted(path.stem for path in FOLDER.glob("*.yaml")))
def backbone(request: pytest.FixtureRequest) -> nn.Module:
    """A backbone as configured, but narrow, in float64."""
    settings = OmegaConf.to_container(OmegaConf.load(FOLDER / f"{request.param}.yaml"))
    with seeded(0, request.param):
        return build(settings | {"hidden": 8}, "backbone", shape=SHAPE).double()


@pytest.fixture
def x() -> torch.Tensor:
    with seeded(0, "items"):
        return torch.rand(ITEMS, *SHAPE, dtype=torch.float64)


def test_maps_items_to_vectors_of_the_size_it_says(backbone: nn.Module, x: torch.Tensor) -> None:
    assert isinstance(backbone.out_dim, int)
    assert backbone(x).shape == (ITEMS, backbone.out_dim)


def test_has_blocks_and_no_hidden_state(backbone: nn.Module) -> None:
    assert not list(backbone.buffers())
    names = [name for name, _ in backbone.named_parameters()]
    assert all(re.match(r"blocks\.\d+\.", name) for name in names)
    assert {int(name.split(".")[1]) for name in names} == set(range(len(backbone.blocks)))


def test_every_tensor_learns(backbone: nn.Module, x: torch.Tensor) -> None:
    with seeded(0, "direction"):
        (backbone(x) * torch.randn(ITEMS, backbone.out_dim)).sum().backward()
    # a gradient that is zero in exact arithmetic is rounding noise here
    assert [n for n, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().max() > 1e-9] == []


def test_second_derivatives_are_those_of_finite_differences(backbone: nn.Module, x: torch.Tensor) -> None:
    apply, params = pure(backbone)

    def output(x: torch.Tensor, *tensors: torch.Tensor) -> torch.Tensor:
        return apply(dict(zip(params, tensors, strict=True)), x)

    # fast mode compares along random directions, instead of entry by entry
    assert torch.autograd.gradgradcheck(output, (x.requires_grad_(), *params.values()), fast_mode=True)


def test_vmap_over_tensors_and_items_equals_a_loop(backbone: nn.Module, x: torch.Tensor) -> None:
    apply, params = pure(backbone)
    tasks = {name: torch.stack([p, 1.1 * p + 0.1]) for name, p in params.items()}
    xs = torch.stack([x, x.flip(0) ** 2])
    loop = torch.stack([apply({name: p[t] for name, p in tasks.items()}, xs[t]) for t in range(2)])
    torch.testing.assert_close(torch.vmap(apply)(tasks, xs), loop)


def test_says_whether_an_item_depends_on_the_others(backbone: nn.Module, x: torch.Tensor) -> None:
    changed = torch.cat([x[:-1], 1 - x[-1:]])
    same = torch.allclose(backbone(x)[:-1], backbone(changed)[:-1], rtol=1e-9, atol=1e-12)
    assert same is not backbone.batch_statistics


def test_with_a_reference_an_item_depends_on_the_reference_alone(backbone: nn.Module, x: torch.Tensor) -> None:
    k = 4
    together = backbone(x, reference=k)
    torch.testing.assert_close(together[:k], backbone(x[:k]))
    for j in range(k, ITEMS):
        torch.testing.assert_close(together[j], backbone(torch.cat([x[:k], x[j : j + 1]]), reference=k)[k])
