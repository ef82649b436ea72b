from __future__ import annotations

import torch

from metalearn_cli.backbones.resnet50 import resnet50


def test_tensors_are_those_of_torchvision() -> None:
    with torch.device("meta"):
        network = resnet50((3, 224, 224), stem="large", norm="running")
    assert sum(p.numel() for p in network.parameters()) == 25_557_032 - 2_049_000  # without its classifier
    stored = network.state_dict()
    assert len(stored) == 320 - 2
    assert stored["layer1.0.downsample.0.weight"].shape == (256, 64, 1, 1)
    assert stored["layer3.5.conv3.weight"].shape == (1024, 256, 1, 1)
    assert (network.out_dim, network.maps_shape) == (2048, (2048, 7, 7))
    assert len(network.blocks) == 1 + 3 + 4 + 6 + 3
