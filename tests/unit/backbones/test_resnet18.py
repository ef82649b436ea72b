from __future__ import annotations

import pytest
import torch
from torch import nn

from metalearn_cli.backbones.resnet18 import resnet18
from metalearn_cli.core.build import build
from metalearn_cli.core.errors import ConfigError


@pytest.mark.parametrize(
    ("stem", "shape", "maps_shape"),
    [
        ("small", (1, 28, 28), (32, 4, 4)),
        ("small", (3, 33, 17), (32, 5, 3)),
        ("large", (3, 84, 84), (32, 3, 3)),
        ("large", (3, 33, 64), (32, 2, 2)),
    ],
)
def test_feature_size(stem: str, shape: tuple[int, ...], maps_shape: tuple[int, ...]) -> None:
    network, x = resnet18(shape, hidden=4, stem=stem), torch.rand(2, *shape)
    assert network.maps(x).shape == (2, *maps_shape) == (2, *network.maps_shape)
    torch.testing.assert_close(network(x), network.maps(x).mean((2, 3)))
    assert network.out_dim == 32


def test_tensors_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        network = resnet18((3, 224, 224), stem="large", norm="running")
    assert sum(p.numel() for p in network.parameters()) == 11_689_512 - 513_000  # without its classifier
    stored = network.state_dict()
    assert len(stored) == 122 - 2
    assert stored["layer4.1.bn2.running_var"].shape == (512,)
    assert stored["layer2.0.downsample.0.weight"].shape == (128, 64, 1, 1)
    assert stored["layer2.0.downsample.1.num_batches_tracked"].shape == ()
    assert stored["conv1.weight"].shape == (64, 3, 7, 7)


@pytest.mark.parametrize("norm", ["batch", "running", "group", "none"])
def test_norm(norm: str) -> None:
    network = resnet18((1, 8, 8), hidden=2, norm=norm)
    assert network.batch_statistics is (norm == "batch")
    assert any(name.endswith("running_mean") for name, _ in network.named_buffers()) is (norm == "running")
    assert all((layer.bias is None) is (norm != "none") for layer in network.modules() if isinstance(layer, nn.Conv2d))


def test_statistics_of_the_batch_are_those_of_torch_in_training() -> None:
    torch.manual_seed(0)
    network, other = (resnet18((1, 8, 8), hidden=2, norm=norm) for norm in ("batch", "running"))
    other.load_state_dict(network.state_dict(), strict=False)
    x = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(network(x), other.train()(x))


@pytest.mark.parametrize(
    ("settings", "shape", "message"),
    [
        ({"stem": "tiny"}, (1, 8, 8), r"^backbone\.stem: must be one of small, large"),
        ({"norm": "layer"}, (1, 8, 8), r"^backbone\.norm: must be one of batch, running, group, none"),
        ({}, (8,), r"shape \(8,\) is not an image \[C, H, W\], which resnet18 needs; use backbone=mlp"),
    ],
)
def test_refuses(settings: dict, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build({"_target_": "metalearn_cli.backbones.resnet18.resnet18", **settings}, "backbone", shape=shape)
