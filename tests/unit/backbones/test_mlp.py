from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.mlp import Mlp
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError


def test_takes_items_of_any_shape() -> None:
    assert Mlp((1,))(torch.rand(3, 1)).shape == (3, 40)
    assert Mlp((3, 5, 5), hidden=7, layers=1)(torch.rand(2, 3, 5, 5)).shape == (2, 7)


def test_layers_are_linear_maps_and_relu() -> None:
    torch.manual_seed(0)
    network = Mlp((4,), hidden=6, layers=3)
    expected = x = torch.randn(5, 4)
    for block in network.blocks:
        expected = (expected @ block.weight.T + block.bias).clamp(min=0)
    assert len(network.blocks) == 3
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize("name", ["hidden", "layers"])
def test_refuses(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"^backbone\.{name}: must be a whole number >= 1, got 0"):
        build({"_target_": "metalearn_cli.backbones.mlp.Mlp", name: 0}, "backbone", shape=(4,))
