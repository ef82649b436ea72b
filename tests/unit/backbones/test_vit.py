from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.vit import Vit
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError


def test_a_patch_becomes_one_vector_at_its_place() -> None:
    torch.manual_seed(0)
    network = Vit((2, 4, 6), patch=2, hidden=4, layers=1)
    x = torch.rand(1, 2, 4, 6)
    with torch.no_grad():
        network.patches.places.zero_()
    expected = network.patches.proj(x[0, :, 2:4, 4:6].flatten())  # second row, third column
    torch.testing.assert_close(network.patches(x)[0, 5], expected)
    assert network.maps(x).shape == (1, *network.maps_shape) == (1, 4, 2, 3)
    torch.testing.assert_close(network(x), network.maps(x).mean((2, 3)))


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        (
            {"patch": 16},
            (1, 28, 28),
            r"^backbone\.patch: patch 16 does not divide .* 28 x 28 .*; choose one of 2, 4, 7, 14",
        ),
        ({"heads": 3}, (1, 28, 28), r"^backbone\.heads: heads 3 must divide hidden 64"),
        ({}, (28,), r"which vit needs; use backbone=mlp"),
    ],
)
def test_refuses(settings: dict, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "metalearn_cli.backbones.vit.Vit", **settings}, "backbone", shape=shape)
