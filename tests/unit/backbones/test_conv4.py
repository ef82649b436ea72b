from __future__ import annotations

import pytest
import torch
from torch.nn.functional import batch_norm, conv2d, max_pool2d, relu

from metalearn_cli.backbones.conv4 import Conv4
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError


@pytest.mark.parametrize(
    ("shape", "pool", "out_dim"),
    [
        ((1, 28, 28), "max", 8),
        ((1, 28, 28), "stride", 8 * 2 * 2),
        ((3, 84, 84), "max", 8 * 5 * 5),
        ((1, 33, 17), "max", 8 * 2 * 1),
        ((1, 33, 17), "stride", 8 * 3 * 2),
        ((1, 5, 1), "stride", 8),
    ],
)
def test_feature_size(shape: tuple[int, ...], pool: str, out_dim: int) -> None:
    network = Conv4(shape, hidden=8, pool=pool)
    assert network.out_dim == out_dim
    assert network(torch.rand(2, *shape)).shape == (2, out_dim)


def test_max_pooling_equals_the_textbook_order() -> None:
    torch.manual_seed(0)
    network = Conv4((1, 16, 16), hidden=4)
    x = torch.rand(3, 1, 16, 16)
    expected = x
    for block in network.blocks:
        expected = batch_norm(conv2d(expected, block.conv.weight, padding=1), None, None, training=True)
        expected = max_pool2d(relu(expected), 2)
    torch.testing.assert_close(network(x), expected.flatten(1))


def test_strides_are_those_of_tensorflow_same_padding_on_odd_sizes() -> None:
    # 7 -> 4: windows centred on pixels 0, 2, 4, 6
    network = Conv4((1, 7, 7), hidden=1, pool="stride", norm="none")
    block = network.blocks[0]
    with torch.no_grad():
        block.conv.weight.zero_()[0, 0, 1, 1] = 1.0
        block.conv.bias.zero_()
    x = torch.arange(49.0).reshape(1, 1, 7, 7)
    assert torch.equal(block(x), x[..., ::2, ::2])


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
def test_a_convolution_has_a_bias_unless_batch_norm_would_cancel_it(norm: str) -> None:
    network = Conv4((1, 16, 16), hidden=6, norm=norm)
    assert all((block.conv.bias is None) is (norm == "batch") for block in network.blocks)
    assert network.batch_statistics is (norm == "batch")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"shape": (100,)}, r"^shape \(100,\) is not an image"),
        ({"shape": (1, 15, 28)}, r"^shape \(1, 15, 28\) is too small"),
    ],
)
def test_refuses(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Conv4(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden": 0}, r"^backbone\.hidden: must be a whole number >= 1, got 0"),
        ({"pool": "mean"}, r"^backbone\.pool: must be one of max, stride, got 'mean'"),
        ({"norm": "layer"}, r"^backbone\.norm: must be one of batch, group, none, got 'layer'"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "metalearn_cli.backbones.conv4.Conv4", **settings}, "backbone", shape=(1, 28, 28))


@pytest.mark.parametrize(("shape", "pool"), [((1, 28, 28), "max"), ((3, 33, 17), "stride")])
def test_features_are_the_last_maps_flattened(shape: tuple[int, ...], pool: str) -> None:
    network, x = Conv4(shape, hidden=8, pool=pool), torch.rand(2, *shape)
    maps = network.maps(x)
    assert maps.shape == (2, *network.maps_shape)
    assert torch.equal(network(x), maps.flatten(1))
