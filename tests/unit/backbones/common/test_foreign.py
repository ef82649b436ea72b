from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import weight_norm

from metalearn_cli.backbones.common.foreign import (
    blocks_of,
    differentiable,
    drop_unused,
    torchvision_fault,
    undifferentiable,
)


class Encoder(nn.Module):
    """An embedding, two layers and a norm; a pooler and a token that features do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, 4, padding_idx=0)
        self.token = nn.Parameter(torch.ones(4))
        self.layers = nn.ModuleList([weight_norm(nn.Linear(4, 4)), nn.Linear(4, 4)])
        self.norm = nn.LayerNorm(4)
        self.pooler = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embedding(x)
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


X = torch.tensor([[1, 2, 0]])


def test_what_features_do_not_depend_on_becomes_a_buffer() -> None:
    encoder = Encoder()
    left = drop_unused(encoder, encoder(X))
    assert left == {name for name, _ in encoder.named_parameters()}
    assert {name for name, _ in encoder.named_buffers()} == {"token", "pooler.weight", "pooler.bias"}


def test_blocks_are_the_layers_and_what_stands_before_and_after_them() -> None:
    encoder = Encoder()
    drop_unused(encoder, encoder(X))
    names = {id(p): name.partition(".")[0] for name, p in encoder.named_parameters()}
    assert [{names[id(p)] for p in block} for block in blocks_of(encoder)] == [
        {"embedding"},
        {"layers"},
        {"layers"},
        {"norm"},
    ]


def test_a_network_without_layers_is_one_block() -> None:
    (block,) = blocks_of(nn.Linear(2, 2))
    assert len(block) == 2


def test_what_torch_cannot_batch_is_replaced_and_changes_nothing() -> None:
    encoder = Encoder()
    before = encoder(X)
    differentiable(encoder)
    torch.testing.assert_close(encoder(X), before)
    assert "layers.0.weight" in dict(encoder.named_parameters())
    assert encoder.embedding.padding_idx is None


def test_a_mean_over_places_stays_one() -> None:
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((1, 1)))
    x = torch.rand(2, 3, 4, 5)
    before = pooled(x)
    differentiable(pooled)
    torch.testing.assert_close(pooled(x), before)
    apart = x.unflatten(0, (2, 1)).permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)  # channels last
    torch.testing.assert_close(torch.vmap(pooled)(apart)[:, 0], before)  # without torch's warning


def test_a_hard_sigmoid_has_a_second_derivative() -> None:
    hard, x = nn.Hardsigmoid(), torch.linspace(-4, 4, 9, requires_grad=True)
    before = hard(x)
    differentiable(hard)
    torch.testing.assert_close(hard(x), before)
    (slope,) = torch.autograd.grad(hard(x).square().sum(), x, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), x)
    torch.testing.assert_close(curvature, torch.where(x.abs() < 3, 2 / 36, 0.0))


def test_tells_what_has_no_right_second_derivative() -> None:
    x = torch.rand(2, 3, 4, 4)
    with undifferentiable() as found:
        nn.BatchNorm2d(3).eval()(x)
        nn.GroupNorm(1, 3)(x)
    assert found == set()
    with undifferentiable() as found:
        functional.batch_norm(x, None, None, training=True)
        nn.InstanceNorm2d(3)(x)
        functional.scaled_dot_product_attention(x, x, x)
    assert found == {"batch_norm", "instance_norm", "scaled_dot_product_attention"}


@pytest.fixture
def torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Return the file of a package torchvision, which the tests write."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    torchvision_fault.cache_clear()
    (tmp_path / "torchvision").mkdir()
    yield tmp_path / "torchvision" / "__init__.py"
    torchvision_fault.cache_clear()
    sys.modules.pop("torchvision", None)


def test_a_broken_torchvision_is_named_and_hidden(torchvision: Path) -> None:
    torchvision.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    assert "does not fit torch" in torchvision_fault()
    assert "operator torchvision::nms does not exist" in torchvision_fault()
    assert find_spec("torchvision") is None


def test_a_whole_torchvision_stays(torchvision: Path) -> None:
    torchvision.write_text("")
    assert torchvision_fault() == ""
    assert find_spec("torchvision") is not None
