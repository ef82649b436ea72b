from __future__ import annotations

import pytest
import torch

from metalearn_cli.backbones.cnn1d import Cnn1d
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError


@pytest.mark.parametrize("shape", [(1,), (9,), (3, 1), (2, 40)])
def test_takes_series_of_any_length_with_or_without_channels(shape: tuple[int, ...]) -> None:
    assert Cnn1d(shape, hidden=6, norm="none")(torch.randn(4, *shape)).shape == (4, 6)


def test_a_series_without_channels_has_one() -> None:
    torch.manual_seed(0)
    network, x = Cnn1d((9,), hidden=6), torch.randn(4, 9)
    torch.testing.assert_close(network(x), network(x[:, None]))


def test_blocks_are_convolution_normalisation_and_relu() -> None:
    torch.manual_seed(0)
    network, x = Cnn1d((2, 16), hidden=3, layers=1, kernel=5, stride=2), torch.randn(4, 2, 16)
    block = network.blocks[0]
    y = torch.nn.functional.conv1d(x, block.conv.weight, stride=2, padding=2)
    expected = torch.nn.functional.batch_norm(y, None, None, training=True).relu().mean(2)
    torch.testing.assert_close(network(x), expected)
    assert network.batch_statistics


def test_images_are_refused_with_what_takes_them() -> None:
    with pytest.raises(ConfigError, match=r"is not a series \[C, L\] or \[L\], which cnn1d needs; use backbone=conv4"):
        build({"_target_": "metalearn_cli.backbones.cnn1d.Cnn1d"}, "backbone", shape=(1, 8, 8))
