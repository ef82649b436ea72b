from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.resnet12 import Resnet12, _without_squares
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError


def test_widths_and_size_are_those_of_few_shot_learning() -> None:
    with torch.device("meta"):
        network = Resnet12((3, 84, 84))
    assert [block.past.out_channels for block in network.blocks] == [64, 160, 320, 640]
    assert sum(p.numel() for p in network.parameters()) == 12_424_320  # as in the code of Lee et al.
    assert (network.out_dim, network.maps_shape) == (640, (640, 5, 5))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 33)])
def test_features_are_the_mean_of_the_last_maps(shape: tuple[int, ...]) -> None:
    network, x = Resnet12(shape, hidden=2), torch.rand(3, *shape)
    assert network.maps(x).shape == (3, *network.maps_shape)
    torch.testing.assert_close(network(x), network.maps(x).mean((2, 3)))


def test_dropblock_sets_squares_to_zero_in_training_alone() -> None:
    torch.manual_seed(0)
    x = torch.ones(20, 10, 20, 20)
    y = _without_squares(x, 0.2)
    assert y.mean().item() == pytest.approx(1)
    assert (y == 0).float().mean().item() == pytest.approx(0.2, abs=0.03)
    gone = torch.nn.functional.unfold((y == 0).float().flatten(0, 1)[:, None], 5).mean(1) == 1
    assert gone.any()  # somewhere 5 x 5 values lie together

    network, images = Resnet12((1, 16, 16), hidden=2, norm="group", dropblock=0.5), torch.rand(2, 1, 16, 16)
    assert not torch.equal(network(images), network(images))
    assert torch.equal(network.eval()(images), network(images))


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"dropblock": 1.0}, (1, 16, 16), r"^backbone\.dropblock: must be a number >= 0 and < 1"),
        ({}, (1, 15, 16), r"shape \(1, 15, 16\) is too small: four poolings need 16 or more pixels a side"),
        ({}, (2, 16), r"which resnet12 needs; use backbone=cnn1d"),
    ],
)
def test_refuses(settings: dict, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "metalearn_cli.backbones.resnet12.Resnet12", **settings}, "backbone", shape=shape)
